"""A gateway's WebSockets in a process of their own that says what it holds: objects, files, tasks, memory.

`python -m tests.support.leaking` writes a line of JSON when it listens, then answers each line (a command) by one.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import json
import logging
import os
import sys
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import uvloop

from core.clock import SystemClock
from core.config import Config, Gateway
from core.errors import ParleyError
from core.events import Text
from core.ids import generation_id
from core.model import Accepted, Piece, Regenerate, Send
from core.model import Continue as Continued
from ext.ws import Hops, Limits, Listener, listen
from gateway.connection import Client
from gateway.dispatch import Supervisor
from gateway.hub import Answer
from gateway.identity import Identities, Identity
from gateway.live import Live
from gateway.transports.websocket import MESSAGE_BYTES, WRITE_MAX, WebSockets
from gateway.turns import Turns
from tests.support.turns import new_id, new_turn

PER_USER = 8
PER_ADDRESS = 4
FRAMES_AT_ONCE = 50
BALANCER = "127.0.0.9"
SHORT, LONG = 20, 40
PIECE = "x" * 30_000
DRAIN_S = 1.0
_PAGE = os.sysconf("SC_PAGE_SIZE")
_libc = ctypes.CDLL(None)


class Answers:
    """Two answers that run on, a short and a long one; a send waits for ever unless its text is `watch`."""

    def __init__(self) -> None:
        self.lives: dict[str, Live] = {}
        self.names: list[str] = []
        for pieces in (SHORT, LONG):
            turn = new_turn(new_id())
            name = generation_id(turn.key.conversation_id, turn.key.turn_id)
            supervisor = Supervisor(name, turn.key, "gw-1", iter(lambda: "run", "").__next__, 30.0)
            live = self.lives[name] = Live("u", supervisor, Answer(name))
            self.names.append(name)
            for seq in range(pieces):
                live.answer.on_text(
                    0.0, Text(name, 0, "r", seq, Piece("text", 0, PIECE if pieces == LONG else "word "))
                )

    async def open(self, user: str, frame: Send | Regenerate | Continued) -> tuple[Accepted, Live]:
        if not (isinstance(frame, Send) and frame.content == "watch"):
            await asyncio.get_running_loop().create_future()
        return Accepted(message_id="m", generation_id=self.names[0]), self.lives[self.names[0]]

    async def find(self, user: str, generation: str) -> Live:
        await asyncio.sleep(0)
        return self.lives[generation]

    def watch(self, live: Live, viewer: Client) -> None:
        live.viewers[viewer] = None
        viewer.changed(live.answer)

    def leave(self, generation: str, viewer: Client) -> None:
        self.lives[generation].viewers.pop(viewer, None)


class Callers:
    """Takes callers at their word: the bearer's token is the user. `slow...` is looked up, until `let_in`."""

    def __init__(self) -> None:
        self.let_in = asyncio.Event()

    def at_once(self, headers: Mapping[str, str], subprotocols: Sequence[str]) -> Identity | None:
        user = headers.get("authorization", "").removeprefix("Bearer ")
        if not user:
            raise ParleyError("unauthorized", "Who is there?")
        return None if user.startswith("slow") else self._identity(user)

    async def of_websocket(self, headers: Mapping[str, str], subprotocols: Sequence[str]) -> Identity:
        await self.let_in.wait()
        return self._identity(headers["authorization"].removeprefix("Bearer "))

    def _identity(self, user: str) -> Identity:
        return Identity(user_id=user, role="user", zone="eu", via="bearer", session_id=user)


class Present:
    """Presence that notes at once."""

    def __init__(self) -> None:
        self.here: set[str] = set()

    async def start(self, users: Collection[str]) -> None: ...

    async def stop(self) -> None: ...

    def note(self, user: str) -> None:
        self.here.add(user)

    def forget(self, user: str) -> None:
        self.here.discard(user)

    async def gateways(self, user: str) -> list[str]:
        return []


class Site:
    """The gateway's own listener, and three that let its clients in by other limits: `quick` has short deadlines,
    `full` admits a handshake in a thousand seconds, `behind` counts the addresses that a balancer tells.
    """

    def __init__(self) -> None:
        settings = Gateway(
            host="127.0.0.1",
            ws_port=0,
            own_ws_port=0,
            handshakes_per_s=0,
            connections_per_user=PER_USER,
            frames_at_once=FRAMES_AT_ONCE,
        )
        self.answers, self.callers, self.presence = Answers(), Callers(), Present()
        identities, turns = cast(Identities, self.callers), cast(Turns, self.answers)
        config = Config(gateway=settings)
        self.sockets = WebSockets(turns, identities, self.presence, SystemClock(), config, "gw-1")
        self.listeners: dict[str, Listener] = {}

    async def start(self) -> dict[str, Any]:
        await self.sockets.start()
        self.listeners["gateway"] = self.sockets._listeners[0]
        sizes: dict[str, Any] = {"message_bytes": MESSAGE_BYTES, "write_max": WRITE_MAX}
        quick = Limits(handshake_s=0.4, message_s=0.1, ping_s=0.3, pong_s=0.3, stuck_s=0.4, close_s=1.0, **sizes)
        full = Limits(handshakes_per_s=0.001, handshakes_at_once=1, close_s=1.0, **sizes)
        behind = Limits(connections_per_address=PER_ADDRESS, **sizes)
        hops = Hops([BALANCER], "proxy")
        for name, limits, before in (("quick", quick, Hops()), ("full", full, Hops()), ("behind", behind, hops)):
            self.listeners[name] = await listen(self.sockets._accept, "127.0.0.1", 0, limits, hops=before)
        ports = {name: listener.port for name, listener in self.listeners.items()}
        return {"ports": ports, "short": self.answers.names[0], "long": self.answers.names[1]}

    def held(self) -> dict[str, int]:
        """What must be nothing when nobody is connected."""
        clients = [client for user in self.sockets.users for client in self.sockets.of(user)]
        shared = [listener._shared for listener in cast(Any, self.listeners.values())]
        return {
            "connections": sum(listener.connections for listener in self.listeners.values()),
            "armed": sum(part.wheel.armed for part in shared),
            "authorising": sum(part.authorising for part in shared),
            "tasks": sum(len(part.tasks) for part in shared),
            "adopting": sum(len(listener._adopting) for listener in cast(Any, self.listeners.values())),
            "refusals": sum(len(listener._refusals) for listener in cast(Any, self.listeners.values())),
            "places": sum(len(listener._door) for listener in cast(Any, self.listeners.values())),
            "users": len(self.sockets.users),
            "clients": len(clients),
            "present": len(self.presence.here),
            "late": len(self.sockets._late),
            "viewers": sum(len(live.viewers) for live in self.answers.lives.values()),
            "served": sum(
                client._connection is not None and not client._connection.closing
                for client in clients
                if client.user_id.startswith("late")
            ),
            "behind": sum(client._behind is not None for client in clients),
            "working": sum(len(client._tasks or ()) for client in clients),
        }

    def weigh(self) -> dict[str, Any]:
        """What this process holds after a full collection: objects by type, blocks of Python's allocator, bytes."""
        gc.collect()
        if hasattr(_libc, "malloc_trim"):
            _libc.malloc_trim(0)
        blocks = sys.getallocatedblocks()
        types = Counter(f"{type(one).__module__}.{type(one).__qualname__}" for one in gc.get_objects())
        rss = int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE
        files, tasks = len(list(Path("/proc/self/fd").iterdir())), len(asyncio.all_tasks())
        return {"types": types, "blocks": blocks, "rss": rss, "files": files, "tasks": tasks}

    async def do(self, command: str) -> object:
        if command == "held":
            return self.held()
        if command == "weigh":
            return self.weigh()
        if command == "revoke":
            for user in [user for user in self.sockets.users if user.startswith("revoked")]:
                self.sockets.revoke(user, user, "unauthorized")
            return {}
        if command == "let in":
            self.callers.let_in.set()
            return {}
        assert command == "drain", command
        await self.sockets.drain(DRAIN_S)
        return self.held()


def _say(what: object) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


async def main() -> None:
    loop = asyncio.get_running_loop()
    site, reader = Site(), asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    _say(await site.start())
    doing: set[asyncio.Task[None]] = set()

    async def answer(command: str) -> None:
        _say({command: await site.do(command)})

    while line := await reader.readline():
        task = asyncio.create_task(answer(line.decode().strip()))
        doing.add(task)
        task.add_done_callback(doing.discard)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    uvloop.run(main())

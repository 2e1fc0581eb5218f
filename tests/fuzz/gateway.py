"""A gateway's client connections over loopback: changed frames against turns that refuse, wait, stream and end."""

from __future__ import annotations

import asyncio
import json
import random
import re
from pathlib import Path
from typing import Any, cast

from core.errors import TABLE, ParleyError
from core.model import Accepted, Continue, EndFrame, Regenerate, Send
from ext.ws import Accept, Limits, Listener, Request, listen
from gateway.connection import Client, Shared
from gateway.live import Live
from gateway.turns import Turns
from tests.fuzz.corpus import FRAME_WORDS, JSON_WORDS, MESSAGES
from tests.fuzz.listener import converse, frames_of
from tests.fuzz.mutations import mutate
from tests.support.websocket import BINARY, CLOSE, PONG, REQUEST, TEXT, client_frame
from tests.unit.gateway.test_connection import G, MemoryTurns

ANSWER_S = 10.0
REFUSALS = ("conflict", "busy", "not_found", "rate_limited", "unavailable", "unknown", "no_capacity", "internal")
_PROTOCOL = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
_LISTENER = (Path(__file__).parents[2] / "docs" / "websocket.md").read_text()
CLOSES = frozenset(int(code) for code in re.findall(r"^\| (\d{4}) \|", _PROTOCOL + _LISTENER, re.MULTILINE)) - {1011}
TYPES = frozenset(
    {"welcome", "accepted", "queued", "resumed", "delta", "snapshot", "restart", "done", "cancelled", "interrupted"}
    | {"failed", "error", "notice", "event", "pong", "drain"}
)


class _Turns(MemoryTurns):
    """One answer, as `MemoryTurns`; every request waits for some turns of the loop and may be refused."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self._rng = rng
        self.before = self._hesitate

    async def _hesitate(self) -> None:
        for _ in range(self._rng.randrange(4)):
            await asyncio.sleep(0)
        if self._rng.randrange(4) == 0:
            raise ParleyError(self._rng.choice(REFUSALS), "not now", retry_after_ms=100)
        if self._rng.randrange(2) and self.live.answer.end is None:
            self.text("some ", "words")
        if self._rng.randrange(12) == 0 and self.live.answer.end is None:
            self.end()

    async def find(self, user: str, generation: str) -> Live:
        if generation != G:
            raise ParleyError("not_found", "There is no such answer.")
        return await super().find(user, generation)

    async def open(self, user: str, frame: Send | Regenerate | Continue) -> tuple[Accepted, Live]:
        return await super().open(user, frame)

    async def cancel(self, user: str, generation: str) -> EndFrame:
        return await super().cancel(user, generation)


class Site:
    """A listener whose clients are the gateway's."""

    def __init__(self) -> None:
        self._rngs: dict[str, random.Random] = {}
        self.listener: Listener | None = None

    async def start(self) -> None:
        self.listener = await listen(self._accept, "127.0.0.1", 0, Limits(message_bytes=8192, close_s=20))

    def _accept(self, request: Request) -> Accept:
        turns = _Turns(self._rngs.pop(request.query))
        shared = Shared(cast(Turns, turns), lambda: ("gw-1.1", 5, 25.0, {}), lambda client: None)
        return Accept(Client("u", "s", shared))

    async def stop(self) -> int:
        """How many connections did not end by themselves."""
        assert self.listener is not None
        self.listener.stop_accepting()
        left = 0 if await self.listener.wait_left(5) else self.listener.connections
        await self.listener.wait_closed(0)
        return left

    async def talk(self, rng: random.Random) -> None:
        """One connection's life."""
        assert self.listener is not None
        name = str(rng.getrandbits(64))
        self._rngs[name] = random.Random(rng.getrandbits(64))
        said = REQUEST.replace(b"room=1", name.encode()) + _said(rng)
        async with asyncio.timeout(ANSWER_S):
            answer = await converse(rng, self.listener.port, said)
        if answer is not None:
            assert answer.startswith(b"HTTP/1.1 101 "), answer
            _check(list(frames_of(answer[answer.index(b"\r\n\r\n") + 4 :])))


def _said(rng: random.Random) -> bytes:
    data = b""
    for _ in range(rng.randrange(1, 12)):
        message = rng.choice(MESSAGES).replace(b"c~t", G.encode())
        if rng.randrange(4) == 0:  # most stay valid, so that connections live to see the rest
            message = mutate(rng, message, JSON_WORDS, most=2)
        data += client_frame(BINARY if rng.randrange(60) == 0 else TEXT, message)
    return mutate(rng, data, FRAME_WORDS, most=1) if rng.randrange(5) == 0 else data


def _check(told: list[tuple[int, object]]) -> None:
    kinds = [opcode for opcode, _ in told]
    assert CLOSE not in kinds[:-1], "something came after the close"
    for opcode, said in told:
        if opcode == CLOSE:
            assert said in CLOSES or said in (1000, 1005) or cast(int, said) >= 3000, said
            assert said != 1011
        elif opcode != PONG:
            assert opcode == TEXT
            _check_frame(json.loads(cast(str, said)))
    if told:
        assert json.loads(cast(str, told[0][1]))["type"] == "welcome"


def _check_frame(frame: dict[str, Any]) -> None:
    assert frame["type"] in TYPES, frame
    if frame["type"] == "error":
        assert frame["code"] in TABLE, frame
        assert frame["message"]
        assert frame["retryable"] is TABLE[frame["code"]].retryable, frame

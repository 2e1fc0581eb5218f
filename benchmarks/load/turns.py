"""Turns over WebSockets, each begun when it is due, in a conversation of its own."""

from __future__ import annotations

import time
from typing import Any

import msgspec

from benchmarks.load.chunks import question
from benchmarks.load.pacer import Pacer
from benchmarks.load.peer import Peer
from benchmarks.load.streams import Stream, Streams
from benchmarks.load.websocket import Socket
from core.ids import uuid7


class Plan(msgspec.Struct, frozen=True):
    """Turn `n` goes over socket `n % len(tokens)`, in `conversations[n]`; socket `m` is opened at
    `ports[m % len(ports)]` with `tokens[m]`. The seed of its answer is `n`.
    """

    ports: list[int]
    tokens: list[str]
    conversations: list[str]
    deltas: int
    delay_ms: float
    interval_s: float
    settle_s: float


class _Frame(msgspec.Struct):
    """Any frame of the server's, as far as it is read here."""

    type: str
    message_id: str = ""
    generation_id: str | None = None
    g: str = ""
    n: int = -1
    d: str = ""
    seq: int = -1
    code: str | None = None
    message: str | None = None


_decode = msgspec.json.Decoder(_Frame).decode
_ENDS = frozenset({"done", "cancelled", "interrupted", "failed"})


class _Turns:
    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._sockets: list[Socket] = []
        self._waiting: dict[str, Stream] = {}
        self._running: dict[str, Stream] = {}
        self.streams = Streams(len(plan.conversations))

    async def open(self) -> None:
        for number, token in enumerate(self._plan.tokens):
            port = self._plan.ports[number % len(self._plan.ports)]
            self._sockets.append(await Socket.open(port, token, self._take))

    def fire(self, number: int, due: float) -> None:
        message_id = uuid7(time.time_ns() // 1_000_000)
        self._waiting[message_id] = self.streams.begin(number, due)
        frame = {
            "type": "send",
            "message_id": message_id,
            "conversation_id": self._plan.conversations[number],
            "content": question(number, self._plan.deltas, self._plan.delay_ms),
        }
        self._sockets[number % len(self._sockets)].send(msgspec.json.encode(frame))

    def _take(self, message: bytes) -> None:
        frame = _decode(message)
        if frame.type == "delta":
            self._running[frame.g].add(frame.d)
        elif frame.type == "accepted":
            assert frame.generation_id is not None
            stream = self._running[frame.generation_id] = self._waiting.pop(frame.message_id)
            stream.accept()
        elif frame.type == "error":
            stream = self._waiting.pop(frame.message_id)
            self.streams.end(stream, f"error {frame.code}: {frame.message}")
        elif frame.type in _ENDS and frame.generation_id in self._running:
            stream = self._running.pop(frame.generation_id)
            self.streams.end(stream, "" if frame.type == "done" else f"{frame.type} {frame.code}: {frame.message}")

    def close(self) -> list[str]:
        """What was lost before."""
        lost = [f"a connection: {socket.lost}" for socket in self._sockets if socket.lost]
        for socket in self._sockets:
            socket.close()
        return lost


async def run(peer: Peer, plan: Any) -> None:
    """Opens the sockets and says so; at a word sends all turns and says what became of them (`Told`)."""
    given = msgspec.convert(plan, Plan)
    turns = _Turns(given)
    await turns.open()
    peer.say(open=len(given.tokens))
    await peer.hear()
    turns.streams = Streams(len(given.conversations))
    pacer = Pacer(len(given.conversations), given.interval_s, turns.fire)
    await pacer.run()
    await turns.streams.settle(given.settle_s)
    turns.streams.tell(peer, pacer.late)
    await peer.hear()
    peer.say(lost=turns.close())

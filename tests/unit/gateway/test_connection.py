"""One client's connection: what it writes and when, what becomes of its frames, and what it leaves behind."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from core.errors import ParleyError
from core.events import Text
from core.ids import generation_id
from core.model import Accepted, Continue, EndFrame, Event, Notice, Piece, Queued, Regenerate, Send, end_frame
from ext.ws import Connection
from gateway.connection import MAX_KEPT, Client, Shared
from gateway.dispatch import Supervisor
from gateway.hub import Answer
from gateway.live import Live
from gateway.turns import Turns
from tests.support.polling import eventually
from tests.support.turns import new_end, new_id, new_turn
from tests.support.websocket import payload_of

OPENED = new_turn(new_id())
G = generation_id(OPENED.key.conversation_id, OPENED.key.turn_id)
SEND = {"type": "send", "conversation_id": "c", "content": "hello", "message_id": "m"}
RESUME = {"type": "resume", "generation_id": G, "epoch": 0, "seq": -1}
CANCEL = {"type": "cancel", "generation_id": G}
END = new_end(OPENED, seq=0)


class Socket:
    """The connection as the client's handler sees it. Blocks once `room` messages were taken."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.closed: list[tuple[int, str]] = []
        self.buffered = 0
        self.room = 1_000_000
        self.handler: Client | None = None
        self.reading = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def send_text(self, message: bytes) -> None:
        self.sent.append(json.loads(message))
        self.room -= 1
        if self.room == 0 and self.handler is not None:
            self.handler.pause_writing()

    def send_encoded(self, frames: bytes) -> None:
        self.send_text(payload_of(frames))

    def close(self, code: int, reason: str) -> None:
        self.closed.append((code, reason))

    def types(self) -> list[str]:
        return [frame["type"] for frame in self.sent]


class MemoryTurns:
    """One answer that every request opens, finds or cancels; `before` runs first and may wait or refuse."""

    def __init__(self) -> None:
        names = iter(())
        self.live = Live("u", Supervisor(G, OPENED.key, "gw-1", lambda: next(names, "run"), 30.0), Answer(G))
        self.before: Callable[[], Awaitable[None]] | None = None
        self.cancelled_waits = 0
        self.left: list[str] = []
        self.users: set[str] = set()

    async def _begin(self, user: str) -> None:
        self.users.add(user)
        try:
            if self.before is not None:
                await self.before()
        except asyncio.CancelledError:
            self.cancelled_waits += 1
            raise

    async def open(self, user: str, frame: Send | Regenerate | Continue) -> tuple[Accepted, Live]:
        await self._begin(user)
        return Accepted(message_id=OPENED.key.turn_id, generation_id=G), self.live

    async def find(self, user: str, generation: str) -> Live:
        await self._begin(user)
        assert generation == G
        return self.live

    async def cancel(self, user: str, generation: str) -> EndFrame:
        await self._begin(user)
        return end_frame(generation, END)

    def watch(self, live: Live, viewer: Client) -> None:
        live.viewers[viewer] = None
        viewer.changed(live.answer)

    def leave(self, generation: str, viewer: Client) -> None:
        self.left.append(generation)
        self.live.viewers.pop(viewer, None)

    def text(self, *deltas: str) -> None:
        """The router's next deltas, each told as it comes."""
        for d in deltas:
            self.live.answer.on_text(0.0, Text(G, 0, "r", self.live.answer.last + 1, Piece("text", 0, d)))
            self.live.tell()

    def end(self) -> None:
        self.live.answer.on_end(new_end(OPENED, seq=self.live.answer.last))
        self.live.tell()


class Bench:
    """An open connection of user `u`."""

    def __init__(self, crowded: bool = False) -> None:
        self.socket, self.turns, self.gone = Socket(), MemoryTurns(), list[Client]()
        shared = Shared(cast(Turns, self.turns), lambda: ("gw-1.1", 5, 25.0, {}), self.gone.append)
        self.client = Client("u", "s", shared, crowded)
        self.socket.handler = self.client

    def say(self, frame: object) -> None:
        self.client.on_text(json.dumps(frame))

    async def watching(self) -> None:
        """A send was accepted and its answer is watched."""
        self.say(SEND)
        await eventually(lambda: self.turns.live.viewers)


@asynccontextmanager
async def opened() -> AsyncIterator[Bench]:
    bench = Bench()
    bench.client.on_open(cast(Connection, bench.socket))
    yield bench
    if not bench.gone:
        bench.client.on_close(1000, "")
    assert bench.gone == [bench.client]
    assert bench.turns.live.viewers == {}


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with opened() as found:
        yield found


# --- frames -------------------------------------------------------------------------------------------------------


async def test_the_first_frame_is_the_welcome(bench: Bench) -> None:
    (welcome,) = bench.socket.sent
    assert (welcome["type"], welcome["user"], welcome["connection_id"]) == ("welcome", "u", "gw-1.1")


async def test_an_answer_from_accepted_to_its_end(bench: Bench) -> None:
    bench.turns.text("so ")
    await bench.watching()
    bench.turns.text("far")
    bench.turns.end()
    assert bench.socket.types() == ["welcome", "accepted", "delta", "delta", "done"]
    assert [frame.get("d") for frame in bench.socket.sent[2:4]] == ["so ", "far"]
    assert bench.turns.left == [G]
    assert bench.turns.users == {"u"}


async def test_a_resume_is_answered_from_its_address(bench: Bench) -> None:
    bench.turns.text("a", "b")
    bench.say(RESUME | {"seq": 0})
    await eventually(lambda: bench.turns.live.viewers)
    assert bench.socket.types() == ["welcome", "resumed", "delta"]
    assert bench.socket.sent[-1]["d"] == "b"


async def test_a_cancel_is_answered_by_the_stored_end(bench: Bench) -> None:
    bench.say(CANCEL)
    await eventually(lambda: len(bench.socket.sent) == 2)
    assert (bench.socket.sent[-1]["type"], bench.socket.sent[-1]["generation_id"]) == ("done", G)


@pytest.mark.parametrize("frame", [SEND, RESUME, CANCEL])
async def test_a_refusal_is_told_with_the_ids_of_its_frame(bench: Bench, frame: dict[str, Any]) -> None:
    async def refuse() -> None:
        raise ParleyError("quota", "spent", retry_after_ms=70)

    bench.turns.before = refuse
    bench.say(frame)
    await eventually(lambda: len(bench.socket.sent) == 2)
    told = bench.socket.sent[-1]
    assert (told["type"], told["code"], told["retry_after_ms"]) == ("error", "quota", 70)
    assert (told["message_id"], told["generation_id"]) == (frame.get("message_id"), frame.get("generation_id"))


async def test_a_failure_of_ours_is_logged_and_told_as_internal(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        raise RuntimeError("a secret of the house")

    bench.turns.before = fail
    with caplog.at_level(logging.ERROR):
        bench.say(SEND)
        await eventually(lambda: len(bench.socket.sent) == 2)
    told = bench.socket.sent[-1]
    assert (told["code"], told["message_id"], told["retryable"]) == ("internal", "m", True)
    assert "secret" not in told["message"]
    assert "a secret of the house" in caplog.text


async def test_frames_are_carried_out_side_by_side(bench: Bench) -> None:
    gate = asyncio.Event()

    async def wait() -> None:
        await gate.wait()

    bench.turns.before = wait
    bench.say(SEND)
    bench.say({"type": "ping", "t": 7})
    assert bench.socket.sent[-1] == {"type": "pong", "t": 7}
    gate.set()
    await eventually(lambda: bench.turns.live.viewers)


async def test_what_is_no_frame_closes_the_connection(bench: Bench) -> None:
    bench.client.on_binary(b"\0")
    assert bench.socket.sent[-1]["code"] == "malformed"
    assert bench.socket.closed == [(4400, "malformed")]
    bench.say({"type": "ping", "t": 7})
    assert bench.socket.types() == ["welcome", "error"]


async def test_a_flood_of_frames_is_told_when_to_come_back_and_closed_with_4429(bench: Bench) -> None:
    bench.client.on_overrun("frames", 4_000)
    bench.say({"type": "ping", "t": 1})
    (error,) = (frame for frame in bench.socket.sent if frame["type"] == "error")
    assert (error["code"], error["retryable"]) == ("rate_limited", True)
    assert error["retry_after_ms"] == 4_000
    ((code, reason),) = bench.socket.closed
    assert (code, "retry_after_ms=4000" in reason) == (4429, True)
    assert bench.socket.sent[-1] == error


async def test_a_connection_too_many_is_told_when_to_come_back_and_closed() -> None:
    bench = Bench(crowded=True)
    bench.client.on_open(cast(Connection, bench.socket))
    (error,) = bench.socket.sent
    assert (error["type"], error["code"]) == ("error", "rate_limited")
    ((code, reason),) = bench.socket.closed
    assert (code, str(error["retry_after_ms"]) in reason) == (4429, True)


# --- a slow reader ------------------------------------------------------------------------------------------------


async def test_a_slow_reader_holds_its_place_and_gets_fewer_and_longer_deltas(bench: Bench) -> None:
    await bench.watching()
    bench.turns.text("a")
    bench.client.pause_writing()
    bench.turns.text(*"bcdef")
    bench.turns.end()
    assert bench.socket.types() == ["welcome", "accepted", "delta"]
    bench.client.resume_writing()
    assert bench.socket.types() == ["welcome", "accepted", "delta", "delta", "done"]
    assert (bench.socket.sent[3]["d"], bench.socket.sent[3]["n"]) == ("bcdef", 5)


async def test_writing_stops_in_the_middle_when_the_socket_is_full(bench: Bench) -> None:
    await bench.watching()
    bench.client.pause_writing()
    long = "x" * 20_000
    bench.turns.text(long, long, long)
    bench.turns.end()
    for _ in range(4):
        sent = len(bench.socket.sent)
        bench.socket.room = 1
        bench.client.resume_writing()
        assert len(bench.socket.sent) == sent + 1
    assert bench.socket.types()[2:] == ["delta", "delta", "delta", "done"]
    bench.client.resume_writing()
    assert bench.turns.left == [G], "the end was the last that the socket took; the view ends all the same"


async def test_of_what_a_slow_reader_could_not_be_told_it_gets_the_last(bench: Bench) -> None:
    await bench.watching()
    bench.client.pause_writing()
    for number in range(3):
        bench.client.queued(Queued(generation_id=G, position=number, eta_s=1.0))
        bench.client.notice(Notice(code="degraded", message=str(number), generation_id=G))
        bench.client.event(Event(name="conversation.updated", data={}))
    bench.turns.text("a")
    bench.say({"type": "ping", "t": 1})
    assert not bench.socket.reading
    assert bench.socket.types() == ["welcome", "accepted", "pong"], (
        "of its own frames those that were read are answered"
    )
    bench.client.resume_writing()
    event, queued, notice, delta = bench.socket.sent[3:]
    assert (event["name"], queued["position"], notice["message"], delta["d"]) == ("missed", 2, "2", "a")
    assert bench.socket.reading


async def test_who_is_still_behind_is_not_read(bench: Bench) -> None:
    bench.client.pause_writing()
    bench.say({"type": "ping", "t": 1})
    bench.client.event(Event(name="conversation.updated", data={}))
    for number in range(1000):
        bench.client.notice(Notice(code="degraded", message="slow", generation_id=str(number)))
    bench.socket.room = 1
    bench.client.resume_writing()
    assert bench.socket.types() == ["welcome", "pong", "event"]
    assert not bench.socket.reading
    bench.client.resume_writing()
    assert bench.socket.types() == ["welcome", "pong", "event"] + ["notice"] * MAX_KEPT
    assert bench.socket.reading


# --- what the gateway says ----------------------------------------------------------------------------------------


async def test_the_gateway_tells_what_concerns_the_client(bench: Bench) -> None:
    queued = Queued(generation_id=G, position=1, eta_s=2.0)
    bench.client.queued(queued)
    await bench.watching()
    bench.client.queued(queued)
    bench.client.notice(Notice(code="degraded", message="slow"))
    bench.client.drain(250)
    assert bench.socket.types() == ["welcome", "accepted", "queued", "notice", "drain"]
    bench.client.close(4401, "unauthorized")
    assert bench.socket.closed == [(4401, "unauthorized")]
    bench.turns.text("late")
    bench.client.notice(Notice(code="degraded", message="slow"))
    assert len(bench.socket.sent) == 5


# --- leaving ------------------------------------------------------------------------------------------------------


async def test_who_leaves_is_forgotten_and_the_answer_goes_on() -> None:
    async with opened() as bench:
        await bench.watching()
        bench.client.on_close(1006, "")
        assert bench.turns.left == [G]
        bench.turns.text("to nobody")
        bench.client.changed(bench.turns.live.answer)
        assert bench.socket.types() == ["welcome", "accepted"]


async def test_a_request_under_way_ends_with_its_connection() -> None:
    async with opened() as bench:
        gate = asyncio.Event()

        async def wait() -> None:
            await gate.wait()

        bench.turns.before = wait
        for frame in (SEND, RESUME, CANCEL):
            bench.say(frame)
        await eventually(lambda: bench.turns.users)
        bench.client.on_close(1001, "")
        await eventually(lambda: bench.turns.cancelled_waits == 3)
        assert bench.socket.types() == ["welcome"]

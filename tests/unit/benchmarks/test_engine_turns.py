"""The load engine's turns: what it takes from frames as core/model.py writes them, through losses and restarts."""

from __future__ import annotations

import asyncio
import struct

import msgspec
import pytest

from benchmarks.native.engine import Engine
from benchmarks.native.latency import Latencies, fnv1a
from benchmarks.native.upgrade import ACCEPT, upgrade
from core.model import Accepted, Delta, Done, Drain, ErrorFrame, Part, Restart, Resumed, ServerFrame, Snapshot, Usage
from tests.unit.benchmarks.conftest import Served
from tests.unit.benchmarks.wire import frame, shake_hands, take_frame

GENERATION = "0198f9a2-0000-7000-8000-000000000000~0198f9a2-0000-7000-8000-000000000001"
SEND = msgspec.json.encode({"type": "send", "message_id": "m", "conversation_id": "c", "content": 'say "no"'})
PIECES = ['He said "no\\yes"', " — ünïcödé\n", "🙂 and \u2028 the end"]
TEXT = "".join(PIECES)


def _frame(message: ServerFrame) -> bytes:
    return frame(msgspec.json.encode(message))


def _delta(n: int, text: str, epoch: int = 1, **kwargs: str) -> bytes:
    return _frame(Delta(g=GENERATION, e=epoch, n=n, d=text, **kwargs))  # type: ignore[arg-type]  # a kind of part


def _done(seq: int, epoch: int = 1) -> bytes:
    return _frame(
        Done(
            generation_id=GENERATION, epoch=epoch, seq=seq, finish_reason="stop", usage=Usage(1, 2), cost=3, model="m",
            provider="p",
        )
    )  # fmt: skip


ACCEPTED = _frame(Accepted(message_id="m", generation_id=GENERATION))


def _hash(text: str) -> int:
    """Of the text as it stands between quotes in JSON."""
    return fnv1a(msgspec.json.encode(text)[1:-1])


def _ask(engine: Engine, port: int, turns: int = 1, timeout_s: float = 10.0, ports: tuple[int, ...] = ()) -> None:
    sockets = engine.prepare([("127.0.0.1", port)], [upgrade()], accept=ACCEPT)
    if ports:
        engine.come_back([("127.0.0.1", each) for each in ports], within_ms=20)
    engine.open(sockets)
    assert engine.run(10)
    engine.turns([SEND] * turns, sockets, timeout_s=timeout_s)
    assert engine.run(10)


def test_a_turn_from_end_to_end(engine: Engine, served: Served) -> None:
    asked = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await shake_hands(reader, writer)
        while True:
            asked.append((await take_frame(reader))[1])
            writer.write(ACCEPTED + _delta(0, PIECES[0]) + _delta(1, "hm", k="reasoning"))
            await writer.drain()
            for byte in _delta(2, PIECES[1]) + _delta(4, PIECES[2]):
                writer.write(bytes((byte,)))
                await writer.drain()
            writer.write(_done(4))

    _ask(engine, served(answer), turns=3)
    told = engine.statistics()
    assert asked == [SEND] * 3
    assert (told["turns"], told["deltas"], told["jumps"], told["holes"]) == ({"done": 3}, 12, 3, 0)
    for number in range(3):
        turn = engine.turn(number)
        assert (turn["state"], turn["generation"], turn["epoch"], turn["seq"]) == ("done", GENERATION, 1, 4)
        assert (turn["fnv"], turn["chars"]) == (_hash(TEXT), len(msgspec.json.encode(TEXT)) - 2)
    counts = {name: Latencies(table).count for name, table in engine.histograms().items()}
    assert counts == {"handshake": 1, "accepted": 3, "first": 3, "end": 3}


def test_repeats_holes_and_turns_of_others_are_counted(engine: Engine, served: Served) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await shake_hands(reader, writer)
        await take_frame(reader)
        other = _frame(Delta(g="another", e=1, n=0, d="x"))
        writer.write(ACCEPTED + _delta(0, "a") + _delta(0, "a") + other + _done(7))
        await reader.read()

    _ask(engine, served(answer))
    told = engine.statistics()
    assert (told["repeats"], told["holes"], told["foreign"], told["turns"]) == (1, 1, 1, {"done": 1})


def test_a_restart_drops_the_text(engine: Engine, served: Served) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await shake_hands(reader, writer)
        await take_frame(reader)
        restart = _frame(Restart(generation_id=GENERATION, epoch=3, reason="lost"))
        writer.write(ACCEPTED + _delta(0, "wrong") + restart + _delta(0, TEXT, epoch=3) + _delta(1, "old"))
        writer.write(_done(0, epoch=3))
        await reader.read()

    _ask(engine, served(answer))
    turn = engine.turn(0)
    assert (turn["epoch"], turn["seq"], turn["fnv"], turn["holes"]) == (3, 0, _hash(TEXT), 0)


def test_an_error_before_accepted_ends_it(engine: Engine, served: Served) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await shake_hands(reader, writer)
        await take_frame(reader)
        writer.write(_frame(ErrorFrame(code="rate_limited", message="slower", retryable=True, retry_after_ms=50)))
        await reader.read()

    _ask(engine, served(refuse))
    told = engine.statistics()
    assert told["turns"] == {"error": 1}
    assert told["errors"]["rate_limited"]["count"] == 1
    assert '"retry_after_ms":50' in told["errors"]["rate_limited"]["sample"]
    assert engine.turn(0)["code"] == "rate_limited"


def test_a_turn_that_never_ends_is_given_up(engine: Engine, served: Served) -> None:
    async def accept_only(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await shake_hands(reader, writer)
        writer.write(ACCEPTED)
        await reader.read()

    _ask(engine, served(accept_only), turns=2, timeout_s=0.2)
    assert engine.statistics()["turns"] == {"timeout": 2}


@pytest.mark.parametrize("how", ["resumed", "snapshot"])
def test_who_is_cut_off_comes_back_elsewhere_and_goes_on(engine: Engine, served: Served, how: str) -> None:
    async def killed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await shake_hands(reader, writer)
        await take_frame(reader)
        writer.write(ACCEPTED + _delta(0, PIECES[0]))
        await writer.drain()
        writer.transport.abort() if how == "snapshot" else writer.close()

    resumes = []

    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await shake_hands(reader, writer)
        resumes.append(msgspec.json.decode((await take_frame(reader))[1]))
        if how == "resumed":
            place = resumes[0]["seq"]
            writer.write(_frame(Resumed(generation_id=GENERATION, epoch=1, seq=place)))
            writer.write(b"".join(_delta(n, PIECES[n]) for n in range(place + 1, 3)))
        else:
            parts = [[Part(0, "text", PIECES[0]), Part(0, "reasoning", "hm")], [Part(0, "text", PIECES[1])]]
            for at, piece in zip((0, 16), parts, strict=True):
                more = at == 0
                writer.write(_frame(Snapshot(generation_id=GENERATION, epoch=1, seq=1, at=at, parts=piece, more=more)))
            writer.write(_delta(2, PIECES[2]))
        writer.write(_done(2))
        await reader.read()

    port = served(other)
    _ask(engine, served(killed), ports=(port, port))
    told = engine.statistics()
    assert resumes[0]["type"] == "resume"
    assert (resumes[0]["generation_id"], resumes[0]["seq"] in (-1, 0)) == (GENERATION, True)
    assert (told["turns"], told["back"]) == ({"done": 1}, 1)
    assert sum(told["closes"].values()) + told["resets"] == 1
    assert engine.turn(0)["fnv"] == _hash(TEXT)
    counts = {name: Latencies(table).count for name, table in engine.histograms().items()}
    assert (counts["back"], counts["resumed"]) == (1, 1)


def test_drain_is_followed(engine: Engine, served: Served) -> None:
    left = []

    async def draining(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await shake_hands(reader, writer)
        writer.write(_frame(Drain(reconnect_after_ms=30)))
        left.append(await take_frame(reader))

    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await shake_hands(reader, writer)
        await reader.read()

    port = served(other)
    sockets = engine.prepare([("127.0.0.1", served(draining))], [upgrade()], accept=ACCEPT)
    engine.come_back([("127.0.0.1", port)], within_ms=10_000)
    engine.open(sockets)
    for _ in range(100):
        engine.run(0.05, until="time")
        if engine.statistics()["back"]:
            break
    told = engine.statistics()
    assert (told["left"], told["back"], told["closes"]) == (1, 1, {})
    assert left == [(8, struct.pack("!H", 1000))]
    assert Latencies(engine.histogram("back")).highest < 5000


def test_who_finds_one_gateway_dead_comes_back_at_the_next(engine: Engine, served: Served) -> None:
    async def killed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await shake_hands(reader, writer)
        await take_frame(reader)

    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await shake_hands(reader, writer)
        assert (await take_frame(reader))[1] == SEND, "it had not been accepted: the same again"
        writer.write(ACCEPTED + _delta(0, TEXT) + _done(0))
        await reader.read()

    engine.retry(attempts=4, delay_ms=10)
    _ask(engine, served(killed), ports=(served(other), 1, 1))
    told = engine.statistics()
    assert (told["back"], told["turns"]) == (1, {"done": 1})
    assert 1 <= told["failures"]["errno"]["ECONNREFUSED"] <= 2

"""The load engine over WebSockets: what it opens, sends, matches, counts and ends."""

from __future__ import annotations

import asyncio
import os
import signal
import struct
import threading
import time

import pytest

from benchmarks.native.engine import Engine
from benchmarks.native.latency import Latencies
from benchmarks.native.upgrade import ACCEPT, loopback, proxy_v2, upgrade
from tests.unit.benchmarks.conftest import Served
from tests.unit.benchmarks.wire import SWITCH, frame, shake_hands, take_frame

PING = b'{"type":"ping","t":1000000000000000000}'


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await shake_hands(reader, writer)
    while True:
        opcode, payload = await take_frame(reader)
        writer.write(frame(payload, opcode))
        if opcode == 8:
            return


def _open(engine: Engine, port: int, count: int = 4) -> range:
    sockets = engine.prepare([("127.0.0.1", port)], [upgrade()], count=count, accept=ACCEPT, timeout_s=5)
    engine.open(sockets, at_once=16)
    assert engine.run(10)
    assert engine.states(sockets) == {"open": count}
    return sockets


def test_every_paced_send_is_answered_and_counted(engine: Engine, served: Served) -> None:
    sockets = _open(engine, served(_echo), 8)
    engine.reset()
    engine.stamps(b'"t":')
    began = time.monotonic()
    engine.send(sockets, PING, rate=2000, count=400, stamp_at=19, answer=b'{"type":"ping"')
    assert engine.run(10)
    assert time.monotonic() - began > 399 / 2000
    told = engine.statistics()
    assert (told["sent"], told["answered"], told["unanswered"], told["frames_in"]) == (400, 400, 0, 400)
    counts = {name: Latencies(table).count for name, table in engine.histograms().items()}
    assert counts == {"answer": 400, "late": 400, "stamped": 400}
    # The stamp is the moment at which the frame was due: both histograms tell the same.
    assert engine.histogram("answer") == engine.histogram("stamped")


def test_a_server_that_is_late_is_late_from_the_moment_a_send_was_due(engine: Engine, served: Served) -> None:
    async def stuck(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await shake_hands(reader, writer)
        await take_frame(reader)
        await asyncio.sleep(0.3)  # the pause is what is measured
        writer.write(frame(b"x"))
        while True:
            await take_frame(reader)
            writer.write(frame(b"x"))

    sockets = _open(engine, served(stuck), 1)
    engine.send(sockets, b"x", rate=100, count=30)
    assert engine.run(10)
    answers = Latencies(engine.histogram("answer"))
    # 30 are due within the pause of 300 ms: their median waited for about half of it.
    assert answers.at(50) > 100
    assert answers.highest >= 300


def test_closed_loops_keep_to_their_bound(engine: Engine, served: Served) -> None:
    most = 0
    waiting = 0

    async def held(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal most, waiting
        await shake_hands(reader, writer)
        while True:
            await take_frame(reader)
            waiting += 1
            most = max(most, waiting)
            await asyncio.sleep(0)
            waiting -= 1
            writer.write(frame(b"y"))

    sockets = _open(engine, served(held), 8)
    engine.send(sockets, b"x", count=200, at_once=3)
    assert engine.run(10)
    assert engine.statistics()["answered"] == 200
    assert 1 <= most <= 3


def test_an_answer_that_never_comes_is_counted_and_bounded(engine: Engine, served: Served) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await shake_hands(reader, writer)
        await reader.read()

    sockets = _open(engine, served(silent))
    began = time.monotonic()
    engine.send(sockets, b"x", count=5, timeout_s=0.2)
    assert engine.run(10)
    assert time.monotonic() - began < 5
    assert engine.statistics()["unanswered"] == 5


def test_failed_handshakes_are_told_by_kind(engine: Engine, served: Served) -> None:
    async def wrong(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).split()[1]
        if path == b"/silent":
            await reader.read()
        answers = {
            b"/401": b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n",
            b"/accept": SWITCH.replace(ACCEPT[:4], b"AAAA"),
            b"/garbage": b"what?\r\n\r\n",
        }
        writer.write(answers.get(path, b""))

    target = [("127.0.0.1", served(wrong))]
    paths = ["/401", "/accept", "/garbage", "/gone"]
    sockets = engine.prepare(target, [upgrade(path) for path in paths], accept=ACCEPT)
    silent = engine.prepare(target, [upgrade("/silent")], timeout_s=0.3)
    refused = engine.prepare([("127.0.0.1", 1)], [upgrade()])
    engine.open([*sockets, *silent, *refused])
    assert engine.run(10)
    failures = engine.statistics()["failures"]
    samples = failures.pop("samples")
    assert failures == {"http": {"401": 1}, "errno": {"ECONNREFUSED": 1}, "timeout": 1, "answer": 2, "cut_off": 1}
    assert any("401 Unauthorized" in text for text in samples)
    assert [engine.connection(number)["status"] for number in sockets] == [401, 101, 0, 0]
    assert engine.states([*sockets, *silent, *refused]) == {"closed": 6}


def test_a_refusal_is_tried_again_when_it_says_so(engine: Engine, served: Served) -> None:
    tries = 0

    async def busy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal tries
        tries += 1
        if tries > 2:
            await _echo(reader, writer)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 9\r\nretry-after-ms: 150\r\n\r\n")

    engine.retry(attempts=5, jitter=0)
    sockets = engine.prepare([("127.0.0.1", served(busy))], [upgrade()], accept=ACCEPT)
    engine.open(sockets)
    assert engine.run(10)
    told = engine.statistics()
    assert (told["opened"], told["retries"], told["failures"]["http"]) == (1, 2, {"503": 2})
    assert told["retry_after"] == {"seen": 2, "least_ms": 150, "most_ms": 150}
    assert Latencies(engine.histogram("handshake")).highest >= 300, "the latency holds all attempts"


def test_where_a_connection_comes_from_and_what_it_says_first(engine: Engine, served: Served) -> None:
    seen: list[tuple[str, bytes]] = []

    async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append((writer.get_extra_info("peername")[0], await reader.readexactly(28)))
        await _echo(reader, writer)

    header = proxy_v2("203.0.113.9", 5555, "192.0.2.1", 443)
    sockets = engine.prepare(
        [("127.0.0.1", served(note))], [header + upgrade()], count=6, sources=loopback(3), accept=ACCEPT
    )
    engine.open(sockets, rate=200)
    assert engine.run(10)
    assert sorted(seen) == sorted((address, header) for address in loopback(3) for _ in range(2))
    assert header[:16] == b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c"


@pytest.mark.parametrize("how", ["close", "fin", "rst", "half", "mid-frame", "abandon"])
def test_every_way_to_end(engine: Engine, served: Served, how: str) -> None:
    ends: list[str] = []

    async def watch(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await shake_hands(reader, writer)
        try:
            rest = await reader.read()
        except ConnectionError:
            ends.append("reset")
            return
        ends.append("close frame" if rest[:1] == b"\x88" else "half a frame" if rest else "end")
        if ends == ["close frame"]:
            writer.write(frame(struct.pack("!H", 1000), 8))

    async def answer_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await shake_hands(reader, writer)
        ends.append({8: "close frame"}[(await take_frame(reader))[0]])
        writer.write(frame(struct.pack("!H", 1000), 8))

    sockets = _open(engine, served(answer_close if how == "close" else watch), 1)
    engine.end(sockets, how)  # type: ignore[arg-type]  # the parameter is one of `Ending`
    until = time.monotonic() + 5
    while not ends and time.monotonic() < until:
        engine.run(0.02, until="time")
    ways = {"close": "close frame", "rst": "reset", "abandon": "reset", "mid-frame": "half a frame"}
    assert ends == [ways.get(how, "end")]
    while engine.states(sockets) != {"closed": 1} and time.monotonic() < until:
        engine.run(0.02, until="time")
    assert engine.statistics()["left"] == 1
    assert engine.states(sockets) == {"closed": 1}


def test_closes_pings_and_resets_of_the_server(engine: Engine, served: Served) -> None:
    number = 0

    async def leave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal number
        number += 1
        mine = number
        await shake_hands(reader, writer)
        if mine == 1:
            writer.write(frame(b"are you there", 9))
            assert await take_frame(reader) == (10, b"are you there")
            writer.write(frame(struct.pack("!H", 4408) + b"silent", 8))
            assert (await take_frame(reader))[0] == 8
        elif mine == 2:
            writer.transport.abort()

    sockets = engine.prepare([("127.0.0.1", served(leave))], [upgrade()], count=3, accept=ACCEPT)
    for socket in sockets:
        engine.open([socket])
        assert engine.run(10)
    until = time.monotonic() + 5
    while engine.states(sockets) != {"closed": 3} and time.monotonic() < until:
        engine.run(0.02, until="time")
    told = engine.statistics()
    assert told["pings"] == 1
    assert told["closes"].pop("4408") == 1
    assert sum(told["closes"].values()) + told["resets"] == 2
    assert engine.connection(sockets[0])["code"] == 4408


def test_who_stops_reading_reads_all_of_it_later(engine: Engine, served: Served) -> None:
    stuck = asyncio.Event()

    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await shake_hands(reader, writer)
        await take_frame(reader)
        for _ in range(200):
            writer.write(frame(b"z" * 10_000))
            if writer.transport.get_write_buffer_size() > 100_000:
                stuck.set()
            await writer.drain()
        await reader.read()

    port = served(pour)
    sockets = engine.prepare([("127.0.0.1", port)], [upgrade()], accept=ACCEPT, rcvbuf=8192)
    engine.open(sockets)
    assert engine.run(10)
    engine.stop_reading(sockets)
    engine.send(sockets, b"go", count=1, answer=None)
    assert engine.run(10)
    engine.run(0.2, until="time")
    assert engine.connection(0)["frames"] == 0
    engine.read_on(sockets)
    until = time.monotonic() + 10
    while engine.connection(0)["frames"] < 200 and time.monotonic() < until:
        engine.run(0.05, until="time")
    assert engine.connection(0)["frames"] == 200
    assert engine.statistics()["bytes_in"] > 200 * 10_000


def test_a_signal_ends_a_run(engine: Engine, served: Served) -> None:
    class Stopped(Exception):
        pass

    def stop(number: int, frame: object) -> None:
        raise Stopped

    _open(engine, served(_echo))
    before = signal.signal(signal.SIGUSR1, stop)
    timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1))
    try:
        timer.start()
        with pytest.raises(Stopped):
            engine.run(60, until="time")
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, before)


def test_mistakes_are_told(engine: Engine) -> None:
    with pytest.raises(ValueError, match="257 connections"):
        engine.prepare([("127.0.0.1", 1)], [b""], count=257)
    with pytest.raises(IndexError):
        engine.open([0])
    engine.prepare([("127.0.0.1", 1)], [b""])
    with pytest.raises(ValueError, match="no room"):
        engine.send([0], b"short", count=1, stamp_at=0)
    engine.close()
    engine.close()
    with pytest.raises(ValueError, match="closed"):
        engine.run(1, until="time")
    with pytest.raises(KeyError):
        engine.run(0, until="later")  # type: ignore[arg-type]  # what a caller without a checker may write

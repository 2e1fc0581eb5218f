"""The load engine's HTTP: responses of every length, connections kept, shut and lost."""

from __future__ import annotations

import asyncio

import pytest

from benchmarks.native.engine import Engine
from benchmarks.native.latency import Latencies
from benchmarks.native.upgrade import request
from tests.unit.benchmarks.conftest import Served

ANSWERS = {
    "/length": b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
    "/nothing": b"HTTP/1.1 204 No Content\r\n\r\n",
    "/chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5\r\nhello\r\n1A;x=1\r\n" + b"z" * 26 + b"\r\n0\r\nA: b\r\n\r\n",
    "/continue": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n",
    "/close": b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
    "/to-the-end": b"HTTP/1.1 200 OK\r\n\r\nall of it",
    "/missing": b"HTTP/1.1 404 Not Found\r\nContent-Length: 1\r\n\r\n!",
}  # fmt: skip
KEPT = {"/length", "/nothing", "/chunks", "/continue", "/missing"}


class _Server:
    def __init__(self, in_bytes: bool = False) -> None:
        self.connections = 0
        self.served = 0
        self._in_bytes = in_bytes

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while True:
            path = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode()
            self.served += 1
            pieces = [bytes((byte,)) for byte in ANSWERS[path]] if self._in_bytes else [ANSWERS[path]]
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
            if path not in KEPT:
                return


def _requests(*paths: str) -> list[bytes]:
    return [request("GET", path) for path in paths]


@pytest.mark.parametrize("in_bytes", [False, True])
def test_every_kind_of_response(engine: Engine, served: Served, in_bytes: bool) -> None:
    server = _Server(in_bytes)
    paths = list(ANSWERS)
    connections = engine.prepare([("127.0.0.1", served(server))], [b""], count=2, kind="http")
    engine.requests(_requests(*paths), range(len(paths)), connections, count=3 * len(paths), at_once=2)
    assert engine.run(10)
    told = engine.statistics()
    statuses = {paths[int(kind)]: table["status"] for kind, table in told["http"].items()}
    assert statuses == {
        path: {{"/nothing": "204", "/continue": "201", "/missing": "404"}.get(path, "200"): 3} for path in paths
    }
    assert all(not table["broken"] and not table["timeout"] for table in told["http"].values())
    counts = {name: Latencies(table).count for name, table in engine.histograms().items()}
    assert counts["http.0"] == counts["http.0.first"] == counts["http.2.first"] == counts["http.6.failed"] == 3
    assert "http.1.first" not in counts, "an empty body has no first byte"
    assert server.served == 3 * len(paths) + told["http_again"]


def test_connections_are_kept(engine: Engine, served: Served) -> None:
    server = _Server()
    connections = engine.prepare([("127.0.0.1", served(server))], [b""], count=3, kind="http")
    engine.requests(_requests("/length"), [7], connections, count=60, rate=1000)
    assert engine.run(10)
    assert (server.served, server.connections) == (60, 3)
    assert engine.statistics()["http"] == {"7": {"status": {"200": 60}, "broken": 0, "timeout": 0}}


def test_who_waits_for_a_connection_waits_from_the_moment_it_was_due(engine: Engine, served: Served) -> None:
    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            await asyncio.sleep(0.05)  # the server's own time, under test
            writer.write(ANSWERS["/length"])

    connections = engine.prepare([("127.0.0.1", served(slow))], [b""], kind="http")
    engine.requests(_requests("/length"), [0], connections, count=8, rate=1000)
    assert engine.run(10)
    # One after the other at 50 ms: the last one was due at the 7th ms and waited for the other seven.
    assert Latencies(engine.histogram("http.0")).highest > 350
    assert Latencies(engine.histogram("late")).at(50) < 100, "that lateness is the server's, not the engine's"


def test_what_breaks_and_what_never_answers(engine: Engine, served: Served) -> None:
    async def broken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if b"/half" in await reader.readuntil(b"\r\n\r\n"):
            writer.write(ANSWERS["/length"][:-2])
        else:
            await reader.read()

    connections = engine.prepare([("127.0.0.1", served(broken))], [b""], kind="http")
    nobody = engine.prepare([("127.0.0.1", 1)], [b""], kind="http")
    engine.requests(_requests("/half"), [0], connections)
    engine.requests(_requests("/silent"), [1], connections, timeout_s=0.3)
    engine.requests(_requests("/refused"), [2], nobody)
    assert engine.run(10)
    assert engine.statistics()["http"] == {
        "0": {"status": {}, "broken": 1, "timeout": 0},
        "1": {"status": {}, "broken": 0, "timeout": 1},
        "2": {"status": {}, "broken": 1, "timeout": 0},
    }

"""Serving under Granian: one lifespan for two listeners, shared ports, drain, signals. Real processes."""

from __future__ import annotations

import http.client
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from cli.ports import choose
from core.config import inherited
from tests.support.polling import until

ROOT = Path(__file__).parents[3]

PROGRAM = """
import asyncio, os, sys
from gateway.serve import run
from core.config import Config, Gateway

draining = asyncio.Event()
HEADERS = {"type": "http.response.start", "status": 200, "headers": []}

async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        assert (await receive())["type"] == "lifespan.startup"
        if MODE == "broken":
            raise RuntimeError("no such database")
        if MODE == "refusing":
            return await send({"type": "lifespan.startup.failed", "message": "no database"})
        print("startup", flush=True)
        await send({"type": "lifespan.startup.complete"})
        assert (await receive())["type"] == "lifespan.shutdown"
        print("shutdown", flush=True)
        if MODE == "hanging":
            await asyncio.sleep(60)
        draining.set()
        return await send({"type": "lifespan.shutdown.complete"})
    if scope["path"] == "/slow":
        print("slow", flush=True)
        await asyncio.sleep(0.3)
    await send(HEADERS)
    if scope["path"] == "/stream":
        await send({"type": "http.response.body", "body": b"begun ", "more_body": True})
        await draining.wait()
        if MODE == "endless":
            await asyncio.sleep(60)
        await send({"type": "http.response.body", "body": b"ended", "more_body": False})
        return
    if scope["path"] == "/error":
        raise ValueError("a mistake of ours")
    await send({"type": "http.response.body", "body": str(os.getpid()).encode()})

MODE, port, own = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
sys.exit(run(application, Config(gateway=Gateway(port=port, own_port=own, unready_s=0.0, drain_s=1.0))))
"""


class Served:
    """A process that serves the program above."""

    def __init__(self, folder: Path, mode: str, port: int) -> None:
        self.port, self.own = port, choose([port])
        self.log = folder / f"{self.own}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, mode, str(self.port), str(self.own)],
                cwd=ROOT,
                env=inherited() | {"PYTHONPATH": str(ROOT)},
                stdout=log,
                stderr=log,
            )

    def said(self) -> str:
        return self.log.read_text()

    def wait_ready(self) -> None:
        until(lambda: self.process.poll() is not None or _listens(self.own), 15.0, "it serves")
        assert self.process.poll() is None, self.said()

    def get(self, path: str = "/", port: int | None = None) -> str:
        return self.open(path, port).read().decode()

    def open(self, path: str, port: int | None = None) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", port or self.own, timeout=10)
        connection.request("GET", path)
        return connection.getresponse()

    def stop(self, how: signal.Signals = signal.SIGTERM) -> tuple[int, float]:
        """Its exit status, and how many seconds its end took."""
        began = time.monotonic()
        self.process.send_signal(how)
        return self.process.wait(10), time.monotonic() - began


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


Start = Callable[..., Served]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Start]:
    made: list[Served] = []

    def start(mode: str = "plain", port: int | None = None, ready: bool = True) -> Served:
        made.append(Served(tmp_path, mode, port or choose()))
        if ready:
            made[-1].wait_ready()
        return made[-1]

    yield start
    for served in made:
        served.process.kill()
        served.process.wait()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_two_listeners_one_lifespan(serve: Start, how: signal.Signals) -> None:
    served = serve()
    assert served.get(port=served.port) == served.get(port=served.own) == str(served.process.pid)
    assert psutil.Process(served.process.pid).children() == []
    status, took = served.stop(how)
    assert (status, served.said().split()) == (0, ["startup", "shutdown"])
    assert took < 1.0


def test_two_processes_share_a_port_and_outlive_each_other(serve: Start) -> None:
    first = serve()
    second = serve(port=first.port)
    both = {str(first.process.pid), str(second.process.pid)}
    until(lambda: both <= {first.get(port=first.port) for _ in range(20)}, 5.0, "both answer")
    first.process.kill()
    first.process.wait()
    assert {second.get(port=first.port) for _ in range(20)} == {str(second.process.pid)}


def test_a_request_under_way_is_finished_before_the_drain(serve: Start) -> None:
    served = serve()
    connection = http.client.HTTPConnection("127.0.0.1", served.own, timeout=10)
    connection.request("GET", "/slow")
    until(lambda: "slow" in served.said(), 5.0, "the request is under way")
    served.process.send_signal(signal.SIGTERM)
    assert connection.getresponse().read().decode() == str(served.process.pid)
    assert served.process.wait(5) == 0


def test_the_drain_ends_streams(serve: Start) -> None:
    served = serve()
    stream = served.open("/stream")
    assert stream.read(6) == b"begun "
    status, took = served.stop()
    assert stream.read() == b"ended"
    assert status == 0
    assert took < 2.0


@pytest.mark.parametrize("mode", ["hanging", "endless"])
def test_what_does_not_drain_is_cut_in_time(serve: Start, mode: str) -> None:
    """drain_s is 1 s here; two seconds more are allowed."""
    served = serve(mode)
    stream = served.open("/stream")
    assert stream.read(6) == b"begun "
    status, took = served.stop()
    assert status == 0
    assert took < 3.0


def test_a_second_signal_cuts_everything(serve: Start) -> None:
    served = serve("hanging")
    served.process.send_signal(signal.SIGTERM)
    until(lambda: "shutdown" in served.said(), 5.0, "the drain has begun")
    status, took = served.stop()
    assert status == 1
    assert took < 0.5


@pytest.mark.parametrize(
    ("mode", "reason"), [("broken", "RuntimeError: no such database"), ("refusing", "no database")]
)
def test_a_start_that_fails_says_why(serve: Start, mode: str, reason: str) -> None:
    served = serve(mode, ready=False)
    assert served.process.wait(15) == 1
    assert reason in served.said()
    assert not _listens(served.own)


def test_a_taken_port_ends_it(serve: Start) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        served = serve(port=other.getsockname()[1], ready=False)
        assert served.process.wait(15) == 1
    assert "Address already in use" in served.said()
    assert "shutdown" in served.said()


def test_an_error_of_the_application_is_logged_and_the_next_is_served(serve: Start) -> None:
    served = serve()
    assert served.open("/error").status == 500
    assert served.get() == str(served.process.pid)
    assert "a mistake of ours" in served.said()

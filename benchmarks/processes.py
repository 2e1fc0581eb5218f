"""Processes that a scenario starts to be measured: floors, peers, and more gateways beside those of the stack."""

from __future__ import annotations

import contextlib
import resource
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from benchmarks.driver import ROOT
from benchmarks.scenario import CannotStart
from benchmarks.target import Target
from cli.ports import choose
from cli.processes import send, spawn
from core.config import environment, inherited

START_S = 60.0
STOP_S = 15.0
POOL = 1  # PostgreSQL has 150 connections for all


class Server:
    """A process with what it listens on. `ports`: by name; of a gateway `own`, `own_ws`, `admin`."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], ports: Mapping[str, int], log: Path) -> None:
        self.name = name
        self.pid = process.pid
        self.ports = ports
        self.log = log
        self._process = process

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def send(self, number: signal.Signals) -> None:
        send(self._process, number)

    def wait(self, within_s: float) -> int:
        """Its exit status. Raises `subprocess.TimeoutExpired`."""
        return self._process.wait(within_s)


@contextlib.contextmanager
def running(
    name: str,
    argv: Sequence[str],
    folder: Path,
    *,
    ports: Mapping[str, int],
    ready: Callable[[], bool],
    settings: Mapping[str, str] | None = None,
    files: int | None = None,
) -> Iterator[Server]:
    """Starts a program from the project's root, waits until `ready()`, ends it (SIGTERM, then SIGKILL) when left.

    `settings`: PARLEY_* variables; `files`: its limit of open files. Raises `CannotStart` with the end of its log where
    it ends or is not ready in time. Must be used in the main thread. Whatever happens to us, it ends with us.
    """
    log = folder / f"{name}.log"
    with log.open("wb") as output:
        try:
            process = spawn(argv, env=inherited() | dict(settings or {}), output=output.fileno(), cwd=ROOT)
        except OSError as error:
            raise CannotStart(f"{argv[0]}: {error.strerror}") from error
    try:
        if files is not None:
            resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (files, files))
        until = time.monotonic() + START_S
        while not ready():
            if process.poll() is not None or time.monotonic() > until:
                raise CannotStart(f"{name} is not ready: {log.read_text(errors='replace')[-400:].strip()}")
            time.sleep(0.02)
        yield Server(name, process, ports, log)
    finally:
        send(process, signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def gateways(
    target: Target, count: int, folder: Path, *, pool: int = POOL, files: int | None = None, **gateway: Any
) -> Iterator[list[Server]]:
    """`count` gateway processes beside the stack's own two, at ports of their own, so that only a scenario uses them.

    `gateway`: settings of that section, as `max_connections=20_000`. They all begin at once. Raises `CannotStart`.
    """
    shared, taken = target.config, set(target.ports.values())
    with contextlib.ExitStack() as held:
        public = [_port(taken), _port(taken)]
        waiting: list[tuple[str, dict[str, int], Mapping[str, str]]] = []
        for number in range(count):
            name = f"bench-gateway-{number + 1}"
            ports = {"own": _port(taken), "own_ws": _port(taken), "admin": _port(taken)}
            own = {f"{which}_port": port for which, port in ports.items()}
            section = replace(shared.gateway, port=public[0], ws_port=public[1], ws_url="", **{**own, **gateway})
            data = folder / name
            data.mkdir(exist_ok=True)
            config = replace(shared, gateway=section, postgres=replace(shared.postgres, pool_size=pool), data=str(data))
            waiting.append((name, ports, environment(config)))
        argv = [sys.executable, "-P", "-m", "cli", "gateway"]
        found: list[Server] = []
        for name, ports, settings in waiting:
            path = {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
            started = running(
                name, argv, folder, ports=ports, ready=lambda: True, settings={**path, **settings}, files=files
            )
            found.append(held.enter_context(started))
        for server in found:
            _wait(server)
        yield found


def _wait(server: Server) -> None:
    until = time.monotonic() + START_S
    while not _ready(server.ports["own"]):
        if server.ended or time.monotonic() > until:
            raise CannotStart(f"{server.name} is not ready: {server.log.read_text(errors='replace')[-400:].strip()}")
        time.sleep(0.05)


def _ready(port: int) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=1) as answer:
        return bool(answer.status == 200)
    return False


def accepting(port: int) -> Callable[[], bool]:
    """For `running`: whether something listens on this port of loopback."""

    def ask() -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
        return False

    return ask


def _port(taken: set[int]) -> int:
    port = choose(taken)
    taken.add(port)
    return port

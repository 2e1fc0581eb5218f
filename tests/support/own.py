"""Gateways and routers of a test's own beside the stack's: real processes on its servers, with other settings."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import psutil

from cli.layout import read_json
from core.compose import administration
from core.config import Config, Model
from tests.support.child import Child, free_port, says
from tests.support.stack import Stack

READY = b"GET /readyz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
METRICS = b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
START_S = 30.0
LONG = "long"


@contextmanager
def long_model(stack: Stack) -> Iterator[str]:
    """A model beside the stack's own whose answers may be long: its name. For parts that start meanwhile."""
    models = stack.config.models
    long = msgspec.structs.replace(models[0], alias=LONG, context_window=10**6, max_output=4 * 10**5)
    try:
        asyncio.run(_seed(stack.config, (*models, long)))
        yield LONG
    finally:
        asyncio.run(_seed(stack.config, models))


async def _seed(config: Config, models: Sequence[Model]) -> None:
    async with administration(config) as (_, catalog):
        await catalog.seed(models)


class OwnPart(Child):
    """A part of ours with the settings of the stack's and, over them, `settings` (as in the environment, without
    `PARLEY_`). `log`: what it has said. `files`: its limit of open files (0: ours).
    """

    def __init__(
        self,
        stack: Stack,
        folder: Path,
        name: str,
        words: list[str],
        settings: Mapping[str, object],
        probe: Callable[[], bool],
        files: int = 0,
    ) -> None:
        data = folder / name
        data.mkdir(exist_ok=True)
        given = {f"PARLEY_{key.upper()}": value for key, value in {"data": data, **settings}.items()}
        environment = read_json(stack.layout.environment) | given
        command = [
            *(["sh", "-c", 'ulimit -n "$0" && exec "$@"', str(files)] if files else []),
            "env",
            *(f"{key}={value}" for key, value in environment.items()),
            sys.executable,
            "-m",
            "cli",
            *words,
        ]
        self.log = folder / f"{name}.log"
        super().__init__(command, self.log, probe)

    def start(self, timeout_s: float = START_S) -> None:
        super().start(timeout_s)

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    @property
    def resident_bytes(self) -> int:
        return int(psutil.Process(self.pid).memory_info().rss)

    def signal(self, how: signal.Signals) -> None:
        """Sends it and waits for nothing."""
        psutil.Process(self.pid).send_signal(how)

    def ended(self, within_s: float) -> tuple[int, float]:
        """Its exit status, and the seconds that were waited. Raises `TimeoutError`."""
        assert self._process is not None
        began = time.monotonic()
        try:
            return self._process.wait(within_s), time.monotonic() - began
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"it runs on after {within_s} s:\n{self.said[-2000:]}") from None


class OwnGateway(OwnPart):
    """A gateway; `gateway` are its settings of that section. Its shared ports are its own, unless they are given."""

    def __init__(
        self,
        stack: Stack,
        folder: Path,
        name: str = "own",
        common: Mapping[str, object] | None = None,
        files: int = 0,
        **gateway: object,
    ) -> None:
        self.own_port, self.own_ws_port, self.admin_port = free_port(), free_port(), free_port()
        self.port = int(str(gateway.pop("port", self.own_port)))
        self.ws_port = int(str(gateway.pop("ws_port", self.own_ws_port)))
        ports = {"port": self.port, "ws_port": self.ws_port, "own_port": self.own_port}
        ports |= {"own_ws_port": self.own_ws_port, "admin_port": self.admin_port}
        settings = {f"gateway__{key}": value for key, value in {**ports, **gateway}.items()} | dict(common or {})
        super().__init__(stack, folder, name, ["gateway"], settings, self.ready, files)

    def ready(self) -> bool:
        return says(self.own_port, READY, b"HTTP/1.1 200")

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.own_port}"

    @property
    def ws_url(self) -> str:
        return f"ws://127.0.0.1:{self.own_ws_port}/v1/ws"

    def gauge(self, name: str) -> float:
        """A figure of its metrics. Raises OSError where it does not answer, KeyError where it has none such."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}/metrics", timeout=5) as response:
            found = re.search(rf"^parley_{name} (\S+)$", response.read().decode(), re.MULTILINE)
        if found is None:
            raise KeyError(name)
        return float(found[1])


class OwnRouter(OwnPart):
    """A router."""

    def __init__(self, stack: Stack, folder: Path, name: str = "own-router", **common: object) -> None:
        admin = free_port()
        settings = {"router__admin_port": admin, **common}
        super().__init__(stack, folder, name, ["worker", "router"], settings, lambda: says(admin, METRICS, b"HTTP/1."))

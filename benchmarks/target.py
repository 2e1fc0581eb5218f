"""What is measured: a stack that runs, and the scripted provider behind it."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.driver import ROOT
from cli.control import ask
from cli.layout import Layout, read_json
from cli.ports import choose
from cli.processes import send, spawn
from core.config import Config, inherited, load

MODEL = "mock"
GATEWAYS = ("gateway-1", "gateway-2")
PARTS = (*GATEWAYS, "router-1", "router-2", "ledger", "janitor")
START_S = 60.0
STOP_S = 15.0

CONFIGURATION = """\
default_model = "{model}"

[limits]
requests_per_minute = 100000000
turns_at_once = 1000000
tokens_per_day = 1000000000000

[gateway]
connections_per_user = 100000

[[providers]]
name = "mock"
base_url = "http://127.0.0.1:{port}/v1"

[[models]]
alias = "{model}"
routes = [{{ provider = "mock", model = "mock" }}]
context_window = 8192
max_output = 2048
input_price = 100
output_price = 400
"""


class Target:
    """A running stack with its addresses and processes. `provider_pid`: the scripted provider's."""

    def __init__(self, layout: Layout, provider_port: int, provider_pid: int) -> None:
        self.layout = layout
        self.provider_port = provider_port
        self.provider_pid = provider_pid
        self.ports: dict[str, int] = read_json(layout.ports)

    @property
    def config(self) -> Config:
        """What all parts share: addresses with their credentials, the signing key's path."""
        return load(environ=read_json(self.layout.environment))

    def pids(self) -> dict[str, int]:
        """The processes of the stack by part."""
        rows: list[dict[str, Any]] = ask(self.layout, {"do": "status"}, 5.0)["parts"]
        return {str(row["part"]): int(row["pid"]) for row in rows if row["pid"] is not None}

    def own_http(self, gateway: str) -> int:
        return self.ports[f"{gateway}.own"]

    def own_ws(self, gateway: str) -> int:
        return self.ports[f"{gateway}.own_ws"]

    def warnings(self) -> list[str]:
        """What our own parts have logged as warnings and errors so far, oldest first, as `part: message`."""
        found: list[tuple[str, str]] = []
        for part in PARTS:
            for line in self.layout.log(part).read_text(errors="replace").splitlines():
                at, level, message = [*line.split(" ", 2), "", ""][:3]
                if level in ("WARNING", "ERROR", "CRITICAL"):
                    found.append((at, f"{part}: {message.replace(str(self.layout.data), 'the data folder')}"))
        return [line for _, line in sorted(found)]


@contextlib.contextmanager
def started(folder: Path) -> Iterator[Target]:
    """A stack of its own in `folder`, answered by the scripted provider; all of it ends with the context.

    Raises `RuntimeError` with what was printed where it does not start. Must be used in the main thread.
    """
    port = choose()
    web = choose([port])
    settings = folder / "parley.toml"
    settings.write_text(CONFIGURATION.format(port=port, model=MODEL))
    layout = Layout(folder / "data")
    provider = [sys.executable, "-m", "tests.mockllm.server", "--port", str(port)]
    up = [sys.executable, "-m", "cli", "up", "--no-model", "--config", str(settings), "--data", str(layout.data)]
    up += ["--port", str(web), "--ws-port", str(choose([port, web]))]
    with _running(provider, folder / "provider.log", signal.SIGKILL) as model:
        _wait(model, folder / "provider.log", lambda said: '"port"' in said)
        with _running(up, folder / "up.log", signal.SIGTERM) as stack:
            _wait(stack, folder / "up.log", lambda said: "\nready after" in said)
            yield Target(layout, port, model.pid)


@contextlib.contextmanager
def _running(command: list[str], log: Path, death_signal: signal.Signals) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = spawn(command, env=inherited(), output=output.fileno(), cwd=ROOT, death_signal=death_signal)
    try:
        yield process
    finally:
        send(process, signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[bytes], log: Path, ready: Callable[[str], bool]) -> None:
    until = time.monotonic() + START_S
    while not ready(log.read_text()):
        if process.poll() is not None or time.monotonic() > until:
            raise RuntimeError(f"{log.stem} did not start:\n{log.read_text()}")
        time.sleep(0.05)

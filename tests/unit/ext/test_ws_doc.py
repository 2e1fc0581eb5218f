"""What docs/websocket.md shows is true: its echo server runs as it stands there, its table names every limit."""

from __future__ import annotations

import dataclasses
import re
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.sync.client import connect

from ext.ws import Connection, Handler, Limits
from tests.support.child import Child

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/websocket.md").read_text()
ECHO = next(code for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "class Echo" in code)


@pytest.fixture
def port() -> Iterator[int]:
    """A free port that nobody else is given: bound, not listened on, and shared as the listener shares its own."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


def test_the_echo_server_runs_as_it_stands(port: int, tmp_path: Path) -> None:
    assert len([line for line in ECHO.splitlines() if line.strip()]) <= 13
    uri = f"ws://127.0.0.1:{port}"

    def answers() -> bool:
        try:
            with connect(uri):
                return True
        except ConnectionRefusedError:
            return False

    server = Child([sys.executable, "-c", ECHO.replace("8765", str(port))], tmp_path / "log", answers)
    server.start()
    try:
        with connect(uri) as client:
            for word in ("hello", "", "é" * 30_000):
                client.send(word)
                assert client.recv(timeout=10) == word
    finally:
        server.stop()


def test_the_table_of_limits_is_complete() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| ([\d.]+) \| \S.* \|$", PAGE, re.MULTILINE))
    assert rows == {field.name: str(field.default) for field in dataclasses.fields(Limits)}


def test_methods_and_files_that_the_page_names_exist() -> None:
    for row in re.findall(r"^\| (`\w+\(.*?) \|", PAGE, re.MULTILINE):
        assert all(hasattr(Handler, name) for name in re.findall(r"`(\w+)\(", row))
    listed = PAGE.split("A `Connection` has ")[1].split(". ")[0]
    assert [name for name in re.findall(r"`(\w+)`", listed) if not hasattr(Connection, name)] == []
    files = re.findall(r"`((?:docs|ext|gateway|tests)/[\w./-]+)`", PAGE)
    assert [name for name in files if not (ROOT / name).exists()] == []

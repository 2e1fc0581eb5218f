"""The control socket and the lock of a data folder."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cli.control import NotRunning, Refused, ask, listening
from cli.layout import InUse, Layout, read_json, write_json, write_private


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    # Longer than a socket's path may be.
    made = Layout(tmp_path / ("long" * 40))
    made.make()
    return made


async def _handler(request: dict[str, Any]) -> dict[str, Any]:
    if request["do"] == "fail":
        raise ValueError("there is no such part")
    return {"did": request["do"]}


async def test_asking(layout: Layout) -> None:
    async with listening(layout, _handler):
        assert (layout.run / layout.control).stat().st_mode & 0o077 == 0
        assert await asyncio.to_thread(ask, layout, {"do": "status"}) == {"did": "status"}
        with pytest.raises(Refused, match="there is no such part"):
            await asyncio.to_thread(ask, layout, {"do": "fail"})
    with pytest.raises(NotRunning, match="no `parley up` runs on"):
        ask(layout, {"do": "status"})


async def test_what_is_not_json_is_refused_and_the_next_is_served(layout: Layout) -> None:
    async with listening(layout, _handler):
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            "import socket, sys, os; os.chdir(sys.argv[1]); s = socket.socket(socket.AF_UNIX);"
            "s.connect(sys.argv[2]); s.sendall(b'nonsense\\n'); print(s.recv(1000).decode())",
            str(layout.run),
            layout.control,
            stdout=subprocess.PIPE,
        )
        said, _ = await process.communicate()
        assert b'"error"' in said
        assert await asyncio.to_thread(ask, layout, {"do": "x"}) == {"did": "x"}


async def test_a_socket_that_a_killed_one_left_is_replaced(layout: Layout) -> None:
    (layout.run / layout.control).touch()
    async with listening(layout, _handler):
        assert await asyncio.to_thread(ask, layout, {"do": "status"}) == {"did": "status"}


def test_a_folder_is_locked_until_its_holder_ends(layout: Layout) -> None:
    code = "import sys; from pathlib import Path; from cli.layout import Layout; Layout(Path(sys.argv[1])).take();"
    code += "print('taken', flush=True); sys.stdin.read()"
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(layout.data)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "taken\n"
    with pytest.raises(InUse, match=rf"already running on .* \(PID {holder.pid}\)"):
        layout.take()
    holder.kill()
    holder.communicate()
    layout.take()


def test_files_are_private_and_whole(layout: Layout) -> None:
    path = layout.run / "x.json"
    assert read_json(path) == {}
    write_json(path, {"a": 1})
    assert read_json(path) == {"a": 1}
    assert path.stat().st_mode & 0o777 == 0o600
    write_private(path, "[1]")
    assert read_json(path) == {}
    write_private(path, "{")
    assert read_json(path) == {}

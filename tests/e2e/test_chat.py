"""`parley chat` in a terminal: it streams, Ctrl-C stops the answer, a lost gateway is made up for."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from core.config import inherited
from tests.mockllm.control import MockControl
from tests.mockllm.script import Script
from tests.support.polling import eventually
from tests.support.questions import new_mark, question, served
from tests.support.stack import GATEWAYS, ROOT, Stack

pytestmark = pytest.mark.slow

SEEN_S = 20.0
LEFT_S = 5.0
CTRL_C = b"\x03"
CTRL_D = b"\x04"


class Terminal:
    """A `parley` command on a pseudo-terminal of its own, as somebody would use it."""

    def __init__(self, stack: Stack, *words: str) -> None:
        ours, theirs = pty.openpty()
        self._ours = ours
        self._seen = ""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cli", *words, "--data", str(stack.layout.data)],
            cwd=ROOT,
            env={**inherited(), "TERM": "dumb"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=lambda: os.close(os.open(os.ttyname(theirs), os.O_RDWR)),  # it becomes the controlling one
        )
        os.close(theirs)

    def type(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    async def shows(self, pattern: str) -> re.Match[str]:
        """Waits until what is on the screen matches; what stood before the match's end is not looked at again."""
        return await asyncio.to_thread(self._shows, re.compile(pattern, re.DOTALL))

    def _shows(self, pattern: re.Pattern[str]) -> re.Match[str]:
        deadline = time.monotonic() + SEEN_S
        while (found := pattern.search(self._seen)) is None:
            readable, _, _ = select.select([self._ours], [], [], max(0.0, deadline - time.monotonic()))
            if not readable:
                raise TimeoutError(f"not within {SEEN_S} s on the screen: {pattern.pattern!r}, but: {self._seen!r}")
            try:
                data = os.read(self._ours, 65_536)
            except OSError:
                raise AssertionError(f"the program ended; on the screen: {self._seen!r}") from None
            self._seen += data.decode().replace("\r\n", "\n")
        self._seen = self._seen[found.end() :]
        return found

    def pending(self, number: signal.Signals) -> bool:
        """Whether the signal was sent and not yet heard. Two of a kind that wait are one."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        masks = re.findall(r"^(?:SigPnd|ShdPnd):\s*([0-9a-f]+)$", status, re.MULTILINE)
        return any(int(mask, 16) >> (number - 1) & 1 for mask in masks)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._ours)


@pytest.fixture
async def terminal(stack: Stack) -> AsyncIterator[Terminal]:
    """The interactive one, at its prompt."""
    made = Terminal(stack, "chat")
    try:
        await made.shows("> ")
        yield made
    finally:
        made.close()


async def test_one_question(stack: Stack, mock: MockControl) -> None:
    mark = new_mark()
    await mock.script(Script(text="It streams.\nAnd ends."), contains=mark)
    run = await asyncio.to_thread(stack.cli, "chat", f"Does it stream? {mark}")
    assert (run.returncode, run.stdout, run.stderr) == (0, "It streams.\nAnd ends.\n", "")


async def test_a_failure_is_told(stack: Stack) -> None:
    run = await asyncio.to_thread(stack.cli, "chat", question(new_mark(), status=400))
    assert run.returncode == 1
    assert "no answer" in run.stderr
    assert "Traceback" not in run.stderr
    unknown = await asyncio.to_thread(stack.cli, "chat", "Hello?", "--model", "none")
    assert unknown.returncode == 1
    assert "There is no model 'none'" in unknown.stderr


async def test_a_conversation(terminal: Terminal, mock: MockControl) -> None:
    first, second = new_mark(), new_mark()
    await mock.script(Script(text="one two three", gate=first, gate_after=2), contains=first)
    terminal.type(f"Count. {first}\n".encode())
    await mock.reached(first)
    # What the provider has sent before its gate is on the screen while it waits: it streams.
    await terminal.shows("one two")
    await mock.open_gate(first)
    await terminal.shows(" three\n> ")

    await mock.script(Script(text="four"), contains=second)
    terminal.type(f"And on? {second}\n".encode())
    await terminal.shows("four\n> ")
    [call] = await served(mock, second)
    assert [message["content"] for message in call.messages][-3:] == [
        f"Count. {first}",
        "one two three",
        f"And on? {second}",
    ]
    terminal.type(CTRL_D)
    assert await asyncio.to_thread(terminal.process.wait, SEEN_S) == 0


async def test_ctrl_c_stops_the_answer_and_the_conversation_goes_on(terminal: Terminal, mock: MockControl) -> None:
    mark = new_mark()
    await mock.script(Script(text="never to be ended", gate=mark, gate_after=2), contains=mark)
    terminal.type(f"Go on for ever. {mark}\n".encode())
    await terminal.shows("never to")
    terminal.type(CTRL_C)
    await terminal.shows(r"\[stopped\]\n.*> ")
    [call] = await served(mock, mark)
    assert (await mock.ended(call.id)).end == "client_closed"

    await mock.script(Script(text="Here."), contains=f"still {mark}")
    terminal.type(f"Are you still {mark}\n".encode())
    await terminal.shows("Here.\n> ")


async def test_two_ctrl_c_leave(terminal: Terminal, stack: Stack, mock: MockControl) -> None:
    mark = new_mark()
    terminal.type(question(mark, gate=mark).encode() + b"\n")
    await mock.reached(mark)
    # With gateways that say nothing the first one stops nothing.
    for gateway in GATEWAYS:
        await asyncio.to_thread(stack.kill, gateway, signal.SIGSTOP)
    terminal.type(CTRL_C)
    await terminal.shows(r"\^C")
    await eventually(lambda: not terminal.pending(signal.SIGINT), what="it has heard the first one")
    assert terminal.process.poll() is None
    terminal.type(CTRL_C)
    assert await asyncio.to_thread(terminal.process.wait, LEFT_S) == 130


async def test_it_reconnects_and_resumes(terminal: Terminal, stack: Stack, mock: MockControl) -> None:
    mark = new_mark()
    await mock.script(Script(text="before the fall, after the fall", gate=mark, gate_after=4), contains=mark)
    terminal.type(f"Tell me. {mark}\n".encode())
    await terminal.shows("before the fall,")
    gateway = await eventually(lambda: holder(stack, terminal), what="a gateway holds its connection")
    old = await asyncio.to_thread(stack.kill, gateway)
    await terminal.shows("the connection is lost")
    await mock.open_gate(mark)
    shown = await terminal.shows("> ")
    assert " after the fall" in shown.string
    assert "before" not in shown.string
    assert len(await served(mock, mark)) == 1
    await asyncio.to_thread(stack.wait_replaced, gateway, old)


def holder(stack: Stack, terminal: Terminal) -> str:
    """The gateway at the other end of the program's WebSocket."""
    mine = {
        (end.laddr.port, end.raddr.port)
        for end in psutil.Process(terminal.process.pid).net_connections("tcp")
        if end.status == psutil.CONN_ESTABLISHED and end.raddr.port == stack.ws_port
    }
    for gateway in GATEWAYS:
        for end in psutil.Process(stack.pid(gateway)).net_connections("tcp"):
            if end.status == psutil.CONN_ESTABLISHED and (end.raddr.port, end.laddr.port) in mine:
                return gateway
    return ""

"""What every one of these servers does, so that only the library under it differs.

A text frame that begins with `{` is a `Command`; any other is echoed. `push` sends to the connection that asked, `cast`
to all that are open; both in steps: one step in each turn of the loop writes `per_turn` frames to each, and frames of
one step may leave in one write. Nothing is sent to a connection whose transport asks to wait.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol

import msgspec

HOST = "127.0.0.1"
BACKLOG = 4096
COMMAND = 0x7B


class Command(msgspec.Struct, frozen=True):
    """`frames` text frames of `size` bytes; `to` is "push" or "cast"."""

    to: str
    frames: int
    size: int
    per_turn: int = 1


_decode = msgspec.json.Decoder(Command).decode


def command(message: str | bytes) -> Command | None:
    """The command that this message is; None for one that is to be echoed."""
    first = message[:1]
    return _decode(message) if first in ("{", b"{") else None


def payload(size: int) -> bytes:
    """The text of every frame that is pushed."""
    return b"x" * size


def frame(text: bytes) -> bytes:
    """A whole text frame from a server."""
    size = len(text)
    if size < 126:
        return bytes((0x81, size)) + text
    return struct.pack("!BBH", 0x81, 126, size) + text if size < 65536 else struct.pack("!BBQ", 0x81, 127, size) + text


class Target(Protocol):
    """A connection to write to. `paused`: its transport asks to wait."""

    paused: bool

    def write(self, text: bytes, count: int) -> None:
        """`count` frames of this text."""
        ...


class Steps:
    """Carries out commands for servers whose sending does not wait: one callback in each turn of the loop for all."""

    def __init__(self) -> None:
        self._work: list[_Work] = []

    def begin(self, given: Command, targets: Iterable[Target]) -> None:
        if not self._work:
            asyncio.get_running_loop().call_soon(self._step)
        self._work.append(_Work(given, list(targets)))

    def _step(self) -> None:
        self._work = [work for work in self._work if work.step()]
        if self._work:
            asyncio.get_running_loop().call_soon(self._step)


class _Work:
    __slots__ = ("_per_turn", "_targets", "_text", "_turns")

    def __init__(self, given: Command, targets: list[Target]) -> None:
        self._targets = targets
        self._text = payload(given.size)
        self._per_turn = given.per_turn
        self._turns = given.frames // given.per_turn

    def step(self) -> bool:
        """Writes once to each target, or to none while one is behind; returns whether there is more."""
        targets = self._targets
        for target in targets:
            if target.paused:
                return True
        text, count = self._text, self._per_turn
        for target in targets:
            target.write(text, count)
        self._turns -= 1
        return self._turns > 0


Sender = Callable[[str], Awaitable[None]]


async def send_steps(given: Command, senders: Iterable[Sender]) -> None:
    """Carries out a command for servers whose sending is awaited."""
    text, everyone = payload(given.size).decode(), list(senders)
    for _ in range(given.frames // given.per_turn):
        for send in everyone:
            for _ in range(given.per_turn):
                await send(text)
        await asyncio.sleep(0)

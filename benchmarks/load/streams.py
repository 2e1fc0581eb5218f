"""What is noted of each streamed answer, the same whether it came through Parley or from the provider directly."""

from __future__ import annotations

import time

import msgspec

from benchmarks.load.chunks import digest
from benchmarks.load.pacer import Countdown
from benchmarks.load.peer import Effort, Peer


class Stream:
    """One answer while it comes. Times are seconds from `due`, the intended moment of its request."""

    __slots__ = ("_due", "_text", "accepted", "ended", "first", "wrong")

    def __init__(self, due: float) -> None:
        self._due = due
        self._text: list[str] = []
        self.accepted: float | None = None
        self.first: float | None = None
        self.ended: float | None = None
        self.wrong = ""

    def accept(self) -> None:
        self.accepted = time.perf_counter() - self._due

    def add(self, text: str) -> None:
        if self.first is None:
            self.first = time.perf_counter() - self._due
        self._text.append(text)

    def end(self, wrong: str = "") -> None:
        self.ended = time.perf_counter() - self._due
        self.wrong = wrong

    @property
    def digest(self) -> str:
        return digest("".join(self._text))


class Streams:
    """All answers of a run, by number, and how many ran at once. `count`: how many there will be."""

    def __init__(self, count: int) -> None:
        self._countdown = Countdown(count)
        self._all: dict[int, Stream] = {}
        self._running = 0
        self._most = 0
        self._effort = Effort()

    def begin(self, number: int, due: float) -> Stream:
        self._running += 1
        self._most = max(self._most, self._running)
        self._all[number] = Stream(due)
        return self._all[number]

    def end(self, stream: Stream, wrong: str = "") -> None:
        stream.end(wrong)
        self._running -= 1
        self._countdown.down()

    async def settle(self, within_s: float) -> None:
        """Waits until all have ended; gives up after `within_s`."""
        await self._countdown.wait(within_s)

    def tell(self, peer: Peer, late: list[float]) -> None:
        """Says the whole of it; see `Told`."""
        streams = [self._all[number] for number in sorted(self._all)]
        told = Told(
            accepted=[stream.accepted for stream in streams if stream.accepted is not None],
            first=[stream.first for stream in streams if stream.first is not None],
            ended=[stream.ended for stream in streams if stream.ended is not None],
            digests=[stream.digest for stream in streams],
            wrong=[stream.wrong for stream in streams if stream.wrong] + ["it did not end"] * self._running,
            most=self._most,
            late=late,
            seconds=self._effort.seconds,
            cpu_s=self._effort.cpu_s,
        )
        peer.say(**msgspec.to_builtins(told))


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """A run's answers: samples in seconds from the intended moment, texts as digests in order, the most at once."""

    accepted: list[float]
    first: list[float]
    ended: list[float]
    digests: list[str]
    wrong: list[str]
    most: int
    late: list[float]
    seconds: float
    cpu_s: float

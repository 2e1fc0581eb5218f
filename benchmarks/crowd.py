"""Clients of one server: the native engine in this process, told in the words of sites."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from benchmarks.native.engine import Engine
from benchmarks.native.latency import Latencies
from benchmarks.sites import Site

OPEN_S = 120.0
STEP_S = 0.001
SETTLE_S = 10.0
LEAVE_S = 0.01
ANSWER_S = 5.0


class CrowdFailed(Exception):
    """Clients were refused, lost or not served in time; the text says how many, and of what."""


class Crowd:
    """Opens, holds and uses many connections. `cores`: what the generator used so far while it worked, the most in any
    piece of work; of one thread, so near 1 it was the bottleneck.
    """

    def __init__(self, capacity: int) -> None:
        self.engine = Engine(capacity)
        self.cores = 0.0

    def prepare(self, site: Site, count: int, sources: Sequence[str] = ()) -> range:
        """New clients that are not open yet: what opening them costs here is spent."""
        numbers = self.engine.prepare([("127.0.0.1", site.port)], site.requests(count), count=count, sources=sources)
        if site.hellos is not None:
            for number, hello in zip(numbers, site.hellos(count), strict=True):
                self.engine.set_hello([number], hello)
        return numbers

    def open(self, site: Site, numbers: range, *, at_once: int) -> float:
        """Opens them, up to the greeting where there is one; returns seconds. Raises `CrowdFailed`."""
        before = self.frames
        with self._working():
            began = time.monotonic()
            self.engine.open(numbers, at_once=at_once)
            done = self.engine.run(OPEN_S)
            states = self.engine.states(numbers)
            if not done or states.get("open", 0) < len(numbers):
                raise CrowdFailed(f"{states} of {len(numbers)}: {self.engine.statistics()}")
            self.wait_for(before + site.greetings * len(numbers))
            return time.monotonic() - began

    def join(self, site: Site, count: int, *, at_once: int = 64) -> range:
        """New clients, open; not counted as work in `cores`: it comes before what is measured."""
        numbers, cores = self.prepare(site, count), self.cores
        self.open(site, numbers, at_once=at_once)
        self.cores = cores
        return numbers

    def ask(self, site: Site, numbers: Sequence[int], *, rate: float, seconds: float) -> tuple[Latencies, int]:
        """Questions in an open loop at random ones of them: latencies from the moment that each was due, and how many
        were not answered.
        """
        self.engine.reset()
        count = max(1, round(rate * seconds))
        with self._working():
            self.engine.send(numbers, site.ask, count=count, rate=rate, answer=site.answer, timeout_s=ANSWER_S)
            self.engine.run(seconds + ANSWER_S + 1)
            told = self.engine.statistics()
            self.engine.cancel()
        return Latencies(self.engine.histogram("answer")), count - int(told["answered"])

    def tell(self, numbers: Sequence[int], payload: bytes) -> None:
        """The same frame from each of them, once, not waiting for anything."""
        self.engine.send(numbers, payload, count=len(numbers), order="round", answer=None)
        self.engine.run(SETTLE_S)

    def receive(self, frames: int, within_s: float) -> None:
        """Reads until so many text frames have come since the last reset. Raises `CrowdFailed`."""
        with self._working():
            self.wait_for(frames, within_s)

    def wait_for(self, frames: int, within_s: float = SETTLE_S) -> None:
        """As `receive`, as a part of other work."""
        self._until(lambda: self.frames >= frames, within_s)

    def receive_bytes(self, count: int, within_s: float) -> None:
        """Reads until so many bytes, with heads of frames, have come since the last reset. Raises `CrowdFailed`."""
        with self._working():
            self._until(lambda: self.received >= count, within_s)

    def hold(self, seconds: float) -> None:
        """Answers heartbeats and nothing else."""
        self.engine.run(seconds, until="time")

    def lost(self, numbers: Sequence[int]) -> int:
        """How many of them are not open."""
        return len(numbers) - self.engine.states(numbers).get("open", 0)

    def leave(self, numbers: Sequence[int]) -> None:
        """Ends them at once."""
        self.engine.end(numbers, "rst")
        self.engine.run(LEAVE_S, until="time")

    @property
    def frames(self) -> int:
        """Text frames that came since the last reset."""
        return int(self.engine.statistics()["frames_in"])

    @property
    def received(self) -> int:
        """Bytes that came since the last reset."""
        return int(self.engine.statistics()["bytes_in"])

    def _until(self, done: Callable[[], bool], within_s: float) -> None:
        until = time.monotonic() + within_s
        while not done():
            if time.monotonic() > until:
                raise CrowdFailed(f"not within {within_s:.0f} s: {self._told()}")
            self.engine.run(STEP_S, until="time")

    def _told(self) -> dict[str, Any]:
        return {name: value for name, value in self.engine.statistics().items() if value}

    @contextmanager
    def _working(self) -> Iterator[None]:
        began, cpu = time.perf_counter(), time.thread_time()
        try:
            yield
        finally:
            self.cores = max(self.cores, (time.thread_time() - cpu) / max(time.perf_counter() - began, 1e-6))


@contextmanager
def crowd(capacity: int) -> Iterator[Crowd]:
    """A crowd that is gone when left, every socket closed."""
    found = Crowd(capacity)
    try:
        yield found
    finally:
        found.engine.close()

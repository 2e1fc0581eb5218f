"""Several engines in processes of their own, told what to do all at once; what they counted, merged."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from benchmarks.driver import Load, LoadFailed
from benchmarks.load.engine import Call, Plan
from benchmarks.native.latency import Counts, Latencies, merge

PATIENCE_S = 20.0
"""For an answer, beyond the time for which engines were told to run."""

START_S = 0.1
"""Between the word to begin and the moment at which all begin."""


class Told:
    """What all engines counted since their last `reset`."""

    def __init__(self, told: Sequence[Mapping[str, Any]]) -> None:
        self.each: list[dict[str, Any]] = [dict(one["statistics"]) for one in told]
        self.statistics: dict[str, Any] = total(self.each)
        self._tables: list[dict[str, Counts]] = [dict(one["histograms"]) for one in told]
        self.latencies: dict[str, Latencies] = merge(self._tables)

    def latency(self, name: str) -> Latencies:
        """Empty where nothing was recorded."""
        return self.latencies.get(name) or Latencies()

    @property
    def wall_s(self) -> float:
        """Of the process that counted for the longest time."""
        return max(float(one["wall_s"]) for one in self.each)

    @property
    def cpu_s(self) -> float:
        """Of all generators, user and system."""
        seconds: float = self.statistics["user_s"] + self.statistics["system_s"]
        return seconds

    @property
    def busiest(self) -> float:
        """Share of a core that the busiest generator used: close to 1 it was a bottleneck."""
        return max(float(one["user_s"] + one["system_s"]) / float(one["wall_s"]) for one in self.each)


class Fleet:
    """`processes` engines. Each call goes to all at once and returns their results in order; a context manager."""

    def __init__(self, processes: int, *, capacity: int = 20_000) -> None:
        self._capacity = capacity
        self._processes = processes
        self._stack = contextlib.ExitStack()
        self._loads: list[Load] = []

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            for number in range(self._processes):
                plan = Plan(capacity=self._capacity, seed=number + 1)
                self._loads.append(stack.enter_context(Load("engine", plan)))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def __len__(self) -> int:
        return self._processes

    @property
    def pids(self) -> list[int]:
        return [load.pid for load in self._loads]

    def call(self, method: str, *, within_s: float = PATIENCE_S, **kwargs: Any) -> list[Any]:
        """The same call to every engine (or of `load/engine.py`). Bytes may be given. Raises `LoadFailed`."""
        return self.each(method, [kwargs] * self._processes, within_s=within_s)

    def each(self, method: str, kwargs: Sequence[Mapping[str, Any]], *, within_s: float = PATIENCE_S) -> list[Any]:
        """A call with other arguments for each engine."""
        if len(kwargs) != self._processes:
            raise ValueError(f"arguments for {len(kwargs)} of {self._processes} processes")
        for load, one in zip(self._loads, kwargs, strict=True):
            load.tell([Call(method, {name: _plain(value) for name, value in one.items()})])
        answers = [load.hear(within_s) for load in self._loads]
        for number, answer in enumerate(answers):
            if "error" in answer:
                raise LoadFailed(f"{method} at generator {number}: {answer['error']}")
        return [answer["results"][0] for answer in answers]

    def begin_ns(self) -> int:
        """A moment shortly from now, for jobs that all engines shall begin together."""
        return time.monotonic_ns() + int(START_S * 1e9)

    def run(self, seconds: float, *, until: str = "jobs") -> bool:
        """Whether all jobs of all engines are done."""
        return all(self.call("run", within_s=seconds + PATIENCE_S, seconds=seconds, until=until))

    def told(self) -> Told:
        return Told(self.call("told"))

    def reset(self) -> None:
        self.call("reset")


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, range):
        return list(value)
    if isinstance(value, list | tuple) and value and isinstance(value[0], bytes):
        return [each.decode("latin-1") for each in value]
    return value


def total(statistics: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Sums of what several engines counted; of `wall_s` and names that begin with `most` the greatest, with `least` the
    least; texts and lists of the first that has some.
    """
    whole: dict[str, Any] = {}
    for one in statistics:
        for name, value in one.items():
            whole[name] = _added(name, whole[name], value) if name in whole else _copied(value)
    return whole


def _copied(value: Any) -> Any:
    return total([value]) if isinstance(value, dict) else value


def _added(name: str, known: Any, more: Any) -> Any:
    if isinstance(known, dict):
        return total([known, more])
    if isinstance(known, str | list):
        return known or more
    if name == "wall_s" or name.startswith("most"):
        return max(known, more)
    if name.startswith("least"):
        return min(known, more) if known and more else known or more
    return known + more


def shares(count: int, processes: int) -> list[int]:
    """`count` split as evenly as can be."""
    return [count // processes + (number < count % processes) for number in range(processes)]

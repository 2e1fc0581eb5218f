"""CPU and memory of the stack's processes, by kind."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from typing import NamedTuple

import psutil

from benchmarks.target import Target

KINDS: Mapping[str, str] = {
    "gateway-1": "gateways",
    "gateway-2": "gateways",
    "router-1": "routers",
    "router-2": "routers",
    "ledger": "workers",
    "janitor": "workers",
    "postgres": "PostgreSQL",
    "nats": "NATS",
    "redis": "Redis",
}
PROVIDER = "the scripted provider"


class Reading(NamedTuple):
    """CPU seconds since the processes' start, by kind, at a moment (seconds, monotonic)."""

    at: float
    cpu_s: dict[str, float]

    def since(self, earlier: Reading) -> dict[str, float]:
        """CPU seconds by kind between two readings."""
        return {kind: seconds - earlier.cpu_s[kind] for kind, seconds in self.cpu_s.items()}


class Meter:
    """Reads the processes of a target as they are when it is made; one that is restarted is not followed."""

    def __init__(self, target: Target) -> None:
        self._pids = target.pids()
        self._provider = target.provider_pid

    def read(self) -> Reading:
        found: dict[str, float] = {PROVIDER: cpu_s(self._provider)}
        for part, kind in KINDS.items():
            found[kind] = found.get(kind, 0.0) + cpu_s(self._pids[part])
        return Reading(time.monotonic(), found)

    def part_cpu_s(self, part: str) -> float:
        return cpu_s(self._pids[part])

    def rss(self, part: str) -> int:
        """Bytes of a part's process and its children."""
        return sum(process.memory_info().rss for process in _tree(self._pids[part]))


def cpu_s(pid: int) -> float:
    """User and system time of a process, its children, and those children that ended: it never falls."""
    total = 0.0
    for process in _tree(pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def _tree(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]

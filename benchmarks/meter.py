"""CPU and memory of process trees, the kernel's share of sockets, and the stack's parts by kind."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
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
PAGE_BYTES = 4096
# What the kernel keeps for sockets beside their buffers, as slabs name it.
SLABS = re.compile(
    r"^(TCP(v6)?|sock_inode_cache|dentry|lsm_(inode|file)_cache|filp|skbuff_\w+|eventpoll_\w+|ep_\w+"
    r"|request_sock_TCP\w*) "
)


class Cpu(NamedTuple):
    """CPU seconds of processes since their start, at a moment (seconds, monotonic). Differences are by `since`."""

    at: float
    user_s: float
    system_s: float

    @property
    def total_s(self) -> float:
        return self.user_s + self.system_s

    def since(self, earlier: Cpu) -> Cpu:
        """What was used between two readings; `at` is then the seconds between them."""
        return Cpu(self.at - earlier.at, self.user_s - earlier.user_s, self.system_s - earlier.system_s)


class Memory(NamedTuple):
    """Bytes of processes. `pss` counts a page that several share in equal parts; the kernel's is in neither."""

    rss: int
    pss: int


class KernelSockets(NamedTuple):
    """What the kernel holds for TCP on the whole machine, in bytes. `buffers`: pages of data in flight or unread;
    `slabs`: the sockets themselves, None where only root may read it; `open`: sockets in use, both ends.
    """

    open: int
    buffers: int
    slabs: int | None

    def since(self, earlier: KernelSockets) -> KernelSockets:
        both = self.slabs is not None and earlier.slabs is not None
        slabs = (self.slabs or 0) - (earlier.slabs or 0) if both else None
        return KernelSockets(self.open - earlier.open, self.buffers - earlier.buffers, slabs)

    @property
    def total(self) -> int:
        return self.buffers + (self.slabs or 0)


def cpu(*pids: int) -> Cpu:
    """Of process trees: the processes, their children, and those children that ended, so that it never falls. The
    grain is 10 ms.
    """
    user = system = 0.0
    for process in _trees(pids):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            user += times.user + times.children_user
            system += times.system + times.children_system
    return Cpu(time.monotonic(), user, system)


def memory(*pids: int) -> Memory:
    """Of process trees. PSS is read page by page: some ms for each 100 MiB."""
    rss = pss = 0
    for process in _trees(pids):
        with contextlib.suppress(psutil.NoSuchProcess):
            full = process.memory_full_info()
            rss += full.rss
            pss += full.pss
    return Memory(rss, pss)


def kernel_sockets() -> KernelSockets:
    """Both ends of every connection of this machine are in it: the load generator's as well."""
    text = Path("/proc/net/sockstat").read_text()
    found = re.search(r"^TCP: inuse (\d+) .* mem (\d+)$", text, re.MULTILINE)
    assert found, "/proc/net/sockstat has no line of TCP"
    return KernelSockets(int(found[1]), int(found[2]) * PAGE_BYTES, _slab_bytes())


def _slab_bytes() -> int | None:
    try:
        lines = Path("/proc/slabinfo").read_text().splitlines()
    except OSError:
        return None
    # name, active objects, objects, bytes of an object, …
    return sum(int(fields[2]) * int(fields[3]) for fields in map(str.split, filter(SLABS.match, lines)))


class Others(NamedTuple):
    """CPU seconds of the whole machine and of this process with all that it started, at a moment."""

    at: float
    all_s: float
    ours_s: float

    def since(self, earlier: Others) -> float:
        """Cores that others used between two readings, on average. Interrupts are not in it: they are everybody's."""
        used = (self.all_s - earlier.all_s) - (self.ours_s - earlier.ours_s)
        return max(0.0, used / max(self.at - earlier.at, 1e-3))


def others() -> Others:
    times = psutil.cpu_times()
    ours = cpu(os.getpid())
    return Others(ours.at, times.user + times.nice + times.system, ours.total_s)


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
        found: dict[str, float] = {PROVIDER: cpu(self._provider).total_s}
        for part, kind in KINDS.items():
            found[kind] = found.get(kind, 0.0) + cpu(self._pids[part]).total_s
        return Reading(time.monotonic(), found)

    def part_cpu(self, *parts: str) -> Cpu:
        """Of these parts of the stack together."""
        return cpu(*(self._pids[part] for part in parts))

    def part_cpu_s(self, part: str) -> float:
        return self.part_cpu(part).total_s

    def rss(self, part: str) -> int:
        """Bytes of a part's process and its children."""
        return memory(self._pids[part]).rss


def _trees(pids: Iterable[int]) -> list[psutil.Process]:
    found: list[psutil.Process] = []
    for pid in pids:
        process = psutil.Process(pid)
        found += [process, *process.children(recursive=True)]
    return found

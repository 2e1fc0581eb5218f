"""What was measured on: figures mean nothing without it."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import psutil

from benchmarks.driver import ROOT
from benchmarks.figures import percentile

SYNCS = 200
# Read where this kernel has them: what bounds how many connections there can be, and what they may take.
SETTINGS = (
    "fs/file-max",
    "fs/nr_open",
    "net/core/somaxconn",
    "net/ipv4/ip_local_port_range",
    "net/ipv4/tcp_max_syn_backlog",
    "net/ipv4/tcp_mem",
    "net/ipv4/tcp_rmem",
    "net/ipv4/tcp_wmem",
    "net/netfilter/nf_conntrack_max",
)


class Machine(msgspec.Struct, frozen=True):
    """`sync_ms`: median time of a 4 KiB append with fsync on the disk that holds the stack's data; `load`: the
    system's load average over one minute before the run; `busy`: the share of all cores that others used just then;
    `limits`: settings of the kernel that bound connections, by name.
    """

    date: str
    revision: str
    processor: str
    cores: int
    memory_gib: float
    system: str
    python: str
    disk: str
    sync_ms: float
    load: float
    busy: float
    limits: dict[str, str]


def describe(folder: Path) -> Machine:
    """This machine now; `folder` is where the stack will keep its data."""
    busy = psutil.cpu_percent(interval=1.0) / 100
    return Machine(
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        revision=_revision(),
        processor=_processor(),
        cores=psutil.cpu_count() or 1,
        memory_gib=psutil.virtual_memory().total / 2**30,
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        disk=_file_system(folder),
        sync_ms=_sync_s(folder) * 1e3,
        load=psutil.getloadavg()[0],
        busy=busy,
        limits=_limits(),
    )


def _limits() -> dict[str, str]:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = {"open files of a process": str(hard)}
    for name in SETTINGS:
        path = Path("/proc/sys") / name
        if path.is_file():
            found[name.replace("/", ".")] = " ".join(path.read_text().split())
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def _revision() -> str:
    """The commit, marked where the tree differs from it in more than words; empty outside a repository."""
    try:
        commit = _git("rev-parse", "--short=10", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs", ":!*.md")
    except (OSError, subprocess.SubprocessError):
        return ""
    return commit + ("-dirty" if changed else "")


def _git(*words: str) -> str:
    """Raises OSError, `subprocess.SubprocessError`."""
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()


def _file_system(folder: Path) -> str:
    mounts = [part for part in psutil.disk_partitions(all=True) if folder.resolve().is_relative_to(part.mountpoint)]
    return max(mounts, key=lambda part: len(part.mountpoint)).fstype if mounts else "unknown"


def _sync_s(folder: Path) -> float:
    samples: list[float] = []
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        for _ in range(SYNCS):
            began = time.perf_counter()
            file.write(b"\0" * 4096)
            os.fsync(file.fileno())
            samples.append(time.perf_counter() - began)
    return percentile(samples, 50)

"""Whether this machine can hold so many connections with both ends on it; nothing is changed to make it so."""

from __future__ import annotations

import resource
from pathlib import Path

import psutil

# Both ends of a connection: the gateway's and the generator's memory, and the kernel's for two sockets.
BYTES_PER_CONNECTION = 16 * 1024
SPARE_FILES = 20_000


def missing(connections: int, files: int, sources: int, per_process: int) -> list[str]:
    """What it lacks for `connections` in processes of `per_process` with `files` files each, whose clients have
    `sources` addresses for each process; empty where it lacks nothing.
    """
    checks = (
        _files(files),
        _all_files(2 * connections + SPARE_FILES),
        _ports(per_process, sources),
        _tracked(connections),
        _memory(connections * BYTES_PER_CONNECTION),
    )
    return [lack for lack in checks if lack]


def _files(files: int) -> str:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    enough = hard == resource.RLIM_INFINITY or hard >= files
    return "" if enough else f"files for a process: {hard:,} of {files:,} (ulimit -Hn)"


def _all_files(files: int) -> str:
    used, _, most = map(int, _read("/proc/sys/fs/file-nr", "0 0 0").split())
    return "" if most - used >= files else f"files for all: {most - used:,} of {files:,} are free (fs.file-max)"


def _ports(connections: int, sources: int) -> str:
    first, last = map(int, _read("/proc/sys/net/ipv4/ip_local_port_range", "32768 60999").split())
    ports = (last - first + 1) * sources
    return "" if ports >= connections else f"local ports: {ports:,} of {connections:,} (ip_local_port_range)"


def _tracked(connections: int) -> str:
    """Where a firewall tracks loopback, its table bounds connections; it counts none where it does not."""
    most = int(_read("/proc/sys/net/netfilter/nf_conntrack_max", "0"))
    count = int(_read("/proc/sys/net/netfilter/nf_conntrack_count", "0"))
    enough = count == 0 or most - count >= connections
    return "" if enough else f"tracked connections: {most - count:,} of {connections:,} (nf_conntrack_max)"


def _memory(wanted: int) -> str:
    free = psutil.virtual_memory().available
    return "" if free >= wanted else f"memory: {free / 2**30:.1f} of {wanted / 2**30:.1f} GiB"


def _read(path: str, default: str) -> str:
    found = Path(path)
    return found.read_text() if found.exists() else default

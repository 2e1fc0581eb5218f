"""Ports: which are free, which stay ours while a program restarts, and who holds a taken one."""

from __future__ import annotations

import contextlib
import errno
import random
import socket
from collections.abc import Iterable
from pathlib import Path

FIRST = 10_000
TRIES = 200


class PortTaken(Exception):
    """A port that was asked for is in use; the message says by whom and what to do."""


def port(text: str) -> int:
    """An option's value: a port that can be listened on. Raises ValueError."""
    number = int(text)
    if not 1 <= number <= 65_535:
        raise ValueError(text)
    return number


def reachable(host: str) -> str:
    """Where a server that listens on this address is reached from this machine."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound


def base_url(host: str, port: int) -> str:
    """The URL of an HTTP server that listens on this address, as seen from this machine."""
    name = reachable(host)
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"


def reserve(host: str, port: int, option: str) -> socket.socket:
    """Takes a port that several of our processes will share with SO_REUSEPORT, for as long as the socket stays open: it
    does not listen, so it gets no connection. Raises `PortTaken` where anybody has the port.
    """
    if error := _refusal(host, port):
        raise PortTaken(_why(error, host, port, option)) from error
    # Without SO_REUSEADDR it also keeps out those who have that, unless connections that have just ended forbid it.
    for reuse in (False, True):
        held = _socket(host, reuse=reuse)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            held.bind((host, port))
        except OSError as failure:
            held.close()
            error = failure
        else:
            return held
    assert error is not None
    raise PortTaken(_why(error, host, port, option)) from error


def _refusal(host: str, port: int) -> OSError | None:
    with _socket(host) as probe:
        try:
            probe.bind((host, port))
        except OSError as error:
            return error
    return None


def _socket(host: str, *, reuse: bool = True) -> socket.socket:
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
    return made


def _why(error: OSError, host: str, port: int, option: str) -> str:
    if error.errno == errno.EADDRINUSE:
        user = holder(port)
        by = f" by PID {user[0]} ({user[1]})" if user else ""
        return f"port {port} is in use{by}; use {option}"
    return f"cannot listen on {host} port {port}: {error.strerror}; use {option}"


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    return _refusal(host, port) is None


def choose(taken: Iterable[int] = (), host: str = "127.0.0.1") -> int:
    """A free port below the range that the kernel gives to outgoing connections, so that none of these can take it
    while its server restarts. Raises `PortTaken` where none is found.
    """
    used = set(taken)
    last = _first_ephemeral() - 1
    for _ in range(TRIES):
        port = random.randint(FIRST, last)  # noqa: S311 - which port it is protects nothing
        if port not in used and is_free(port, host):
            return port
    raise PortTaken(f"no free port between {FIRST} and {last}")


def _first_ephemeral() -> int:
    try:
        return max(FIRST + 1, int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0]))
    except (OSError, ValueError):
        return 32_768


def holder(port: int) -> tuple[int, str] | None:
    """The process (PID, name) that has a socket bound to this local TCP port, where the system lets us see it."""
    inodes = _inodes(port)
    if not inodes:
        return None
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            for descriptor in (process / "fd").iterdir():
                target = _link(descriptor)
                if target.startswith("socket:[") and target[8:-1] in inodes:
                    return int(process.name), (process / "comm").read_text().strip()
    return None


def _link(path: Path) -> str:
    try:
        return str(path.readlink())
    except OSError:
        return ""


def _inodes(port: int) -> set[str]:
    listening: set[str] = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if int(fields[1].rsplit(":", 1)[1], 16) == port and fields[3] == "0A":
                    listening.add(fields[9])
    return listening

"""Real servers as child processes of a test run: on free loopback ports, dead when the run is."""

from __future__ import annotations

import ctypes
import signal
import socket
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.support.polling import until

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def free_port() -> int:
    """A loopback TCP port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Child:
    """One server process that can be stopped, started again and frozen. `answers` says whether it serves.

    All methods are synchronous and bounded; `start` and `stop` return once the server does or does not serve.
    """

    def __init__(self, command: Sequence[str], log: Path, answers: Callable[[], bool]) -> None:
        self._command = list(command)
        self._log = log
        self._answers = answers
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self, timeout_s: float = 10.0) -> None:
        """Starts it, or does nothing where it runs."""
        if self._process is not None and self._process.poll() is None:
            return
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=_die_with_parent
            )
        process = self._process
        until(lambda: process.poll() is not None or self._answers(), timeout_s, f"{self._command[0]} answers")
        if process.poll() is not None:
            raise RuntimeError(f"{self._command[0]} did not start: {self._log.read_text()[-2000:]}")

    def stop(self, sig: signal.Signals = signal.SIGTERM, timeout_s: float = 5.0) -> None:
        """Ends it by the signal, by SIGKILL after the timeout. Idempotent."""
        if self._process is None:
            return
        self.thaw()
        self._process.send_signal(sig)
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def kill(self) -> None:
        """Ends it at once."""
        self.stop(signal.SIGKILL)

    def freeze(self) -> None:
        """It keeps its sockets and does nothing (SIGSTOP), all of its threads, once this returns."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        until(lambda: all(state == "T" for state in _thread_states(self.pid)), 5.0, "the server stands still")

    def thaw(self) -> None:
        """It goes on."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)


def _thread_states(pid: int) -> list[str]:
    stats = [task.joinpath("stat").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    return [stat.rpartition(")")[2].split()[0] for stat in stats]


def says(port: int, request: bytes, expected: bytes) -> bool:
    """Whether a server on this loopback port answers `request` with something that starts with `expected`."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0) as sock:
            sock.sendall(request)
            return sock.recv(64).startswith(expected)
    except OSError:
        return False

"""The load generators' processes, seen from the benchmark."""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from core.config import inherited

ROOT = Path(__file__).resolve().parents[1]
END_S = 5.0


class LoadFailed(Exception):
    """The generator ended or said nothing in time; what it had to say about it is on stderr."""


class Load:
    """A generator (`benchmarks/load/NAME.py`) in a process of its own, given its plan; a context manager.

    It ends when its stdin is closed, so none outlives the benchmark.
    """

    def __init__(self, name: str, plan: msgspec.Struct) -> None:
        self._name = name
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.load", name],
            cwd=ROOT,
            env=inherited(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        self._rest = b""
        self.tell(plan)

    @property
    def pid(self) -> int:
        return self._process.pid

    def tell(self, message: object = None) -> None:
        """A message; without one, the word to go on."""
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(message) + b"\n")

    def hear(self, within_s: float = 30.0) -> dict[str, Any]:
        """What it says next. Raises `LoadFailed`."""
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._rest:
                if not selector.select(within_s):
                    raise LoadFailed(f"the load generator {self._name} has said nothing for {within_s:.0f} s")
                data = os.read(self._process.stdout.fileno(), 1 << 20)
                if not data:
                    raise LoadFailed(f"the load generator {self._name} ended with {self._process.wait()}")
                self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        message: dict[str, Any] = msgspec.json.decode(line)
        return message

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

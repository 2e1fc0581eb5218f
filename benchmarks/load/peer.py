"""How a load generator talks to the benchmark that started it: JSON lines in on stdin, out on stdout."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

import msgspec


class Gone(Exception):
    """The benchmark has closed our stdin: there is nobody to work for."""


class Peer:
    """The benchmark, seen from its load generator. One message each way at a time."""

    async def hear(self) -> Any:
        """The next message. Raises `Gone`."""
        line = await asyncio.get_running_loop().run_in_executor(None, sys.stdin.buffer.readline)
        if not line:
            raise Gone
        return msgspec.json.decode(line)

    def say(self, **message: Any) -> None:
        sys.stdout.buffer.write(msgspec.json.encode(message) + b"\n")
        sys.stdout.buffer.flush()


class Effort:
    """What the generator itself used since it was made: it must not be the bottleneck that it measures."""

    def __init__(self) -> None:
        self._wall = time.perf_counter()
        self._cpu = time.process_time()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._wall

    @property
    def cpu_s(self) -> float:
        return time.process_time() - self._cpu

"""What strangers do to a gateway, and how somebody who belongs there fares meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import psutil

from benchmarks.native.fleet import Fleet
from tests.hostile.sockets import Socket
from tests.support.polling import eventually

PROBES_PER_S = 20.0
POOL = 10


class Probe:
    """Somebody with a right to be there who pings on one of a few connections, or with `anew` shakes hands and pings,
    twenty times a second while the context is open. `took_s`: from when each was due to its answer; none waits for the
    one before. `begun` and `answered` number the last one that began, and the last that was answered.
    """

    def __init__(self, port: int, token: str, *, anew: bool = False) -> None:
        self._port, self._token, self._anew = port, token, anew
        self._probes: set[asyncio.Task[None]] = set()
        self.took_s: list[float] = []
        self.begun = self.answered = 0

    async def __aenter__(self) -> Probe:
        self._pool = [(await self._open(), asyncio.Lock()) for _ in range(0 if self._anew else POOL)]
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        for opened, _lock in self._pool:
            opened.reset()
        for probe in self._probes:
            probe.cancel()

    @property
    def p99_s(self) -> float:
        assert len(self.took_s) >= 2 * PROBES_PER_S, "there were too few probes to tell"
        return sorted(self.took_s)[-1 - len(self.took_s) // 100]

    async def _run(self) -> None:
        due = time.monotonic()
        while True:
            due += 1 / PROBES_PER_S
            await asyncio.sleep(due - time.monotonic())  # an open load: each at its own time
            self.begun += 1
            probe = asyncio.create_task(self._one(self.begun, due))
            self._probes.add(probe)
            probe.add_done_callback(self._ended)

    async def _one(self, number: int, due: float) -> None:
        if self._anew:
            opened = await self._open()
            await _ping(opened)
            opened.reset()
        else:
            opened, lock = self._pool[number % POOL]
            async with lock:
                await _ping(opened)
        self.answered = max(self.answered, number)
        self.took_s.append(time.monotonic() - due)

    def _ended(self, probe: asyncio.Task[None]) -> None:
        self._probes.discard(probe)
        if not probe.cancelled() and probe.exception() is not None:
            self.took_s.append(float("inf"))

    async def _open(self) -> Socket:
        opened = await Socket.open(self._port, self._token)
        assert (await opened.next())["type"] == "welcome"
        return opened


async def _ping(opened: Socket) -> None:
    opened.tell({"type": "ping", "t": 1})
    await opened.of("pong")


class Cost:
    """What a process spends from here on: seconds of CPU, and bytes of resident memory above where it began."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._cpu_s, self._bytes = self._spent_s(), self._resident()

    @property
    def cpu_s(self) -> float:
        return self._spent_s() - self._cpu_s

    @property
    def grown_bytes(self) -> int:
        return self._resident() - self._bytes

    def _spent_s(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)

    def _resident(self) -> int:
        return int(self._process.memory_info().rss)


class Unharmed:
    """Two probes at once, at the gateway that strangers are at and at one where none are: what a busy machine, or the
    strangers' own work, costs both is no fault of the gateway's.
    """

    def __init__(self, port: int, other: int, token: str, *, anew: bool = False) -> None:
        self.here, self.there = Probe(port, token, anew=anew), Probe(other, token, anew=anew)

    async def __aenter__(self) -> Unharmed:
        await self.there.__aenter__()
        await self.here.__aenter__()
        await eventually(lambda: self.here.took_s and self.there.took_s)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.here.__aexit__()
        await self.there.__aexit__()

    async def caught_up(self) -> None:
        """Waits for somebody who comes here now: whoever came before has been accepted then."""
        before = self.here.begun
        await eventually(lambda: self.here.answered > before, 30, "a probe's answer")

    async def told_enough(self) -> None:
        """Waits until there are enough probes of both to say something."""
        await eventually(lambda: min(len(self.here.took_s), len(self.there.took_s)) > 3 * PROBES_PER_S, 30, "probes")

    def check(self) -> None:
        """Nobody was refused or cut off, and the p99 here is bounded by that there, three times, and a second."""
        assert self.here.p99_s < 3 * self.there.p99_s + 1.0, (self.here.p99_s, self.there.p99_s)


class Strangers:
    """Connections from a process of their own to `port`; a context manager. Numbers count over its life."""

    def __init__(self, port: int, capacity: int) -> None:
        self._port = port
        self._fleet = Fleet(1, capacity=capacity)

    async def __aenter__(self) -> Strangers:
        self._fleet.__enter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self._fleet.__exit__, None, None, None)

    async def begin(
        self, requests: Sequence[bytes], count: int, sources: Sequence[str], *, raw: bool = False, **how: float
    ) -> list[int]:
        """`count` connections that begin with these bytes are tried from now on, `how` as `Engine.open` has it."""
        ((first, behind),) = await self.tell(
            "prepare",
            targets=[("127.0.0.1", self._port)],
            requests=list(requests),
            count=count,
            sources=list(sources),
            kind="raw" if raw else "websocket",
            timeout_s=15.0,
        )
        numbers = list(range(first, behind))
        await self.tell("open", numbers=numbers, **how)
        return numbers

    async def run(self, seconds: float) -> bool:
        """Lets them go on, until all is done: whether it is."""
        return await asyncio.to_thread(self._fleet.run, seconds)

    async def tell(self, method: str, **kwargs: Any) -> list[Any]:
        return await asyncio.to_thread(self._fleet.call, method, **kwargs)

    async def told(self) -> dict[str, Any]:
        """The engine's statistics since the last time."""
        found = (await asyncio.to_thread(self._fleet.told)).statistics
        await asyncio.to_thread(self._fleet.reset)
        return found

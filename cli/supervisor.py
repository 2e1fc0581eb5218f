"""Keeps programs running: starts them, waits until they serve, restarts what dies, stops all in order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from cli.logfiles import last_lines
from cli.processes import Account, describe, ended, send, spawn

State = Literal["starting", "ready", "stopping", "stopped", "waiting", "failed"]
Probe = Callable[[], Awaitable[bool]]
Tell = Callable[[str, str], None]
Needs = Callable[[Sequence[str]], Awaitable[None]]

DEATHS = 5
DEATHS_WITHIN_S = 60.0
BACKOFF_S = 0.1
BACKOFF_MAX_S = 5.0
PROBE_EVERY_S = 0.05
PROBE_S = 1.0
TOLD_LINES = 15


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """A program to keep running. `probe` says whether it serves; it must be ready within `start_s` or is started again.
    It is asked to end with `stop_signal` and killed after `stop_s`. `death_signal` is what it gets when we are killed.
    It is not started, nor started again, before the parts that it `needs` are ready.
    """

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    log: Path
    ports: Mapping[str, int]
    probe: Probe
    needs: Sequence[str] = ()
    account: Account | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    death_signal: signal.Signals = signal.SIGKILL
    start_s: float = 30.0
    stop_s: float = 5.0


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """What is told of a part: `since` (Unix seconds) is when it came into `state`."""

    part: str
    pid: int | None
    state: State
    since: float
    ports: dict[str, int]


class PartFailed(Exception):
    """A part keeps dying, so it makes no sense to go on."""

    def __init__(self, part: str, reason: str, lines: Sequence[str]) -> None:
        super().__init__(f"{part} {reason}")
        self.part = part
        self.lines = tuple(lines)


class Runner:
    """One part and the task that keeps it running while it is wanted."""

    def __init__(self, part: Part, tell: Tell, gave_up: Callable[[PartFailed], None], needs: Needs) -> None:
        self.part = part
        self._needs = needs
        self.state: State = "stopped"
        self.since = time.time()
        self.started = 0.0
        self._tell = tell
        self._gave_up = gave_up
        self._process: subprocess.Popen[bytes] | None = None
        self._task: asyncio.Task[None] | None = None
        self._deaths: deque[float] = deque(maxlen=DEATHS)
        self._changed = asyncio.Event()
        self.failure: PartFailed | None = None
        self.serving = asyncio.Event()

    @property
    def pid(self) -> int | None:
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    def status(self) -> Status:
        return Status(
            part=self.part.name, pid=self.pid, state=self.state, since=self.since, ports=dict(self.part.ports)
        )

    def start(self) -> None:
        """Wants the part running; nothing happens where it already is."""
        if self._task is None or self._task.done():
            self._deaths.clear()
            self.failure = None
            self._task = asyncio.create_task(self._keep(), name=f"keep {self.part.name}")

    async def ready(self) -> None:
        """Waits until the part serves. Raises `PartFailed` where it does not come up."""
        while self.state != "ready":
            if self.failure is not None:
                raise self.failure
            if self._task is None:
                raise PartFailed(self.part.name, "was stopped", ())
            self._changed.clear()
            await self._changed.wait()

    async def stop(self, within_s: float | None = None) -> None:
        """Ends the part for good, by force when it takes longer than its `stop_s` or `within_s`."""
        process, task = self._process, self._task
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
            self._task = None
        if process is not None and process.poll() is None:
            self._enter("stopping")
            await self._end(process, self.part.stop_s if within_s is None else min(within_s, self.part.stop_s))
        self._enter("stopped")

    async def kill(self) -> None:
        """Ends the program at once, its own children with it."""
        if self._task is not None:
            self._task.cancel()
        if self._process is not None and self._process.poll() is None:
            await self._end(self._process, 0.0)
        self._enter("stopped")

    async def _keep(self) -> None:
        while True:
            self._enter("waiting")
            await self._needs(self.part.needs)
            try:
                reason = await self._run_once()
            except OSError as error:
                reason = f"cannot be started: {error.strerror} ({self.part.argv[0]})"
            self._deaths.append(time.monotonic())
            recent = sum(1 for death in self._deaths if death > time.monotonic() - DEATHS_WITHIN_S)
            if recent >= DEATHS:
                self._fail(f"{reason}, {recent} times in a row")
                return
            delay = min(BACKOFF_S * 2.0 ** (recent - 1), BACKOFF_MAX_S)
            self._enter("waiting")
            self._tell(self.part.name, f"{reason}; starting it again in {delay:.1f} s")
            await asyncio.sleep(delay)

    def _fail(self, reason: str) -> None:
        self.failure = PartFailed(self.part.name, reason, last_lines(self.part.log, TOLD_LINES))
        self._enter("failed")
        self._gave_up(self.failure)

    async def _run_once(self) -> str:
        """Starts the program and watches it until it ends; returns why."""
        again = bool(self._deaths)
        self._enter("starting")
        self.started = time.monotonic()
        with _opened(self.part.log) as output:
            process = self._process = spawn(
                self.part.argv,
                env=self.part.env,
                output=output,
                account=self.part.account,
                death_signal=self.part.death_signal,
            )
        pid = process.pid
        end = asyncio.create_task(ended(process))
        serving = asyncio.create_task(self._serving())
        try:
            await asyncio.wait([end, serving], timeout=self.part.start_s, return_when=asyncio.FIRST_COMPLETED)
            if not end.done() and not serving.done():
                await self._end(process, 0.0)
                return f"(PID {pid}) was not ready within {self.part.start_s:.0f} s"
            if not end.done():
                self._enter("ready")
                took = time.monotonic() - self.started
                self._tell(self.part.name, f"{'ready again' if again else 'ready'} after {took:.1f} s (PID {pid})")
            status = await asyncio.shield(end)
            return f"(PID {pid}) died with {describe(status)}"
        finally:
            for task in (end, serving):
                task.cancel()
            await asyncio.wait([end, serving])

    async def _serving(self) -> None:
        while True:
            with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
                async with asyncio.timeout(PROBE_S):
                    if await self.part.probe():
                        return
            await asyncio.sleep(PROBE_EVERY_S)

    async def _end(self, process: subprocess.Popen[bytes], within_s: float) -> None:
        for number, patience in ((self.part.stop_signal, within_s), (self.part.death_signal, 1.0)):
            if patience <= 0:
                continue
            send(process, number)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ended(process), patience)
                return
        send(process, signal.SIGKILL)
        await ended(process)

    def _enter(self, state: State) -> None:
        if state != self.state:
            self.state, self.since = state, time.time()
            if state == "ready":
                self.serving.set()
            else:
                self.serving.clear()
        self._changed.set()


class Supervisor:
    """All parts of a stack."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._runners: dict[str, Runner] = {}
        self._failures: asyncio.Queue[PartFailed] = asyncio.Queue()

    def add(self, part: Part) -> Runner:
        if part.name in self._runners:
            raise ValueError(f"two parts are named {part.name}")
        runner = self._runners[part.name] = Runner(part, self._tell, self._failures.put_nowait, self._all_ready)
        return runner

    async def _all_ready(self, names: Sequence[str]) -> None:
        runners = [self._runners[name] for name in names]
        while any(runner.state != "ready" for runner in runners):
            for runner in runners:
                await runner.serving.wait()

    def __getitem__(self, name: str) -> Runner:
        return self._runners[name]

    def names(self) -> list[str]:
        return list(self._runners)

    def statuses(self) -> list[Status]:
        return [runner.status() for runner in self._runners.values()]

    async def start(self, names: Iterable[str]) -> None:
        """Starts these parts at once and waits until all serve. Raises `PartFailed`."""
        runners = [self._runners[name] for name in names]
        for runner in runners:
            runner.start()
        waits = [asyncio.create_task(runner.ready()) for runner in runners]
        try:
            await asyncio.gather(*waits)
        finally:
            for wait in waits:
                wait.cancel()

    async def failed(self) -> PartFailed:
        """Waits until a part has failed for good."""
        return await self._failures.get()

    async def stop(self, stages: Sequence[Sequence[str]], within_s: float) -> None:
        """Stops the parts stage by stage, those of a stage together; what is left when the time is up is killed."""
        deadline = time.monotonic() + within_s
        for stage in stages:
            left = max(deadline - time.monotonic(), 0.0)
            present = [self._runners[name] for name in stage if name in self._runners]
            await asyncio.gather(*(runner.stop(left) for runner in present))

    async def kill(self) -> None:
        """Kills everything at once."""
        await asyncio.gather(*(runner.kill() for runner in self._runners.values()))


@contextlib.contextmanager
def _opened(log: Path) -> Iterator[int]:
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)

"""Reads of turns' rows, shared by all who ask for the same one at once: a thousand who resume an answer cost two; and
bounded, so that a thousand who resume an answer each take their turn and leave connections for what others do.
"""

from __future__ import annotations

import asyncio
from typing import Final, NamedTuple

from core.clock import Clock
from core.errors import ParleyError
from core.history.port import History, Home
from core.model import Turn, TurnKey
from gateway.opening import answer_key, told

WAIT_S: Final = 20.0
"""For the turn of a read, before it is refused: a full gateway's answers take less (about a thousand a second)."""

SPARE: Final = 2
"""Connections to PostgreSQL that reads of rows leave to others, where there are as many."""


class Read(NamedTuple):
    """What history said. `asked_at`: when the reading began, on the monotonic clock."""

    home: Home | None
    row: Turn | None
    asked_at: float


class Rows:
    """A read that has begun may be older than a question that comes now: so that waits for the next one, which begins
    when this one is over, and which all others that come meanwhile wait for too.

    `connections`: how many there are to history. Each read takes two at once; in the pool itself who waits for longer
    than a read may take fails, and everybody else behind him.
    """

    def __init__(self, history: History, clock: Clock, connections: int) -> None:
        self._history = history
        self._clock = clock
        self._lanes = asyncio.Semaphore(max(1, (connections - SPARE) // 2))
        self._running: dict[str, asyncio.Task[Read]] = {}
        self._next: dict[str, asyncio.Task[Read]] = {}

    async def read(self, generation: str) -> Read:
        """The row of an answer and its conversation's home. Raises `ParleyError`."""
        key = answer_key(generation)
        running = self._running.get(generation)
        if running is None:
            task = asyncio.create_task(self._read(key))
            self._start(generation, task)
        else:
            waiting = self._next.get(generation)
            if waiting is None:
                waiting = self._next[generation] = asyncio.create_task(self._follow(generation, key, running))
                waiting.add_done_callback(_observe)
            task = waiting
        return await asyncio.shield(task)

    async def _follow(self, generation: str, key: TurnKey, running: asyncio.Task[Read]) -> Read:
        await asyncio.wait([running])
        self._start(generation, self._next.pop(generation))
        return await self._read(key)

    def _start(self, generation: str, task: asyncio.Task[Read]) -> None:
        self._running[generation] = task
        task.add_done_callback(lambda done: self._ended(generation, done))

    def _ended(self, generation: str, task: asyncio.Task[Read]) -> None:
        _observe(task)
        if self._running.get(generation) is task:
            del self._running[generation]

    async def _read(self, key: TurnKey) -> Read:
        try:
            async with asyncio.timeout(WAIT_S):
                await self._lanes.acquire()
        except TimeoutError as error:
            message = "Too many ask for their answers at this moment; nothing was changed. Try again."
            raise ParleyError("unavailable", message, retry_after_ms=1000) from error
        try:
            asked_at = self._clock.monotonic()
            home, row = await asyncio.gather(
                told(self._history.home(key.conversation_id)), told(self._history.read(key))
            )
            return Read(home, row, asked_at)
        finally:
            self._lanes.release()


def _observe(task: asyncio.Task[Read]) -> None:
    """Whoever waited may have left: then nobody else looks at what went wrong."""
    if not task.cancelled():
        task.exception()

"""Reads of turns' rows, shared by all who ask for the same one at once: a thousand who resume an answer cost two; and
bounded, so that a thousand who resume an answer each take their turn, user by user, and leave connections for what
others do.
"""

from __future__ import annotations

import asyncio
from typing import Final, NamedTuple

from core.clock import Clock
from core.errors import ParleyError
from core.history.port import History, Home
from core.model import Turn, TurnKey
from gateway.lanes import Lanes
from gateway.opening import answer_key, told

WAIT_S: Final = 20.0
"""For the turn of a read, before it is refused: a full gateway's answers take less (about a thousand a second)."""

SPARE: Final = 2
"""Connections to PostgreSQL that reads of rows leave to others, where there are as many."""

URGENT: Final = 2
"""Reads at once for those who cancel, of what is left: nobody who cancels waits for those who resume."""

Key = tuple[str, str, bool]
"""Who asks, for which answer, and whether it is urgent: nobody waits for what another user, or less haste, began."""


class Read(NamedTuple):
    """What history said. `asked_at`: when the reading began, on the monotonic clock."""

    home: Home | None
    row: Turn | None
    asked_at: float


class Rows:
    """A read that has begun may be older than a question that comes now: so that waits for the next one, which begins
    when this one is over, and which all others that come meanwhile wait for too.

    `connections`: how many there are to history. A read takes one at a time; in the pool itself who waits for longer
    than a read may take fails, and everybody else behind him.
    """

    def __init__(self, history: History, clock: Clock, connections: int) -> None:
        self._history = history
        self._clock = clock
        urgent = min(URGENT, max(1, connections - SPARE - 1))
        self._urgent, self._lanes = Lanes(urgent), Lanes(max(1, connections - SPARE - urgent))
        self._running: dict[Key, asyncio.Task[Read]] = {}
        self._next: dict[Key, asyncio.Task[Read]] = {}

    async def read(self, user: str, generation: str, urgent: bool = False) -> Read:
        """The row of an answer and its conversation's home, which may be another user's; without a home, no row.

        `user`: who asks. `urgent`: before all that is not. Raises `ParleyError`.
        """
        turn, key = answer_key(generation), (user, generation, urgent)
        running = self._running.get(key)
        if running is None:
            task = asyncio.create_task(self._read(key, turn))
            self._start(key, task)
        else:
            waiting = self._next.get(key)
            if waiting is None:
                waiting = self._next[key] = asyncio.create_task(self._follow(key, turn, running))
                waiting.add_done_callback(_observe)
            task = waiting
        return await asyncio.shield(task)

    async def _follow(self, key: Key, turn: TurnKey, running: asyncio.Task[Read]) -> Read:
        await asyncio.wait([running])
        self._start(key, self._next.pop(key))
        return await self._read(key, turn)

    def _start(self, key: Key, task: asyncio.Task[Read]) -> None:
        self._running[key] = task
        task.add_done_callback(lambda done: self._ended(key, done))

    def _ended(self, key: Key, task: asyncio.Task[Read]) -> None:
        _observe(task)
        if self._running.get(key) is task:
            del self._running[key]

    async def _read(self, key: Key, turn: TurnKey) -> Read:
        user, _, urgent = key
        lanes = self._urgent if urgent else self._lanes
        try:
            async with asyncio.timeout(WAIT_S):
                await lanes.acquire(user)
        except TimeoutError as error:
            message = "Too many ask for their answers at this moment; nothing was changed. Try again."
            raise ParleyError("unavailable", message, retry_after_ms=1000) from error
        try:
            asked_at = self._clock.monotonic()
            home = await told(self._history.home(turn.conversation_id))
            row = None if home is None else await told(self._history.read(turn))
            return Read(home, row, asked_at)
        finally:
            lanes.release()


def _observe(task: asyncio.Task[Read]) -> None:
    """Whoever waited may have left: then nobody else looks at what went wrong."""
    if not task.cancelled():
        task.exception()

"""What one gateway process keeps of one running answer: its supervisor, its text, who watches it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Final, Protocol

from core.clock import Clock
from core.model import End, Notice, Queued
from gateway.dispatch import Supervisor
from gateway.hub import Answer

LONG_ROUND_S: Final = 0.002
MAX_REST_S: Final = 0.05

log = logging.getLogger(__name__)


class Viewer(Protocol):
    """Somebody who watches answers: a WebSocket's session or a stream. Called from the loop; must not block."""

    def changed(self, answer: Answer) -> None:
        """There may be something new in this answer."""
        ...

    def queued(self, frame: Queued) -> None: ...

    def notice(self, frame: Notice) -> None: ...


class Live:
    """One answer's state here. `owner` is the user whose conversation it is in; `waits` the last that was told of its
    place in the queue.
    """

    __slots__ = (
        "answer",
        "degraded",
        "ended",
        "lingers_until",
        "loading",
        "owner",
        "supervisor",
        "viewers",
        "waiters",
        "waits",
    )

    def __init__(self, owner: str, supervisor: Supervisor, answer: Answer) -> None:
        self.owner = owner
        self.supervisor = supervisor
        self.answer = answer
        self.viewers: dict[Viewer, None] = {}
        self.ended: asyncio.Future[End] = asyncio.get_running_loop().create_future()
        self.degraded = False
        self.lingers_until = 0.0
        self.loading = False
        self.waiters = 0
        self.waits: Queued | None = None

    @property
    def idle(self) -> bool:
        """Nobody watches, and nothing that this gateway began is under way: it may be forgotten."""
        return not (self.viewers or self.waiters or self.supervisor.engaged)

    def tell(self) -> None:
        """Tells every viewer that there is something new."""
        for viewer in list(self.viewers):
            viewer.changed(self.answer)


class Telling:
    """Tells the viewers of answers that changed, once for each turn of the loop, however many batches came in it.

    A round of telling, the writes included, that took long is followed by a rest of half its length, at most
    `MAX_REST_S`, in which batches are read: what goes to a viewer then are fewer and longer deltas, and the process
    keeps up. At a low load there is no rest and no delay.
    """

    __slots__ = ("_began", "_changed", "_clock", "_waits")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._changed: dict[Live, None] = {}
        self._waits = False
        self._began = 0.0

    def soon(self, lives: Iterable[Live]) -> None:
        """Their viewers are told at the end of this turn of the loop, or of the rest."""
        self._changed.update(dict.fromkeys(lives))
        if self._changed and not self._waits:
            self._waits = True
            asyncio.get_running_loop().call_soon(self._tell)

    def _tell(self) -> None:
        self._began = self._clock.monotonic()
        changed, self._changed = self._changed, {}
        for live in changed:
            try:
                live.tell()
            except Exception:
                log.exception("the viewers of %s could not be told", live.answer.generation)
        # Behind the writes, which connections have put off to the end of this turn of the loop.
        asyncio.get_running_loop().call_soon(self._told)

    def _told(self) -> None:
        took_s = self._clock.monotonic() - self._began
        if took_s >= LONG_ROUND_S:
            asyncio.get_running_loop().call_later(min(took_s / 2, MAX_REST_S), self._rested)
        else:
            self._rested()

    def _rested(self) -> None:
        self._waits = False
        self.soon(())

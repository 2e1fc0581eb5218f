"""What one gateway process keeps of one running answer: its supervisor, its text, who watches it."""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from core.model import End, Notice, Queued
from gateway.dispatch import Supervisor
from gateway.hub import Answer

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
    """Tells the viewers of answers that changed, once for each turn of the loop, however many batches came in it."""

    __slots__ = ("_changed",)

    def __init__(self) -> None:
        self._changed: dict[Live, None] = {}

    def soon(self, live: Live) -> None:
        """Its viewers are told at the end of this turn of the loop."""
        if not self._changed:
            asyncio.get_running_loop().call_soon(self._tell)
        self._changed[live] = None

    def _tell(self) -> None:
        changed, self._changed = self._changed, {}
        for live in changed:
            try:
                live.tell()
            except Exception:
                log.exception("the viewers of %s could not be told", live.answer.generation)

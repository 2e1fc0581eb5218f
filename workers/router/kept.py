"""The turns of one router: those that run, which time concerns, and those that ended and only keep their text."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from core.bus.port import Subscription
from workers.router.planner import Prepared
from workers.router.turn import RouterTurn


class Running:
    """One turn and what its shell holds for it. `ahead`: what was read for it before its `go`, and when (monotonic
    seconds).
    """

    __slots__ = ("account", "ahead", "call", "prepared", "serving", "turn")

    def __init__(self, turn: RouterTurn) -> None:
        self.turn = turn
        self.ahead: tuple[float, asyncio.Task[Prepared]] | None = None
        self.account = ""
        self.prepared: Prepared | None = None
        self.call: asyncio.Task[None] | None = None
        self.serving: Subscription | None = None


class Kept:
    """By generation. An ended answer is kept for minutes and there are many of them, so nothing here goes through all
    of those at a tick.
    """

    def __init__(self) -> None:
        self._live: dict[str, Running] = {}
        self._ended: dict[str, Running] = {}
        self._ended_bytes = 0

    def __iter__(self) -> Iterator[Running]:
        yield from self._live.values()
        yield from self._ended.values()

    def __len__(self) -> int:
        return len(self._live) + len(self._ended)

    def get(self, generation: str) -> Running | None:
        return self._live.get(generation) or self._ended.get(generation)

    def add(self, running: Running) -> None:
        self._live[running.turn.generation] = running

    def end(self, running: Running) -> None:
        """Its turn has ended; its text changes no more. Idempotent."""
        generation = running.turn.generation
        if self._live.get(generation) is running:
            del self._live[generation]
            self._ended[generation] = running
            self._ended_bytes += running.turn.text.size

    def remove(self, running: Running) -> None:
        """Idempotent."""
        generation = running.turn.generation
        if self._live.get(generation) is running:
            del self._live[generation]
        elif self._ended.get(generation) is running:
            del self._ended[generation]
            self._ended_bytes -= running.turn.text.size

    @property
    def live(self) -> list[Running]:
        """Those that have not ended."""
        return list(self._live.values())

    @property
    def busy(self) -> int:
        """How many have not ended."""
        return len(self._live)

    @property
    def text_bytes(self) -> int:
        return self._ended_bytes + sum(running.turn.text.size for running in self._live.values())

    def lately_ended(self, since: float) -> Iterator[Running]:
        """Those that ended after `since` (monotonic seconds), the latest first."""
        for running in reversed(self._ended.values()):
            if running.turn.ended_at <= since:
                return
            yield running

    @property
    def oldest(self) -> Running | None:
        """The one that ended first."""
        return next(iter(self._ended.values()), None)

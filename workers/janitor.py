"""The janitor: closes what nobody else will (rule 10 of docs/turns.md).

A turn leaves the list of open ones when it has ended and its usage record is acknowledged. What a router that died in
between left behind is recorded again from the stored end; what nobody answers for ten minutes is ended `interrupted`.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from core import turn as rules
from core.accounts.port import Accounts
from core.bus.port import Bus, UsageStream
from core.clock import Clock
from core.errors import Unavailable, Unknown
from core.events import Attach, Beat, Detach, EdgeMessage, Held
from core.history.port import Applied, History
from core.ids import generation_id
from core.ledger.port import REVISION_ROUTER, Entry
from core.limits.port import Limits
from core.model import EndKind, Turn

log = logging.getLogger(__name__)

SWEEP_EVERY_S: Final = 5.0
PURGE_EVERY_S: Final = 3600.0
GRACE_MS: Final = 10_000
ASK_S: Final = 1.5
PAGE: Final = 200
PUBLISH_S: Final = 2.0


class Janitor:
    """One process's sweeps. Any number may run: every step is conditional or idempotent. `name` is its bus address."""

    def __init__(
        self,
        name: str,
        bus: Bus,
        history: History,
        usage: UsageStream,
        limits: Limits,
        accounts: Accounts,
        clock: Clock,
    ) -> None:
        self._name = name
        self._bus = bus
        self._history = history
        self._usage = usage
        self._limits = limits
        self._accounts = accounts
        self._clock = clock
        self._alive: set[str] = set()

    async def run(self, stop: asyncio.Event) -> None:
        """Sweeps until told to stop."""
        inbox = await self._bus.serve_edge(self._name, self._on_batch, lambda _: None)
        purge_at = 0.0
        try:
            while not stop.is_set():
                try:
                    await self.sweep()
                    if self._clock.monotonic() >= purge_at:
                        await self._accounts.purge()
                        purge_at = self._clock.monotonic() + PURGE_EVERY_S
                except (Unavailable, Unknown) as error:
                    log.warning("swept nothing: %s", error)
                try:
                    await asyncio.wait_for(stop.wait(), SWEEP_EVERY_S)
                except TimeoutError:
                    continue
        finally:
            await inbox.stop()

    async def sweep(self) -> int:
        """One pass over the list of open turns; returns how many left it. Raises `Unavailable` or `Unknown`."""
        listed = await self._history.open_turns(GRACE_MS, PAGE)
        ended = [turn for turn in listed if turn.end is not None]
        recorded = [turn for turn in ended if await self._recorded(turn)]
        await self._history.close_listing([turn.key for turn in recorded])
        abandoned = await self._history.open_turns(rules.ABANDONED_MS, PAGE)
        silent = await self._silent([turn for turn in abandoned if turn.end is None])
        for turn in silent:
            await self._interrupt(turn)
        return len(recorded)

    async def _recorded(self, turn: Turn) -> bool:
        """The usage record of the stored end, published again: the same attempt and revision, so it counts once."""
        end = turn.end
        assert end is not None
        if end.attempt is None:
            try:
                await self._limits.settle(turn.opened.owner, _reservation(turn), 0)
            except Unavailable as error:
                log.info("the reservation of %s lapses by itself: %s", turn.key.turn_id, error)
            return True
        entry = Entry(
            attempt=end.attempt,
            revision=REVISION_ROUTER,
            at_ms=turn.since_ms,
            key=turn.key,
            account=turn.opened.owner,
            epoch=end.epoch,
            purpose="answer",
            charged_to="user",
            model=end.model,
            provider=end.provider,
            price_version=turn.opened.price_version,
            outcome=end.kind,
            usage=end.usage,
            cost=end.cost,
        )
        try:
            await self._usage.publish(entry, PUBLISH_S)
        except Unavailable:
            return False
        return True

    async def _silent(self, turns: list[Turn]) -> list[Turn]:
        """Those of the turns that no router and no gateway answers for."""
        if not turns:
            return []
        self._alive.clear()
        for turn in turns:
            generation = _reservation(turn)
            await self._bus.to_run(generation, Attach(generation, self._name, turn.epoch, 2**62))
        await asyncio.sleep(ASK_S)
        for turn in turns:
            generation = _reservation(turn)
            await self._bus.to_run(generation, Detach(generation, self._name))
        return [turn for turn in turns if _reservation(turn) not in self._alive]

    def _on_batch(self, batch: list[EdgeMessage]) -> None:
        for message in batch:
            if isinstance(message, Beat):
                self._alive.update(life.generation for life in message.lives)
            elif isinstance(message, Held):
                self._alive.add(message.generation)

    async def _interrupt(self, turn: Turn) -> None:
        increments = await self._history.read_text(turn.key, turn.epoch)
        message = "The answer was abandoned; ask for it again."
        kind: EndKind = "cancelled" if turn.cancelled else "interrupted"
        end = rules.ended_without_router(turn, kind, self._name, increments, "unavailable", message)
        if isinstance(await self._history.end(turn.key, end), Applied):
            log.warning("ended the abandoned turn %s", turn.key.turn_id)


def _reservation(turn: Turn) -> str:
    return generation_id(turn.key.conversation_id, turn.key.turn_id)

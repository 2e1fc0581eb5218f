"""Whether the bus answers: a round trip every 200 ms."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from core.bus.port import Bus
from core.clock import Clock
from core.errors import Unavailable

ROUND_TRIP_EVERY_S: Final = 0.2
ROUND_TRIP_MAX_S: Final = 0.5
BUS_FRESH_S: Final = 0.6

log = logging.getLogger(__name__)


class BusLife:
    """`ok` from `fresh` on, for as long as `run` runs and is answered."""

    def __init__(self, bus: Bus, clock: Clock) -> None:
        self._bus = bus
        self._clock = clock
        self._at = clock.monotonic()

    @property
    def ok(self) -> bool:
        """Whether a good round trip to the bus began lately.

        `BUS_FRESH_S` is less than the silence after which a router counts as lost (`core.turn.LIFE_LOST_S`, of which
        one heartbeat is no news): a gateway that the bus does not reach, or that slept, notices that first.
        """
        return self._bus.connected and self._clock.monotonic() - self._at <= BUS_FRESH_S

    def fresh(self) -> None:
        """The bus has just answered."""
        self._at = self._clock.monotonic()

    async def run(self) -> None:
        """Asks for ever."""
        while True:
            began = self._clock.monotonic()
            try:
                await self._bus.round_trip(ROUND_TRIP_MAX_S)
                self._at = began
            except Unavailable as error:
                log.debug("the bus does not answer: %s", error)
            await asyncio.sleep(ROUND_TRIP_EVERY_S)

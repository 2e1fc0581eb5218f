"""People who do to the letter what the protocol says, so that nothing that they meet may be an error."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable

from tests.support.client import Device, Gone, Refused, Shown, User
from tests.support.load import PATIENCE_S, Asked, Person

CLOSE_DRAINING = 1001


class Away(Exception):
    """It is time to leave this connection."""


class Obedient(Person):
    """Leaves a draining gateway after the delay that it is told, a little more at random, connects again at the shared
    port, and resumes, or sends again what was not accepted. Whatever else refuses or closes is raised.
    """

    def __init__(self, user: User, conversation: str, number: int, script: str) -> None:
        super().__init__(user, conversation, number, script)
        self.moves = 0
        self._drain_at: float | None = None

    async def _try(self, turn: Asked) -> None:
        try:
            await self._step(turn)
        except Away:
            await self._leave()
        except Gone as gone:
            if gone.code != CLOSE_DRAINING:
                raise
            self._device = None
        except Refused as refused:
            # A draining gateway opens nothing new: the same id is sent again elsewhere.
            if self._left_s() is None or refused.code != "unavailable":
                raise
            await asyncio.sleep(max(0.0, self._left_s() or 0.0))  # its own delay
            await self._leave()

    async def _leave(self) -> None:
        if self._device is not None:
            await self._device.close()
        self._device = None

    async def _connected(self) -> Device:
        if self._device is None or self._device.closed:
            self._device = await self.user.connect()
            self._drain_at = None
            self._read = 0
            self.moves += 1
        return self._device

    def _left_s(self) -> float | None:
        """How long to stay on a connection whose gateway drains; None where it does not."""
        assert self._device is not None
        if self._drain_at is None:
            told = next((frame for frame in self._device.frames if frame["type"] == "drain"), None)
            if told is None:
                return None
            delay_s = told["reconnect_after_ms"] / 1000
            self._drain_at = time.monotonic() + delay_s * random.uniform(1.0, 1.2)
        return self._drain_at - time.monotonic()

    async def _until(self, device: Device, answer: Shown, condition: Callable[[], bool]) -> None:
        while not condition():
            left_s = self._left_s()
            if left_s is None:
                await device.until(lambda: condition() or self._left_s() is not None, PATIENCE_S)
            elif left_s <= 0:
                raise Away
            else:
                with contextlib.suppress(TimeoutError):
                    await device.until(condition, left_s)

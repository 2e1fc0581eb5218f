"""Turns at something scarce, one user after the other: who asks for much waits behind his own, and delays nobody else
by more than one of his.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from typing import Final

from core.errors import ParleyError

WAITING_PER_USER: Final = 128
"""More than a user's connections are, so that each may come back for an answer at once."""

RETRY_MS: Final = 1000


class Lanes:
    """`lanes` holders at once. `acquire` waits for a turn, each user's in the order in which they came; of one user at
    most `most` wait, and one more is refused.
    """

    def __init__(self, lanes: int, most: int = WAITING_PER_USER) -> None:
        self._free = lanes
        self._most = most
        # Only users who wait, in the order of their next turns.
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    def __len__(self) -> int:
        """How many users wait."""
        return len(self._waiting)

    async def acquire(self, user: str) -> None:
        """Returns with a lane, which `release` gives back. Raises `ParleyError` `rate_limited`."""
        if self._free:
            self._free -= 1
            return
        queue = self._waiting.setdefault(user, deque())
        if len(queue) >= self._most:
            message = "Too many of your answers are asked for at this moment; nothing was changed. Try again."
            raise ParleyError("rate_limited", message, retry_after_ms=RETRY_MS)
        turn = asyncio.get_running_loop().create_future()
        queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._leave(user, turn)
            else:
                self.release()
            raise

    def release(self) -> None:
        """Hands the lane to the first of the user whose turn it is; that user's next turn comes after all others'."""
        while self._waiting:
            user, queue = self._waiting.popitem(last=False)
            turn = queue.popleft()
            if queue:
                self._waiting[user] = queue
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

    def _leave(self, user: str, turn: asyncio.Future[None]) -> None:
        queue = self._waiting.get(user)
        if queue is not None and turn in queue:
            queue.remove(turn)
            if not queue:
                del self._waiting[user]

"""One deadline for many waits: what `asyncio.timeout` does, without a timer for each of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


class Patience:
    """Bounds all waits of one owner, one at a time and from whichever task, by `seconds` from now or by `end`.

    `close` gives the timer back; a wait afterwards is bounded by `end` alone.
    """

    __slots__ = ("_cancelling", "_cut", "_loop", "_timer", "_waiting", "over")

    def __init__(self, seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(seconds, self.end)
        self._waiting: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._cut = False
        self.over = False

    def end(self) -> None:
        """What is waited for is broken off, and so is every later wait. Idempotent."""
        self.over = True
        if self._waiting is not None and not self._cut:
            self._cut = True
            self._cancelling = self._waiting.cancelling()
            self._waiting.cancel()

    def close(self) -> None:
        self._timer.cancel()

    async def wait(self, step: Awaitable[T]) -> T:
        """The result of `step`. Raises `TimeoutError` once patience is over; a result that comes then is dropped."""
        self._waiting = asyncio.current_task()
        if self.over:
            # Later, because a task that cancels itself and then does not wait would be cancelled somewhere else.
            self._loop.call_soon(self.end)
        try:
            result = await step
        except asyncio.CancelledError:
            if self._let_go():
                raise TimeoutError from None
            raise
        except BaseException:
            self._let_go()
            raise
        self._let_go()
        if self.over:
            raise TimeoutError
        return result

    def _let_go(self) -> bool:
        """Whether the wait was cancelled from here and by nobody else."""
        task, self._waiting = self._waiting, None
        cut, self._cut = self._cut, False
        return cut and task is not None and task.uncancel() <= self._cancelling

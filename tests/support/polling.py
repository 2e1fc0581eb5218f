"""Waiting for a condition, with a deadline: the only place in the tests that sleeps in order to wait."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

_PAUSE_S = 0.01

T = TypeVar("T")


def until(condition: Callable[[], T], within_s: float = 10.0, what: str = "") -> T:
    """Asks again every 10 ms and returns the first true answer. Raises `TimeoutError` when `within_s` have passed."""
    deadline = time.monotonic() + within_s
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise TimeoutError(_complaint(condition, within_s, what))
        time.sleep(_PAUSE_S)


async def eventually(condition: Callable[[], T | Awaitable[T]], within_s: float = 10.0, what: str = "") -> T:
    """`until` for the event loop; the condition may be a coroutine function. One that hangs counts as false."""
    try:
        async with asyncio.timeout(within_s):
            while True:
                asked = condition()
                answer = await asked if inspect.isawaitable(asked) else asked
                if answer:
                    return answer
                await asyncio.sleep(_PAUSE_S)
    except TimeoutError:
        raise TimeoutError(_complaint(condition, within_s, what)) from None


def _complaint(condition: object, within_s: float, what: str) -> str:
    return f"not within {within_s} s: {what or getattr(condition, '__qualname__', condition)}"

"""The loop of every consumer: pull a batch, handle it, acknowledge it; try again later when a store is away.

Nothing is lost by it: a batch that was not acknowledged comes again, so handlers are idempotent.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Protocol, TypeVar

import msgspec

from core.errors import Unavailable, Unknown

log = logging.getLogger(__name__)

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Batch(Protocol[T_co]):
    """What one pull gave; see `core.bus.port.UsageBatch`."""

    @property
    def entries(self) -> Sequence[T_co]: ...

    async def ack(self) -> None: ...

    async def nak(self, delay_s: float) -> None: ...


class Source(Protocol[T_co]):
    """A durable stream, at least once; see `core.bus.port.UsageStream`."""

    async def pull(self, limit: int, wait_s: float) -> Batch[T_co] | None: ...


class Postponed(Exception):
    """Raised by a handler: this batch is to come again later, and the next one may be handled at once."""


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of a consumer. `handle_s` must stay below the stream's time for an acknowledgement (30 s); `drain_s` is
    what a batch in hand still gets when the consumer is to stop. After a batch that was not full the next pull waits
    for `gather_s`, so that records are handled together.
    """

    batch: int = 1_000
    wait_s: float = 5.0
    handle_s: float = 20.0
    drain_s: float = 3.0
    first_retry_s: float = 0.1
    last_retry_s: float = 10.0
    postpone_s: float = 5.0
    gather_s: float = 0.0


async def consume(
    source: Source[T],
    handle: Callable[[Sequence[T]], Awaitable[None]],
    stop: asyncio.Event,
    pace: Pace = Pace(),  # noqa: B008 - immutable
) -> None:
    """Runs until `stop` is set; then a batch in hand is finished within `drain_s` or left to be delivered again.

    A handler that raises `Unavailable` or `Unknown`, or is not done within `handle_s`, has its batch delivered again,
    and the loop waits, ever longer up to `last_retry_s`. The same holds for any other error, which is logged: a batch
    is only acknowledged when its handler returned.
    """
    stopping = asyncio.create_task(stop.wait())
    retry_s = pace.first_retry_s
    try:
        while not stop.is_set():
            if await _turn(source, handle, stopping, pace, retry_s):
                retry_s = pace.first_retry_s
                continue
            await asyncio.wait((stopping,), timeout=retry_s * random.uniform(0.75, 1.0))  # noqa: S311 - jitter
            retry_s = min(retry_s * 2, pace.last_retry_s)
    finally:
        stopping.cancel()


async def _turn(
    source: Source[T],
    handle: Callable[[Sequence[T]], Awaitable[None]],
    stopping: asyncio.Task[Any],
    pace: Pace,
    retry_s: float,
) -> bool:
    """One batch; whether the next may follow at once."""
    batch: Batch[T] | None = None
    try:
        batch = await _unless(stopping, source.pull(pace.batch, pace.wait_s), pace.wait_s + pace.handle_s, 0.0)
        if batch is not None:
            await _unless(stopping, _call(handle, batch.entries), pace.handle_s, pace.drain_s)
            await batch.ack()
            if pace.gather_s and len(batch.entries) < pace.batch:
                await asyncio.wait((stopping,), timeout=pace.gather_s)
    except Postponed as error:
        log.warning("a batch is postponed: %s", error)
        return await _give_back(batch, pace.postpone_s)
    except _Stopped:
        await _give_back(batch, 0.0)
    except (Unavailable, Unknown, TimeoutError) as error:
        log.warning("a batch is tried again in %.1f s: %r", retry_s, error)
        await _give_back(batch, retry_s)
        return False
    except Exception:
        log.exception("a batch failed, it is tried again in %.1f s", retry_s)
        await _give_back(batch, retry_s)
        return False
    return True


class _Stopped(Exception):
    """The consumer is to stop and what was under way was cancelled."""


async def _call(handle: Callable[[Sequence[T]], Awaitable[None]], entries: Sequence[T]) -> None:
    await handle(entries)


async def _unless(stopping: asyncio.Task[Any], work: Coroutine[Any, Any, T], limit_s: float, drain_s: float) -> T:
    """The work's result; cancelled after `limit_s` (`TimeoutError`), or `drain_s` after the stop (`_Stopped`)."""
    task = asyncio.create_task(work)
    try:
        await asyncio.wait((task, stopping), timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        if stopping.done() and not task.done():
            await asyncio.wait((task,), timeout=drain_s)
        if task.done():
            return task.result()
        raise _Stopped if stopping.done() else TimeoutError(f"not done within {limit_s:g} s")
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait((task,))


async def _give_back(batch: Batch[Any] | None, delay_s: float) -> bool:
    if batch is None:
        return True
    try:
        await batch.nak(delay_s)
    except Unavailable as error:
        log.info("a batch will be delivered again by itself: %s", error)
    return True

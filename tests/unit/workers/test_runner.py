"""The consumer loop: what is acknowledged was handled, whatever fails."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import pytest
from msgspec import structs

from core.errors import Unavailable, Unknown
from tests.support.polling import eventually
from workers.runner import Pace, Postponed, consume

QUICK = Pace(batch=3, wait_s=5.0, handle_s=5.0, drain_s=0.2, first_retry_s=0.01, last_retry_s=0.02, postpone_s=7.0)


class Stream:
    """A durable stream in memory: what is refused comes again at once, in front."""

    def __init__(self, count: int) -> None:
        self.waiting = list(range(count))
        self.acked: list[int] = []
        self.delays: list[float] = []
        self.pulls_fail = 0
        self.acks_fail = 0

    async def pull(self, limit: int, wait_s: float) -> Pulled | None:
        if self.pulls_fail:
            self.pulls_fail -= 1
            raise Unavailable("the stream is away")
        if not self.waiting:
            await asyncio.sleep(wait_s)  # a pull that finds nothing
            return None
        taken, self.waiting = self.waiting[:limit], self.waiting[limit:]
        return Pulled(self, taken)


class Pulled:
    def __init__(self, stream: Stream, entries: list[int]) -> None:
        self._stream = stream
        self.entries = entries

    async def ack(self) -> None:
        if self._stream.acks_fail:
            self._stream.acks_fail -= 1
            raise Unavailable("the stream is away")
        self._stream.acked.extend(self.entries)

    async def nak(self, delay_s: float) -> None:
        self._stream.delays.append(delay_s)
        self._stream.waiting = self.entries + self._stream.waiting


class Run:
    """A consumer under test: fails as often as `failures` says, then handles."""

    def __init__(self, stream: Stream, failures: Sequence[Exception] = (), pace: Pace = QUICK) -> None:
        self.handled: list[int] = []
        self.failures = list(failures)
        self.stop = asyncio.Event()
        self.entered = asyncio.Event()
        self.release = asyncio.Event()
        self.release.set()
        self.task = asyncio.create_task(consume(stream, self._handle, self.stop, pace))

    async def _handle(self, entries: Sequence[int]) -> None:
        self.entered.set()
        await self.release.wait()
        if self.failures:
            raise self.failures.pop(0)
        self.handled.extend(entries)


async def test_everything_is_handled_then_acknowledged_in_batches() -> None:
    stream = Stream(10)
    run = Run(stream)
    await eventually(lambda: len(stream.acked) == 10)
    run.stop.set()
    await run.task
    assert run.handled == stream.acked == list(range(10))


@pytest.mark.parametrize(
    "failure",
    [Unavailable("away"), Unknown("who knows"), TimeoutError(), RuntimeError("a mistake"), Postponed("later")],
)
async def test_what_was_not_handled_comes_again(failure: Exception) -> None:
    stream = Stream(7)
    run = Run(stream, [failure] * 3)
    await eventually(lambda: len(stream.acked) == 7)
    run.stop.set()
    await run.task
    assert sorted(run.handled) == sorted(stream.acked) == list(range(7))
    assert len(stream.delays) == 3
    if isinstance(failure, Postponed):
        assert stream.delays == [QUICK.postpone_s] * 3
    else:
        assert stream.delays == [0.01, 0.02, 0.02]


async def test_a_stream_that_is_away_is_asked_again() -> None:
    stream = Stream(4)
    stream.pulls_fail = 3
    stream.acks_fail = 1
    run = Run(stream)
    await eventually(lambda: len(stream.acked) == 4)
    run.stop.set()
    await run.task
    assert sorted(stream.acked) == list(range(4))


async def test_after_a_batch_that_was_not_full_records_gather_but_the_stop_is_heard() -> None:
    stream = Stream(4)
    run = Run(stream, pace=structs.replace(QUICK, gather_s=3600.0))
    await eventually(lambda: len(stream.acked) == 4)  # the first batch was full: the second came at once
    stream.waiting.append(4)
    run.stop.set()
    await run.task
    assert stream.acked == [0, 1, 2, 3]


async def test_stop_ends_a_waiting_pull_at_once() -> None:
    run = Run(Stream(0))
    await asyncio.sleep(0)
    start = time.monotonic()
    run.stop.set()
    await run.task
    assert time.monotonic() - start < 1.0


async def test_stop_lets_the_batch_in_hand_finish() -> None:
    stream = Stream(3)
    run = Run(stream)
    run.release.clear()
    await run.entered.wait()
    run.stop.set()
    await asyncio.sleep(0)
    run.release.set()
    await run.task
    assert stream.acked == [0, 1, 2]


async def test_a_batch_that_does_not_finish_is_given_back_at_stop() -> None:
    stream = Stream(3)
    run = Run(stream)
    run.release.clear()
    await run.entered.wait()
    start = time.monotonic()
    run.stop.set()
    await run.task
    assert time.monotonic() - start < 1.0
    assert stream.acked == []
    assert stream.waiting == [0, 1, 2]
    assert stream.delays == [0.0]


async def test_cancelling_the_consumer_leaves_nothing_running() -> None:
    stream = Stream(3)
    run = Run(stream)
    run.release.clear()
    await run.entered.wait()
    run.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run.task
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == 1
    assert stream.acked == []

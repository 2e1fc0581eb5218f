"""Limits while a real Redis is away, slow, restarted, full."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from core.errors import ParleyError, Unavailable
from core.limits.port import UserLimits
from core.limits.redis import RedisLimits
from core.redis import Redis
from tests.support.child import free_port
from tests.support.polling import eventually
from tests.support.redis import RedisServer

USER = UserLimits(requests_per_minute=20, turns_at_once=8, tokens_per_day=10_000)
TIMEOUT_S = 0.15


class ManualClock:
    """A clock whose monotonic time is set by the test."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def store(redis_server: RedisServer) -> AsyncIterator[Redis]:
    store = Redis(redis_server.url, TIMEOUT_S)
    yield store
    await store.close()


@pytest.fixture
async def limits(store: Redis, clock: ManualClock) -> AsyncIterator[RedisLimits]:
    limits = RedisLimits(store, degraded_share=0.5, degraded_s=60.0, clock=clock)
    await limits.admit("ann", "before", 100, USER)
    yield limits
    await limits.close()


async def test_a_frozen_redis_costs_one_timeout_then_nothing(redis_server: RedisServer, limits: RedisLimits) -> None:
    redis_server.freeze()
    start = time.monotonic()
    first = await limits.admit("ann", "t1", 100, USER)
    assert time.monotonic() - start < 2 * TIMEOUT_S + 0.2
    assert first.degraded
    assert (first.requests_remaining, first.tokens_remaining) == (9, 4_900)
    start = time.monotonic()
    for i in range(100):
        assert (await limits.admit(f"user-{i}", "t1", 100, USER)).degraded
    assert time.monotonic() - start < TIMEOUT_S
    redis_server.thaw()
    await eventually(lambda: not limits.degraded, 3.0)
    assert not (await limits.admit("ann", "t2", 100, USER)).degraded


async def test_the_crowd_in_flight_falls_back_together(redis_server: RedisServer, limits: RedisLimits) -> None:
    redis_server.freeze()
    start = time.monotonic()
    results = await asyncio.gather(*(limits.admit(f"user-{i}", "t", 1, USER) for i in range(500)))
    assert time.monotonic() - start < 2 * TIMEOUT_S + 0.5
    assert all(result.degraded for result in results)


async def test_the_share_is_enforced_while_degraded(redis_server: RedisServer, limits: RedisLimits) -> None:
    redis_server.kill()
    results = await asyncio.gather(*(limits.admit("ann", f"t{i}", 1, USER) for i in range(30)), return_exceptions=True)
    refusals = [result for result in results if isinstance(result, ParleyError)]
    assert len(results) - len(refusals) == USER.turns_at_once // 2
    assert {error.code for error in refusals} == {"rate_limited"}


async def test_degraded_mode_is_bounded_in_time(
    redis_server: RedisServer, limits: RedisLimits, clock: ManualClock
) -> None:
    redis_server.kill()
    assert (await limits.admit("ann", "t1", 1, USER)).degraded
    clock.now += 60.0
    assert (await limits.admit("ann", "t2", 1, USER)).degraded
    clock.now += 0.1
    with pytest.raises(ParleyError) as caught:
        await limits.admit("ann", "t3", 1, USER)
    assert caught.value.code == "unavailable"
    redis_server.start()
    await eventually(lambda: not limits.degraded, 3.0)
    assert not (await limits.admit("ann", "t3", 1, USER)).degraded
    redis_server.kill()
    assert (await limits.admit("ann", "t4", 1, USER)).degraded


async def test_the_others_raise_at_once_while_away(redis_server: RedisServer, limits: RedisLimits) -> None:
    redis_server.kill()
    with pytest.raises(Unavailable):
        await limits.settle("ann", "before", 50)
    assert limits.degraded
    start = time.monotonic()
    with pytest.raises(Unavailable):
        await limits.settle("ann", "before", 50)
    with pytest.raises(Unavailable):
        await limits.renew([("ann", "before")])
    assert time.monotonic() - start < 0.05


async def test_a_renewal_that_fails_opens_the_circuit(redis_server: RedisServer, limits: RedisLimits) -> None:
    redis_server.freeze()
    with pytest.raises(Unavailable):
        await limits.renew([("ann", "before"), ("bob", "t1"), ("eve", "t1")])
    assert limits.degraded


async def test_a_restarted_redis_is_given_the_scripts_again(redis_server: RedisServer, limits: RedisLimits) -> None:
    redis_server.kill()
    redis_server.start()
    first = await limits.admit("ann", "t1", 100, USER)
    await eventually(lambda: not limits.degraded, 3.0)
    second = await limits.admit("ann", "t2", 100, USER)
    assert not second.degraded
    assert second.requests_remaining == (18 if not first.degraded else 19)


async def test_forgotten_scripts_are_no_outage(redis_server: RedisServer, limits: RedisLimits) -> None:
    redis_server.empty()
    results = await asyncio.gather(*(limits.admit(f"user-{i}", "t", 1, USER) for i in range(50)))
    assert not any(result.degraded for result in results)
    redis_server.empty()
    await limits.settle("ann", "before", 10)
    await limits.renew([("ann", "before")])
    assert not limits.degraded


async def test_a_read_only_redis_counts_as_away_until_it_takes_writes(store: Redis, limits: RedisLimits) -> None:
    await store.execute("REPLICAOF", "127.0.0.1", free_port())
    try:
        assert (await limits.admit("ann", "t1", 100, USER)).degraded
        assert await store.execute("PING") == b"PONG"
        assert limits.degraded
    finally:
        await store.execute("REPLICAOF", "NO", "ONE")
    await eventually(lambda: not limits.degraded, 3.0)


async def test_a_cancelled_admission_harms_nobody(limits: RedisLimits) -> None:
    calls = [asyncio.create_task(limits.admit(f"user-{i}", "t", 1, USER)) for i in range(100)]
    await asyncio.sleep(0)
    for call in calls[::2]:
        call.cancel()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results[::2])
    assert not any(isinstance(result, BaseException) for result in results[1::2])
    assert not limits.degraded

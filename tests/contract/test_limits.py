"""The contract of limits: one atomic admission, reservations by turn, nothing leaked and nothing counted twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from core.errors import ParleyError
from core.limits.port import Limits, UserLimits
from core.limits.redis import RedisLimits
from core.redis import Redis
from tests.support.redis import RedisServer

USER = UserLimits(requests_per_minute=10, turns_at_once=4, tokens_per_day=10_000)


@pytest.fixture
async def store(redis_server: RedisServer) -> AsyncIterator[Redis]:
    store = Redis(redis_server.url, 2.0)
    yield store
    await store.close()


@pytest.fixture(params=["redis"])
async def limits(store: Redis) -> AsyncIterator[Limits]:
    limits = RedisLimits(store, degraded_share=0.5, degraded_s=60.0)
    yield limits
    await limits.close()


async def refused(limits: Limits, turn: str, tokens: int, user: UserLimits = USER) -> ParleyError:
    with pytest.raises(ParleyError) as caught:
        await limits.admit("ann", turn, tokens, user)
    return caught.value


async def test_an_admission_tells_what_is_left(limits: Limits) -> None:
    first = await limits.admit("ann", "t1", 1_000, USER)
    assert (first.degraded, first.requests_remaining, first.tokens_remaining) == (False, 9, 9_000)
    assert 59_000 < first.reset_ms <= 60_000
    second = await limits.admit("ann", "t2", 500, USER)
    assert (second.requests_remaining, second.tokens_remaining) == (8, 8_500)
    other = await limits.admit("bob", "t1", 1, USER)
    assert (other.requests_remaining, other.tokens_remaining) == (9, 9_999)


async def test_a_duplicate_takes_nothing(limits: Limits) -> None:
    first = await limits.admit("ann", "t1", 1_000, USER)
    for _ in range(20):
        again = await limits.admit("ann", "t1", 1_000, USER)
        assert (again.requests_remaining, again.tokens_remaining) == (first.requests_remaining, first.tokens_remaining)


async def test_a_settled_turn_stays_settled(limits: Limits) -> None:
    await limits.admit("ann", "t1", 1_000, USER)
    await limits.settle("ann", "t1", 300)
    for _ in range(6):
        again = await limits.admit("ann", "t1", 1_000, USER)
        assert (again.requests_remaining, again.tokens_remaining) == (9, 9_700)
    one_at_once = UserLimits(requests_per_minute=10, turns_at_once=1, tokens_per_day=10_000)
    assert (await limits.admit("ann", "t2", 100, one_at_once)).tokens_remaining == 9_600


async def test_settlements_repeat_in_any_order_and_the_largest_counts(limits: Limits) -> None:
    await limits.admit("ann", "t1", 1_000, USER)
    for tokens in (200, 0, 300, 300, 200, 0):
        await limits.settle("ann", "t1", tokens)
    assert (await limits.admit("ann", "t2", 0, USER)).tokens_remaining == 9_700


async def test_an_unknown_reservation_is_counted_once(limits: Limits) -> None:
    for _ in range(3):
        await limits.settle("ann", "never-admitted", 700)
    assert (await limits.admit("ann", "t1", 0, USER)).tokens_remaining == 9_300


async def test_a_release_gives_everything_but_the_request_back(limits: Limits) -> None:
    one_at_once = UserLimits(requests_per_minute=10, turns_at_once=1, tokens_per_day=1_000)
    await limits.admit("ann", "t1", 1_000, one_at_once)
    await limits.settle("ann", "t1", 0)
    await limits.settle("ann", "t1", 0)
    again = await limits.admit("ann", "t2", 1_000, one_at_once)
    assert (again.requests_remaining, again.tokens_remaining) == (8, 0)
    assert (await refused(limits, "t1", 1_000, one_at_once)).code == "rate_limited"


async def test_too_many_requests_are_told_when_to_come_back(limits: Limits) -> None:
    three = UserLimits(requests_per_minute=3, turns_at_once=100, tokens_per_day=1_000_000)
    for turn in ("t1", "t2", "t3"):
        await limits.admit("ann", turn, 1, three)
    error = await refused(limits, "t4", 1, three)
    assert error.code == "rate_limited"
    assert error.retry_after_ms is not None
    assert 58_000 < error.retry_after_ms <= 60_000


async def test_turns_at_once_are_exact_under_a_crowd(limits: Limits) -> None:
    crowd = UserLimits(requests_per_minute=1_000, turns_at_once=4, tokens_per_day=1_000_000)
    results = await asyncio.gather(
        *(limits.admit("ann", f"t{i}", 1, crowd) for i in range(100)), return_exceptions=True
    )
    refusals = [result for result in results if isinstance(result, ParleyError)]
    assert len(refusals) == 96
    assert {error.code for error in refusals} == {"rate_limited"}
    assert all(error.retry_after_ms for error in refusals)


async def test_one_turn_sent_by_a_crowd_takes_one_place(limits: Limits) -> None:
    results = await asyncio.gather(*(limits.admit("ann", "t1", 100, USER) for _ in range(100)))
    assert {(result.requests_remaining, result.tokens_remaining) for result in results} == {(9, 9_900)}


async def test_the_quota_covers_reservations_and_is_never_exceeded(limits: Limits) -> None:
    quota = UserLimits(requests_per_minute=1_000, turns_at_once=1_000, tokens_per_day=1_000)
    results = await asyncio.gather(
        *(limits.admit("ann", f"t{i}", 300, quota) for i in range(20)), return_exceptions=True
    )
    admitted = [f"t{i}" for i, result in enumerate(results) if not isinstance(result, ParleyError)]
    assert len(admitted) == 3
    # Running turns may give some back, so this is no final word yet.
    assert (await refused(limits, "late", 300, quota)).code == "rate_limited"
    for turn in admitted:
        await limits.settle("ann", turn, 300)
    spent = await refused(limits, "late", 300, quota)
    assert spent.code == "quota"
    assert spent.retry_after_ms is not None
    assert 0 < spent.retry_after_ms <= 86_400_000
    assert (await limits.admit("ann", "small", 100, quota)).tokens_remaining == 0


async def test_a_request_that_can_never_fit_promises_no_retry(limits: Limits) -> None:
    error = await refused(limits, "t1", 10_001)
    assert (error.code, error.retry_after_ms) == ("quota", None)
    nothing_allowed = UserLimits(requests_per_minute=0, turns_at_once=4, tokens_per_day=10)
    error = await refused(limits, "t1", 1, nothing_allowed)
    assert (error.code, error.retry_after_ms) == ("rate_limited", None)


async def test_a_refusal_changes_nothing(limits: Limits) -> None:
    await limits.admit("ann", "t1", 9_000, USER)
    for i in range(30):
        await refused(limits, f"too-much-{i}", 2_000)
    left = await limits.admit("ann", "t2", 1_000, USER)
    assert (left.requests_remaining, left.tokens_remaining) == (8, 0)


async def test_large_numbers_stay_exact(limits: Limits) -> None:
    huge = UserLimits(requests_per_minute=2**31, turns_at_once=2**31, tokens_per_day=2**52)
    assert (await limits.admit("ann", "t1", 2**51 - 1, huge)).tokens_remaining == 2**51 + 1
    await limits.settle("ann", "t1", 2**51 + 1)
    assert (await limits.admit("ann", "t2", 0, huge)).tokens_remaining == 2**51 - 1


@pytest.mark.parametrize("name", ["", "a b", "ü", "{x}y", "a:b", "*", "x" * 300])
async def test_names_are_only_names(limits: Limits, name: str) -> None:
    await limits.admit(name, name, 100, USER)
    await limits.renew([(name, name)])
    await limits.settle(name, name, 50)
    assert (await limits.admit(name, "t2", 0, USER)).tokens_remaining == 9_950


@pytest.mark.parametrize("tokens", [-1, -(2**40)])
async def test_negative_tokens_are_a_mistake(limits: Limits, tokens: int) -> None:
    with pytest.raises(ValueError, match="negative"):
        await limits.admit("ann", "t1", tokens, USER)
    with pytest.raises(ValueError, match="negative"):
        await limits.settle("ann", "t1", tokens)


async def test_renewing_is_harmless_for_unknown_turns(limits: Limits) -> None:
    await limits.renew([])
    await limits.renew([("ann", "unknown"), ("bob", "unknown"), ("ann", "unknown")])
    assert (await limits.admit("ann", "t1", 0, USER)).requests_remaining == 9


async def test_every_key_belongs_to_one_account_and_expires(limits: Limits, store: Redis) -> None:
    await limits.admit("ann", "t1", 100, USER)
    await limits.admit("ann", "t2", 100, USER)
    await limits.settle("ann", "t1", 10)
    await limits.renew([("ann", "t2")])
    keys = await store.execute("KEYS", "*")
    assert len(keys) == 3
    lifetimes = {}
    for key in keys:
        assert b"{ann}" in key
        lifetimes[key.rpartition(b":")[2]] = await store.execute("PTTL", key)
    assert all(0 < lifetime <= 2 * 86_400_000 for lifetime in lifetimes.values())
    # A reservation's place in the day must not outlive the record by which it is given back.
    day = lifetimes.get(b"even") or lifetimes[b"odd"]
    assert lifetimes[b"turns"] >= day - 1_000

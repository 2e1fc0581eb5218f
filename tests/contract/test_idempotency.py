"""The contract of `core.idempotency.port.Idempotency`, held by Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from core.errors import Unavailable
from core.idempotency.port import KEEP_S, LEASE_S, MAX_ANSWER_BYTES, Begun, Finished, Mismatch, Running
from core.idempotency.redis import RedisIdempotency
from core.redis import Redis
from tests.support.redis import RedisServer


@pytest.fixture
async def client(redis_server: RedisServer) -> AsyncIterator[Redis]:
    client = Redis(redis_server.url, 1.0)
    yield client
    await client.close()


@pytest.fixture
def idempotency(client: Redis) -> RedisIdempotency:
    return RedisIdempotency(client)


async def begun(idempotency: RedisIdempotency) -> str:
    state = await idempotency.begin("ann", "key", "body")
    assert isinstance(state, Begun)
    return state.lease


async def test_one_of_many_begins(idempotency: RedisIdempotency) -> None:
    states = await asyncio.gather(*(idempotency.begin("ann", "key", "body") for _ in range(20)))
    assert sum(isinstance(state, Begun) for state in states) == 1
    assert all(state.retry_after_ms > 0 for state in states if isinstance(state, Running))
    assert sum(isinstance(state, Running) for state in states) == 19


async def test_what_is_finished_is_kept_a_day(idempotency: RedisIdempotency, client: Redis) -> None:
    await idempotency.finish("ann", "key", await begun(idempotency), b"answer \x00\xff")
    assert await idempotency.begin("ann", "key", "body") == Finished(b"answer \x00\xff")
    (name,) = await client.execute("KEYS", "*")
    assert KEEP_S - 5 < await client.execute("TTL", name) <= KEEP_S


async def test_another_body_is_told_also_while_it_runs(idempotency: RedisIdempotency) -> None:
    lease = await begun(idempotency)
    assert await idempotency.begin("ann", "key", "other") == Mismatch()
    await idempotency.finish("ann", "key", lease, b"answer")
    assert await idempotency.begin("ann", "key", "other") == Mismatch()


async def test_a_key_is_one_accounts(idempotency: RedisIdempotency) -> None:
    await begun(idempotency)
    assert isinstance(await idempotency.begin("bob", "key", "other"), Begun)


async def test_what_is_abandoned_may_be_made_again(idempotency: RedisIdempotency) -> None:
    await idempotency.abandon("ann", "key", await begun(idempotency))
    await begun(idempotency)


async def test_a_lost_lease_changes_nothing(idempotency: RedisIdempotency, client: Redis) -> None:
    lost = await begun(idempotency)
    (name,) = await client.execute("KEYS", "*")
    await client.execute("DEL", name)
    lease = await begun(idempotency)
    assert not await idempotency.renew("ann", "key", lost)
    await idempotency.abandon("ann", "key", lost)
    await idempotency.finish("ann", "key", lost, b"late")
    assert isinstance(await idempotency.begin("ann", "key", "body"), Running)
    assert await idempotency.renew("ann", "key", lease)


async def test_a_lease_lapses_unless_renewed(idempotency: RedisIdempotency, client: Redis) -> None:
    lease = await begun(idempotency)
    (name,) = await client.execute("KEYS", "*")
    await client.execute("EXPIRE", name, 1)
    assert await idempotency.renew("ann", "key", lease)
    assert LEASE_S - 2 < await client.execute("TTL", name) <= LEASE_S


async def test_an_answer_has_a_bound(idempotency: RedisIdempotency) -> None:
    with pytest.raises(ValueError, match="bytes"):
        await idempotency.finish("ann", "key", await begun(idempotency), b"a" * (MAX_ANSWER_BYTES + 1))


async def test_a_store_that_is_away_is_told(idempotency: RedisIdempotency, redis_server: RedisServer) -> None:
    lease = await begun(idempotency)
    redis_server.kill()
    with pytest.raises(Unavailable):
        await idempotency.begin("ann", "key", "body")
    with pytest.raises(Unavailable):
        await idempotency.finish("ann", "key", lease, b"answer")
    await idempotency.abandon("ann", "key", lease)

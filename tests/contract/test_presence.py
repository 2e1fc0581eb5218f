"""The contract of `core.presence.port.Presence`, held by Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from core.errors import Unavailable
from core.presence.port import KEEP_S, LEASE_S, MAX_WAITING
from core.presence.redis import RedisPresence
from core.redis import Redis
from tests.support.polling import eventually
from tests.support.redis import RedisServer

RENEW_S = 0.1


@pytest.fixture
async def client(redis_server: RedisServer) -> AsyncIterator[Redis]:
    client = Redis(redis_server.url, 1.0)
    yield client
    await client.close()


class Gateway:
    """A gateway with the users that are here."""

    def __init__(self, presence: RedisPresence) -> None:
        self.presence = presence
        self.here: dict[str, None] = {}

    def come(self, *users: str) -> None:
        for user in users:
            self.here[user] = None
            self.presence.note(user)

    def leave(self, *users: str) -> None:
        for user in users:
            del self.here[user]
            self.presence.forget(user)

    async def finds(self, user: str, *gateways: str) -> None:
        async def found() -> bool:
            return set(await self.presence.gateways(user)) == set(gateways)

        await eventually(found)


@asynccontextmanager
async def joined(client: Redis, *names: str) -> AsyncIterator[list[Gateway]]:
    async with AsyncExitStack() as stack:
        gateways = [Gateway(RedisPresence(client, name, renew_s=RENEW_S)) for name in names]
        for gateway in gateways:
            await gateway.presence.start(gateway.here.keys())
            stack.push_async_callback(gateway.presence.stop)
        yield gateways


async def test_a_user_is_found_where_it_is_and_nowhere_else(client: Redis) -> None:
    async with joined(client, "gw-1", "gw-2") as (one, two):
        one.come("ann", "bob")
        two.come("ann")
        for asker in (one, two):
            await asker.finds("ann", "gw-1", "gw-2")
            await asker.finds("bob", "gw-1")
            await asker.finds("eve")
        one.leave("ann", "bob")
        await two.finds("ann", "gw-2")
        await two.finds("bob")


async def test_the_last_note_counts(client: Redis) -> None:
    async with joined(client, "gw-1") as (one,):
        for _ in range(20):
            one.come("ann", "bob")
            one.leave("ann")
            one.come("ann")
            one.leave("bob", "ann")
            one.come("ann")
            one.come("bob")
            one.leave("bob")
        one.come("last")
        await one.finds("last", "gw-1")
        await one.finds("ann", "gw-1")
        await one.finds("bob")


async def test_it_costs_a_lease_for_the_gateway_and_an_entry_for_each_user(client: Redis) -> None:
    users = [f"user-{n}" for n in range(500)]
    async with joined(client, "gw-1") as (one,):
        one.come(*users)
        await eventually(lambda: _keys(client, len(users) + 1))
        assert 0 < await client.execute("PTTL", "parley:gateway:gw-1") <= LEASE_S * 1000
        assert KEEP_S - 60 < await client.execute("TTL", "parley:present:user-7") <= KEEP_S
    assert await client.execute("EXISTS", "parley:gateway:gw-1") == 0, "given back at the end"


async def test_a_gateway_without_a_lease_counts_for_nothing_and_is_cleaned_up(client: Redis) -> None:
    async with joined(client, "gw-1", "gw-2") as (one, two):
        one.come("ann")
        two.come("ann")
        await one.finds("ann", "gw-1", "gw-2")
        await two.presence.stop()
        assert await one.presence.gateways("ann") == ["gw-1"]
        assert await client.execute("SMEMBERS", "parley:present:ann") == [b"gw-1"]


async def test_whoever_lost_its_lease_notes_its_users_again(client: Redis) -> None:
    async with joined(client, "gw-1") as (one,):
        one.come("ann", *(f"user-{n}" for n in range(300)))
        await one.finds("ann", "gw-1")
        one.leave("user-5")
        await client.execute("FLUSHALL")
        await one.finds("ann", "gw-1")
        await eventually(lambda: _keys(client, 301))
        await one.finds("user-5")


async def test_notes_are_made_up_for_when_redis_is_back(client: Redis, redis_server: RedisServer) -> None:
    async with joined(client, "gw-1") as (one,):
        one.come("ann")
        await one.finds("ann", "gw-1")
        redis_server.kill()
        one.come("bob", "eve")
        one.leave("eve")
        with pytest.raises(Unavailable):
            await one.presence.gateways("ann")
        await eventually(lambda: one.presence._stale)
        redis_server.start()
        await eventually(lambda: _answers(client))
        await one.finds("bob", "gw-1")
        await one.finds("ann", "gw-1")
        await one.finds("eve")


async def test_notes_beyond_the_bound_are_dropped_and_made_up_for(client: Redis) -> None:
    users = [f"user-{n}" for n in range(MAX_WAITING + 200)]
    async with joined(client, "gw-1") as (one,):
        one.come(*users)
        assert len(one.presence._waiting) == MAX_WAITING
        await eventually(lambda: _keys(client, len(users) + 1), within_s=20)
        await one.finds(users[-1], "gw-1")


async def test_stopping_twice_is_stopping_once(client: Redis) -> None:
    async with joined(client, "gw-1") as (one,):
        await one.presence.stop()
        await one.presence.stop()


async def _keys(client: Redis, count: int) -> bool:
    return bool(await client.execute("DBSIZE") == count)


async def _answers(client: Redis) -> bool:
    try:
        await client.execute("PING")
    except Unavailable:
        return False
    return True

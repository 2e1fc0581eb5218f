"""The ledger worker between a real JetStream, PostgreSQL and Redis: nothing lost, nothing counted twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import msgspec
import pytest

from core.bus.jetstream import DEAD_STREAM, STREAM, JetStreamUsage
from core.bus.link import Link
from core.errors import Unavailable
from core.ids import generation_id
from core.ledger.port import Entry
from core.ledger.postgres import PostgresLedger
from core.limits.port import UserLimits
from core.limits.redis import RedisLimits
from core.model import TurnKey, Usage
from core.postgres import Statements, open_pool
from core.redis import Redis
from tests.support.entries import new_entry
from tests.support.nats import NatsServer
from tests.support.polling import eventually
from tests.support.postgres import PostgresServer
from tests.support.redis import RedisServer
from tests.support.turns import new_id
from workers.ledger import run_ledger
from workers.runner import Pace

USER = UserLimits(requests_per_minute=1_000, turns_at_once=1_000, tokens_per_day=1_000_000)
QUICK = Pace(batch=200, wait_s=0.2, first_retry_s=0.05, last_retry_s=0.2, postpone_s=0.2)


class Platform:
    """The three stores, and one worker between them."""

    def __init__(self, link: Link, usage: JetStreamUsage, ledger: PostgresLedger, limits: RedisLimits) -> None:
        self.link, self.usage, self.ledger, self.limits = link, usage, ledger, limits
        self.stop = asyncio.Event()
        self.worker = asyncio.create_task(run_ledger(usage, ledger, limits, self.stop, QUICK))

    async def turn(self, account: str = "ann", **changes: Any) -> Entry:
        """An admitted turn whose attempt is published as opened and as closed; returns the latter."""
        key = TurnKey(new_id(), new_id())
        await self.limits.admit(account, generation_id(key.conversation_id, key.turn_id), 1_000, USER)
        opened = new_entry(key=key, account=account)
        usual = {"revision": 2, "outcome": "done", "charged_to": "user", "usage": Usage(10, 20), "cost": 300}
        closed = msgspec.structs.replace(opened, **(usual | changes))
        for entry in (opened, closed):
            await self.publish(entry)
        return closed

    async def publish(self, entry: Entry) -> None:
        """As a router with a spool does it: until it is acknowledged."""

        async def published() -> bool:
            try:
                await self.usage.publish(entry, 1.0)
            except Unavailable:
                return False
            return True

        await eventually(published)

    async def tokens_left(self, account: str = "ann") -> int:
        """What the day still gives, running turns subtracted. Costs the account a request."""
        probe = new_id()
        left = (await self.limits.admit(account, probe, 0, USER)).tokens_remaining
        await self.limits.settle(account, probe, 0)
        return left

    async def stored(self, stream: str = STREAM) -> int:
        info = msgspec.json.decode((await self.link.ask(f"$JS.API.STREAM.INFO.{stream}", b"", 2.0)).data)
        count = info["state"]["messages"]
        assert isinstance(count, int)
        return count

    async def is_drained(self) -> bool:
        try:
            return await self.stored() == 0
        except Unavailable:
            return False

    async def charged(self) -> int:
        """Attempts that users pay for."""
        totals = await self.ledger.totals(None, 0, 2**50)
        return sum(total.attempts for total in totals if total.charged_to == "user")


@pytest.fixture
async def platform(nats_server: NatsServer, redis_server: RedisServer, dsn: str) -> AsyncIterator[Platform]:
    async with AsyncExitStack() as stack:
        link = await Link.open([nats_server.url], "worker")
        stack.push_async_callback(link.close)
        for stream in (STREAM, DEAD_STREAM):
            await link.ask(f"$JS.API.STREAM.DELETE.{stream}", b"", 5.0)
        usage = JetStreamUsage(link, ack_wait_s=2)
        await usage.ensure()
        stack.push_async_callback(usage.close)
        statements = Statements(await open_pool(dsn, 2))
        stack.push_async_callback(statements.close)
        store = Redis(redis_server.url, 0.2)
        stack.push_async_callback(store.close)
        limits = RedisLimits(store, 0.5, 60.0)
        stack.push_async_callback(limits.close)
        platform = Platform(link, usage, PostgresLedger(statements), limits)
        yield platform
        platform.stop.set()
        await platform.worker


async def test_turns_reach_the_ledger_and_settle(platform: Platform) -> None:
    closed = await asyncio.gather(*(platform.turn() for _ in range(100)))
    await eventually(platform.is_drained)
    assert await platform.charged() == 100
    assert (await platform.ledger.attempts_of(closed[0].key)) == [closed[0]]
    assert await platform.tokens_left() == USER.tokens_per_day - 100 * 30


async def test_a_failed_turn_gives_its_place_back_and_a_running_one_keeps_it(platform: Platform) -> None:
    await platform.turn(outcome="failed", charged_to="platform", usage=None)
    await platform.turn(outcome="error", charged_to="platform")
    await eventually(platform.is_drained)
    assert await platform.charged() == 0
    assert await platform.tokens_left() == USER.tokens_per_day - 1_000


async def test_redelivery_counts_nothing_twice(platform: Platform) -> None:
    closed = await platform.turn()
    await eventually(platform.is_drained)
    estimate = msgspec.structs.replace(closed, revision=1, usage=Usage(10, 15))
    final = msgspec.structs.replace(closed, revision=3, usage=Usage(10, 25))
    for entry in (estimate, final):
        await platform.publish(entry)
    await eventually(platform.is_drained)
    assert await platform.charged() == 1
    assert await platform.tokens_left() == USER.tokens_per_day - 35


async def test_an_outage_of_postgresql_loses_nothing(platform: Platform, postgres_server: PostgresServer) -> None:
    await platform.turn()
    await eventually(platform.is_drained)
    postgres_server.kill()
    try:
        await asyncio.gather(*(platform.turn() for _ in range(20)))
        assert await platform.stored() > 0
        assert not platform.worker.done()
    finally:
        postgres_server.start()
    await eventually(platform.is_drained, 20.0)
    assert await platform.charged() == 21
    assert await platform.tokens_left() == USER.tokens_per_day - 21 * 30


async def test_an_outage_of_redis_delays_only_the_settling(platform: Platform, redis_server: RedisServer) -> None:
    closed = await platform.turn()
    await eventually(platform.is_drained)
    redis_server.freeze()
    later = msgspec.structs.replace(closed, revision=3, usage=Usage(10, 90))
    await platform.publish(later)

    async def is_in_the_ledger() -> bool:
        return await platform.ledger.attempts_of(closed.key) == [later]

    await eventually(is_in_the_ledger)
    assert await platform.stored() > 0
    redis_server.thaw()
    await eventually(platform.is_drained)
    assert await platform.tokens_left() == USER.tokens_per_day - 100


async def test_a_restart_of_nats_loses_nothing(platform: Platform, nats_server: NatsServer) -> None:
    running = [asyncio.create_task(platform.turn()) for _ in range(60)]
    await eventually(running[0].done)
    nats_server.kill()
    nats_server.start()
    await asyncio.gather(*running)
    await eventually(platform.is_drained, 20.0)
    assert await platform.charged() == 60
    assert await platform.tokens_left() == USER.tokens_per_day - 60 * 30


async def test_poison_is_set_aside_and_the_rest_goes_on(platform: Platform) -> None:
    await platform.publish(new_entry(attempt="poison\x00.1"))
    closed = await platform.turn()
    await eventually(platform.is_drained)
    assert await platform.stored(DEAD_STREAM) == 1
    assert await platform.ledger.attempts_of(closed.key) == [closed]


async def test_two_workers_share_and_one_may_stop(platform: Platform) -> None:
    stop = asyncio.Event()
    second = asyncio.create_task(run_ledger(platform.usage, platform.ledger, platform.limits, stop, QUICK))
    turns = [asyncio.create_task(platform.turn()) for _ in range(50)]
    await eventually(turns[0].done)
    stop.set()
    await asyncio.wait_for(second, 5.0)
    await asyncio.gather(*turns)
    await eventually(platform.is_drained)
    assert await platform.charged() == 50

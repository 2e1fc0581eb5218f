"""The contracts of tickets, login attempts and the revocation channel, held by Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from core.accounts.model import TICKET_S, Ticket
from core.accounts.redis import LOCAL_COUNTERS, RedisAttempts, RedisRevocations, RedisTickets
from core.errors import Unavailable
from core.redis import Redis
from tests.support.polling import eventually
from tests.support.redis import RedisServer

TICKET = Ticket(
    user_id="01a20bca-2e4a-794e-b9ee-59047f62e198",
    role="user",
    zone="eu",
    session_id="01a20bca-2e4a-7dba-abbe-85d9f813cfaf",
    key_id=None,
    scopes=("chat", "account"),
)


@pytest.fixture
async def client(redis_server: RedisServer) -> AsyncIterator[Redis]:
    client = Redis(redis_server.url, 1.0)
    yield client
    await client.close()


class TestTickets:
    async def test_one_caller_gets_it(self, client: Redis) -> None:
        tickets = RedisTickets(client)
        text = await tickets.issue(TICKET)
        taken = await asyncio.gather(*(tickets.redeem(text) for _ in range(20)))
        assert [ticket for ticket in taken if ticket] == [TICKET]

    async def test_it_lives_thirty_seconds_and_is_not_stored_in_clear(self, client: Redis) -> None:
        text = await RedisTickets(client).issue(TICKET)
        (key,) = await client.execute("KEYS", "*")
        assert text.encode() not in key
        assert TICKET_S - 2 < await client.execute("TTL", key) <= TICKET_S

    @pytest.mark.parametrize("text", ["", "unknown", "x" * 5_000, "\ud800"])
    async def test_what_was_never_issued_is_none(self, client: Redis, text: str) -> None:
        assert await RedisTickets(client).redeem(text) is None

    async def test_a_store_that_is_away_is_told(self, client: Redis, redis_server: RedisServer) -> None:
        tickets = RedisTickets(client)
        text = await tickets.issue(TICKET)
        redis_server.kill()
        with pytest.raises(Unavailable):
            await tickets.issue(TICKET)
        with pytest.raises(Unavailable):
            await tickets.redeem(text)


class TestAttempts:
    async def test_each_counter_has_its_own_limit(self, client: Redis) -> None:
        attempts = RedisAttempts(client)
        for _ in range(2):
            assert await attempts.take({"a": 2, "b": 9}, 60) is None
        wait = await attempts.take({"a": 2, "b": 9}, 60)
        assert wait is not None
        assert 50_000 < wait <= 60_000
        assert await attempts.take({"b": 9}, 60) is None

    async def test_success_takes_one_attempt_back(self, client: Redis) -> None:
        attempts = RedisAttempts(client)
        await attempts.take({"a": 1}, 60)
        await attempts.forgive(["a", "never taken"])
        assert await attempts.take({"a": 1, "never taken": 1}, 60) is None
        assert await attempts.take({"a": 1}, 60) is not None

    async def test_the_window_ends(self, client: Redis) -> None:
        attempts = RedisAttempts(client)
        assert await attempts.take({"a": 1}, 1) is None
        assert await attempts.take({"a": 1}, 1) is not None
        (key,) = await client.execute("KEYS", "*")
        await client.execute("PEXPIRE", key, 1)
        await eventually(lambda: _gone(client, key))
        assert await attempts.take({"a": 1}, 1) is None

    async def test_processes_share_a_count(self, client: Redis, redis_server: RedisServer) -> None:
        other = Redis(redis_server.url, 1.0)
        await RedisAttempts(other).take({"a": 1}, 60)
        await other.close()
        assert await RedisAttempts(client).take({"a": 1}, 60) is not None

    async def test_without_the_store_it_counts_here_within_bounds(
        self, client: Redis, redis_server: RedisServer
    ) -> None:
        redis_server.kill()
        attempts = RedisAttempts(client)
        assert await attempts.take({"a": 1}, 60) is None
        assert await attempts.take({"a": 1}, 60) is not None
        await attempts.forgive(["a", "a"])
        assert await attempts.take({"a": 1}, 60) is None
        await attempts.take({str(number): 9 for number in range(LOCAL_COUNTERS)}, 60)
        assert await attempts.take({"a": 1}, 60) is None


class TestRevocationChannel:
    async def test_listeners_are_told(self, client: Redis, redis_server: RedisServer) -> None:
        heard: list[tuple[str, str | None, str]] = []
        channel = RedisRevocations(client, redis_server.url, 1.0)
        listening = asyncio.create_task(channel.listen(lambda *message: heard.append(message)))
        try:
            await eventually(lambda: _listeners(client, 1))
            await channel.publish("user", "session", "session")
            await channel.publish("user", None, "suspended")
            await client.execute("PUBLISH", "parley:revocations", "garbage")
            await channel.publish("user", "key", "key")
            await eventually(lambda: len(heard) == 3)
            assert heard == [("user", "session", "session"), ("user", None, "suspended"), ("user", "key", "key")]
        finally:
            listening.cancel()
            await asyncio.wait([listening])

    async def test_a_listener_comes_back_and_publishing_never_raises(
        self, client: Redis, redis_server: RedisServer
    ) -> None:
        heard: list[str] = []
        channel = RedisRevocations(client, redis_server.url, 1.0)
        listening = asyncio.create_task(channel.listen(lambda user, subject, reason: heard.append(user)))
        try:
            await eventually(lambda: _listeners(client, 1))
            redis_server.kill()
            await channel.publish("lost", None, "suspended")
            redis_server.start()
            await eventually(lambda: _listeners(client, 1))
            await channel.publish("found", None, "suspended")
            await eventually(lambda: heard == ["found"])
        finally:
            listening.cancel()
            await asyncio.wait([listening])

    async def test_a_listener_ends_whenever_it_is_cancelled(self, client: Redis, redis_server: RedisServer) -> None:
        channel = RedisRevocations(client, redis_server.url, 1.0)
        for turns in range(60):
            listening = asyncio.create_task(channel.listen(lambda user, subject, reason: None))
            for _ in range(turns):
                await asyncio.sleep(0)
            listening.cancel()
            done, _ = await asyncio.wait([listening], timeout=2)
            assert done, f"still listening, cancelled after {turns} loop turns"


async def _gone(client: Redis, key: bytes) -> bool:
    return not await client.execute("EXISTS", key)


async def _listeners(client: Redis, count: int) -> bool:
    reply = await client.execute("PUBSUB", "NUMSUB", "parley:revocations")
    return bool(reply[1] == count)

"""What the PostgreSQL history does when its server hangs, dies or loses an answer (rule 1 of docs/turns.md)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import asyncpg
import msgspec
import pytest

from core.errors import Unavailable, Unknown
from core.history.port import Applied, Refused
from core.history.postgres import PostgresHistory
from core.postgres import Statements, open_pool
from tests.support.pgproxy import PostgresProxy
from tests.support.polling import eventually
from tests.support.postgres import PostgresServer
from tests.support.turns import new_end, new_id, new_turn, text

DEADLINE_S = 0.6


@pytest.fixture
async def proxy(postgres_server: PostgresServer) -> AsyncIterator[PostgresProxy]:
    proxy = PostgresProxy(postgres_server.port)
    await proxy.start()
    yield proxy
    await proxy.stop()


@pytest.fixture
async def direct(dsn: str) -> AsyncIterator[PostgresHistory]:
    adapter = PostgresHistory(Statements(await open_pool(dsn, 2)))
    yield adapter
    await adapter.close()


@pytest.fixture
async def history(dsn: str, proxy: PostgresProxy, postgres_server: PostgresServer) -> AsyncIterator[PostgresHistory]:
    """An adapter behind the proxy, with a short deadline."""
    pool = await open_pool(dsn.replace(str(postgres_server.port), str(proxy.port)), 2)
    adapter = PostgresHistory(Statements(pool, DEADLINE_S, DEADLINE_S))
    yield adapter
    await adapter.close()


@pytest.fixture
async def conversation(direct: PostgresHistory) -> str:
    conversation_id = new_id()
    await direct.create_conversation(conversation_id, "owner", "eu")
    return conversation_id


async def test_a_lost_answer_is_asked_for_again(
    history: PostgresHistory, direct: PostgresHistory, proxy: PostgresProxy, conversation: str
) -> None:
    turn = new_turn(conversation)
    proxy.faults.extend(["lose reply", "lose request", "lose reply"])
    opened = await history.open(turn)
    assert isinstance(opened, Applied)
    assert not proxy.faults
    assert await direct.read(turn.key) == opened.turn
    assert await direct.open_turns(0, 10) == [opened.turn]


async def test_what_happened_since_a_lost_answer_is_not_denied(
    history: PostgresHistory, direct: PostgresHistory, proxy: PostgresProxy, conversation: str
) -> None:
    turn = new_turn(conversation)
    proxy.faults.append("lose reply")
    proxy.between = lambda: direct.cancel(turn.key)
    refused = await history.open(turn)
    assert isinstance(refused, Refused)
    assert refused.turn is not None
    assert refused.turn.cancelled
    proxy.faults.append("lose reply")
    proxy.between = lambda: direct.cancel(turn.key)
    ended = await history.end(turn.key, new_end(refused.turn))
    assert isinstance(ended, Applied), "an end that was stored stays stored"


async def test_deleting_twice_by_a_lost_answer_tells_that_it_was_done(
    history: PostgresHistory, proxy: PostgresProxy, conversation: str
) -> None:
    for deleted_at_ms in (17, None):
        proxy.faults.append("lose reply")
        assert await history.set_deleted(conversation, deleted_at_ms)


async def test_an_answer_that_never_comes_is_unknown_and_the_same_write_can_be_repeated(
    history: PostgresHistory, proxy: PostgresProxy, conversation: str
) -> None:
    turn = new_turn(conversation)
    proxy.faults.extend(["hang"] * 20)
    started = time.monotonic()
    with pytest.raises(Unknown):
        await history.open(turn)
    assert time.monotonic() - started < DEADLINE_S + 0.5
    proxy.faults.clear()
    assert isinstance(await history.open(turn), Applied)


async def test_a_connection_that_hangs_leaves_time_for_another(
    history: PostgresHistory, proxy: PostgresProxy, conversation: str
) -> None:
    proxy.faults.append("hang")
    assert isinstance(await history.open(new_turn(conversation)), Applied)
    proxy.faults.append("hang")
    assert (await history.look(conversation, None, None)).parent is not None


async def test_a_server_that_is_away_is_told_at_once_and_found_again(
    history: PostgresHistory, proxy: PostgresProxy, conversation: str
) -> None:
    turn = new_turn(conversation)
    assert await history.read(turn.key) is None
    await proxy.stop()
    # A write that finds its connection lost is unknown; this read makes sure that the pool has heard of the loss.
    with pytest.raises(Unavailable):
        await history.read(turn.key)
    for call in (history.open(turn), history.read(turn.key), history.append(turn.key, 0, text(0, "x"))):
        started = time.monotonic()
        with pytest.raises(Unavailable):
            await call
        assert time.monotonic() - started < DEADLINE_S / 2
    await proxy.start()
    assert isinstance(await history.open(turn), Applied)


async def test_a_server_that_goes_away_under_a_write_leaves_it_unknown(
    history: PostgresHistory, proxy: PostgresProxy, conversation: str
) -> None:
    turn = new_turn(conversation)
    await history.read(turn.key)
    proxy.faults.append("lose reply")
    closing: list[asyncio.Task[None]] = []

    async def close_the_door() -> None:
        closing.append(asyncio.create_task(proxy.stop()))
        await asyncio.sleep(0)

    proxy.between = close_the_door
    with pytest.raises(Unknown):
        await history.open(turn)
    await asyncio.gather(*closing)
    await proxy.start()
    assert isinstance(await history.open(turn), Applied)


async def test_the_wait_for_a_connection_is_part_of_the_deadline(dsn: str, conversation: str) -> None:
    holder = await asyncpg.connect(dsn)
    transaction = holder.transaction()
    await transaction.start()
    await holder.execute("LOCK TABLE history_turns")
    adapter = PostgresHistory(Statements(await open_pool(dsn, 1), 0.3, 0.3))
    started = time.monotonic()
    results = await asyncio.gather(*(adapter.open(new_turn(conversation)) for _ in range(5)), return_exceptions=True)
    assert time.monotonic() - started < 1.0
    assert {type(result) for result in results} <= {Unavailable, Unknown}
    await transaction.rollback()
    await holder.close()
    assert isinstance(await adapter.open(new_turn(conversation)), Applied)
    await adapter.close()


async def test_a_cancelled_call_gives_its_connection_back(dsn: str, conversation: str) -> None:
    holder = await asyncpg.connect(dsn)
    transaction = holder.transaction()
    await transaction.start()
    await holder.execute("LOCK TABLE history_turns")
    adapter = PostgresHistory(Statements(await open_pool(dsn, 1)))
    turn = new_turn(conversation)
    call = asyncio.create_task(adapter.open(turn))
    await eventually(lambda: holder.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"))
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await transaction.rollback()
    await holder.close()
    other = msgspec.structs.replace(turn, run="another")
    assert (await adapter.open(other)).turn is not None
    await adapter.close()


async def test_a_crash_of_the_server_loses_nothing_acknowledged(
    direct: PostgresHistory, postgres_server: PostgresServer, conversation: str
) -> None:
    turns = [new_turn(conversation) for _ in range(20)]
    acknowledged = [(await direct.open(turn)).turn for turn in turns]
    postgres_server.kill()
    with pytest.raises(Unavailable):
        await direct.read(turns[0].key)
    postgres_server.start()
    assert [await direct.read(turn.key) for turn in turns] == acknowledged


async def test_commits_are_durable_whatever_the_server_is_set_to(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    name = dsn.rsplit("/", 1)[1]
    await connection.execute(f'ALTER DATABASE "{name}" SET synchronous_commit = off')
    await connection.close()
    statements = Statements(await open_pool(dsn, 1))
    (row,) = await statements.read("SHOW synchronous_commit")
    assert row[0] == "on"
    await statements.close()

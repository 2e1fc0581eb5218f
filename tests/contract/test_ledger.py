"""The ledger port's contract, on a real PostgreSQL."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import asyncpg
import msgspec
import pytest

from core.ledger.port import Entry, Ledger, Total
from core.ledger.postgres import PostgresLedger
from core.model import TurnKey, Usage
from core.postgres import Statements, open_pool
from tests.support.entries import new_entry
from tests.support.turns import new_id


@pytest.fixture
async def ledger(dsn: str) -> AsyncIterator[Ledger]:
    statements = Statements(await open_pool(dsn, 4))
    yield PostgresLedger(statements)
    await statements.close()


def closed(entry: Entry, **changes: object) -> Entry:
    """Revision 2 of an attempt: done, charged to the user."""
    usual = {"revision": 2, "outcome": "done", "charged_to": "user", "usage": Usage(10, 20), "cost": 300}
    return msgspec.structs.replace(entry, **(usual | changes))


async def test_an_entry_comes_back_whole(ledger: Ledger) -> None:
    key = TurnKey(new_id(), new_id())
    usage = Usage(1, 2**40, cached_tokens=3, reasoning_tokens=4, estimated=True)
    entries = [
        new_entry(key=key, attempt="a.1", epoch=3, cost=2**60, usage=usage, purpose="title", outcome="lost"),
        new_entry(key=key, attempt="b.1", at_ms=1),
    ]
    assert await ledger.append(entries) == 2
    assert await ledger.attempts_of(key) == entries
    assert await ledger.attempts_of(TurnKey(key.conversation_id, new_id())) == []


async def test_a_repeated_entry_is_ignored_and_the_first_stands(ledger: Ledger) -> None:
    entry = new_entry()
    assert await ledger.append([]) == 0
    assert await ledger.append([entry, entry]) == 1
    assert await ledger.append([msgspec.structs.replace(entry, cost=99, at_ms=5), new_entry()]) == 1
    assert await ledger.attempts_of(entry.key) == [entry]


async def test_the_highest_revision_counts_in_any_order_of_arrival(ledger: Ledger) -> None:
    opened = new_entry()
    final = closed(opened)
    corrected = closed(opened, revision=3, cost=7)
    await ledger.append([final])
    await ledger.append([opened])
    assert await ledger.attempts_of(opened.key) == [final]
    await ledger.append([corrected])
    assert await ledger.attempts_of(opened.key) == [corrected]


async def test_the_database_refuses_to_change_or_remove_an_entry(ledger: Ledger, dsn: str) -> None:
    entry = new_entry()
    await ledger.append([entry])
    connection = await asyncpg.connect(dsn)
    try:
        for statement in (
            "UPDATE ledger_entries SET cost = 0",
            "DELETE FROM ledger_entries",
            "TRUNCATE ledger_entries",
        ):
            with pytest.raises(asyncpg.RestrictViolationError, match="append-only"):
                await connection.execute(statement)
    finally:
        await connection.close()
    assert await ledger.attempts_of(entry.key) == [entry]


async def test_a_batch_is_stored_whole_or_not_at_all(ledger: Ledger) -> None:
    good, bad = new_entry(), new_entry(cost=-1)
    with pytest.raises(ValueError, match="cost"):
        await ledger.append([good, bad])
    assert await ledger.attempts_of(good.key) == []


async def test_a_batch_is_bounded(ledger: Ledger) -> None:
    with pytest.raises(ValueError, match="at most 10000"):
        await ledger.append([new_entry()] * 10_001)


async def test_overlapping_batches_in_any_order_store_each_entry_once(ledger: Ledger) -> None:
    entries = [new_entry() for _ in range(300)]
    batches = [random.Random(seed).sample(entries, len(entries)) for seed in range(8)]
    stored = await asyncio.gather(*(ledger.append(batch) for batch in batches))
    assert sum(stored) == len(entries)


async def test_totals_sum_the_highest_revisions_of_attempts_opened_in_the_window(ledger: Ledger) -> None:
    def attempt(at_ms: int, account: str, **changes: object) -> list[Entry]:
        opened = new_entry(at_ms=at_ms, account=account)
        return [opened, closed(opened, at_ms=at_ms + 500, **changes)]

    await ledger.append(
        [
            *attempt(999, "a"),
            *attempt(1_000, "a"),
            *attempt(1_999, "a", cost=1_000),
            *attempt(1_500, "a", charged_to="platform", usage=None, cost=0),
            new_entry(at_ms=1_500, account="a"),
            *attempt(1_500, "b"),
            *attempt(2_000, "a"),
        ]
    )
    platform = Total(charged_to="platform", attempts=2, prompt_tokens=0, completion_tokens=0, cost=0)
    users = Total(charged_to="user", attempts=2, prompt_tokens=20, completion_tokens=40, cost=1_300)
    assert await ledger.totals("a", 1_000, 2_000) == [users, platform]
    everybody = Total(charged_to="user", attempts=3, prompt_tokens=30, completion_tokens=60, cost=1_600)
    assert await ledger.totals(None, 1_000, 2_000) == [everybody, platform]
    assert await ledger.totals("nobody", 0, 10_000) == []


async def test_open_attempts_are_those_with_nothing_after_their_opening(ledger: Ledger) -> None:
    oldest, old, new, done, lost = [new_entry(at_ms=at_ms) for at_ms in (10, 20, 100, 5, 6)]
    await ledger.append([old, oldest, new, done, closed(done), closed(lost)])
    assert await ledger.open_attempts(100, 10) == [oldest, old]
    assert await ledger.open_attempts(101, 2) == [oldest, old]
    assert await ledger.open_attempts(101, 3) == [oldest, old, new]

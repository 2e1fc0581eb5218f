"""Reconciliation over a real history and a real ledger."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import asyncpg
import pytest

from core.books import Served, TooMuch
from core.errors import Unavailable
from core.history.postgres import PostgresHistory
from core.ledger import reconcile as reconciling
from core.ledger.port import Entry
from core.ledger.postgres import PostgresLedger
from core.ledger.reconcile import reconcile
from core.model import Turn, Usage
from core.postgres import Pool, Statements, open_pool
from core.schema.migrate import MigrationError
from tests.support.entries import new_entry
from tests.support.turns import new_end, new_id, new_turn

DAY_MS = 24 * 3600 * 1000


@pytest.fixture
async def pool(dsn: str) -> AsyncIterator[Pool]:
    pool = await open_pool(dsn, 4)
    yield pool
    await pool.close()


async def ended(history: PostgresHistory) -> tuple[Turn, Entry]:
    """A turn in history and the entry that its end asks for."""
    turn = new_turn(new_id())
    await history.create_conversation(turn.key.conversation_id, "owner", "eu")
    await history.open(turn)
    end = new_end(turn)
    row = (await history.end(turn.key, end)).turn
    assert row is not None
    entry = new_entry(
        attempt=end.attempt,
        revision=2,
        at_ms=time.time_ns() // 1_000_000,
        key=turn.key,
        account="owner",
        charged_to="user",
        outcome="done",
        usage=end.usage,
        cost=end.cost,
    )
    return row, entry


async def test_the_books_are_read_as_they_stand(pool: Pool) -> None:
    history, ledger = PostgresHistory(Statements(pool)), PostgresLedger(Statements(pool))
    now = time.time_ns() // 1_000_000
    window = (now - DAY_MS, now + DAY_MS)
    charged, lagging, wrong = [await ended(history) for _ in range(3)]
    opened = new_entry(key=charged[0].key, attempt=charged[1].attempt, at_ms=charged[1].at_ms)
    stateless = new_entry(at_ms=now, revision=2, outcome="done", charged_to="user", usage=Usage(1, 1), cost=5)
    await ledger.append([opened, charged[1], stateless])
    await history.close_listing([charged[0].key])

    report = await reconcile(pool, *window)
    assert report.balanced
    assert set(report.pending) == {lagging[0].key, wrong[0].key}
    assert (report.turns, report.attempts, report.unstored, report.users_unstored) == (3, 2, 1, 5)
    assert (report.users_by_ledger, report.users_by_history) == (1234, 3 * 1234)

    await history.close_listing([wrong[0].key])
    report = await reconcile(pool, *window)
    assert [(problem.finding, problem.key) for problem in report.problems] == [("missing", wrong[0].key)]

    await ledger.append([lagging[1], wrong[1]])
    log = [
        Served(attempt=entry.attempt, prompt_tokens=3, completion_tokens=5, ended=True)
        for _, entry in (charged, lagging, wrong)
    ]
    log.append(Served(attempt=stateless.attempt, prompt_tokens=1, completion_tokens=1, ended=True))
    report = await reconcile(pool, *window, log)
    assert report.balanced
    assert report.users_by_ledger == report.users_by_history
    outside = await reconcile(pool, now + DAY_MS, now + 2 * DAY_MS)
    assert (outside.turns, outside.attempts) == (0, 0)
    named = await reconcile(pool, now + DAY_MS, now + 2 * DAY_MS, log)
    assert named.balanced
    assert (named.turns, named.unstored) == (3, 1), "what the log names is looked up wherever it is"


async def test_a_window_is_bounded(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    await ended(PostgresHistory(Statements(pool)))
    monkeypatch.setattr(reconciling, "MAX_TURNS", 0)
    with pytest.raises(TooMuch, match="shorter"):
        await reconcile(pool, 0, 2 * time.time_ns() // 1_000_000)


async def test_without_a_server_it_is_unavailable() -> None:
    pool = await open_pool("postgresql://nobody@127.0.0.1:1/none", 1)
    with pytest.raises(Unavailable):
        await reconcile(pool, 0, 1)


@pytest.mark.parametrize("change", [{"database": "nothing"}, {"user": "nobody"}])
async def test_without_the_database_or_its_role_it_is_unavailable(dsn: str, change: dict[str, str]) -> None:
    pool = await asyncpg.create_pool(dsn, min_size=0, **change)
    with pytest.raises(Unavailable, match="does not exist"):
        await reconcile(pool, 0, 1)
    await pool.close()


async def test_a_database_without_tables_is_to_be_migrated(dsn: str) -> None:
    pool = await asyncpg.create_pool(dsn, min_size=0, database="postgres")
    with pytest.raises(MigrationError, match="parley migrate"):
        await reconcile(pool, 0, 1)
    await pool.close()

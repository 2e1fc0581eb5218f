"""Migrations on a real server: once each, one at a time, whole or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import chain

import asyncpg
import pytest

from core.errors import Unavailable
from core.schema.migrate import LOCK_KEY, Migration, MigrationError, migrate, migrations, parse, status
from tests.support.polling import eventually
from tests.support.postgres import PostgresServer

ONE = Migration(1, "one", "CREATE TABLE one (n integer); CREATE TABLE one_more (n integer);")
TWO = Migration(2, "two", "CREATE TABLE two (n integer)")
BAD = Migration(3, "bad", "CREATE TABLE three (n integer); SELECT nonsense")


@pytest.fixture
async def empty(postgres_server: PostgresServer) -> AsyncIterator[str]:
    name = await postgres_server.create_database()
    yield postgres_server.dsn(name)
    await postgres_server.drop_database(name)


async def tables(dsn: str) -> set[str]:
    connection = await asyncpg.connect(dsn)
    try:
        rows = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    finally:
        await connection.close()
    return {row["tablename"] for row in rows}


async def test_every_migration_of_the_program_applies_in_order_and_only_once(empty: str) -> None:
    labels = [migration.label for migration in migrations()]
    assert labels == sorted(labels)
    assert all(state.applied_at is None for state in await status(empty))
    assert await migrate(empty) == labels
    assert await migrate(empty) == []
    assert all(state.applied_at is not None for state in await status(empty))


async def test_one_that_arrives_late_with_a_lower_number_is_applied(empty: str) -> None:
    assert await migrate(empty, [TWO]) == ["0002_two"]
    assert await migrate(empty, [ONE, TWO]) == ["0001_one"]


async def test_processes_that_start_together_apply_each_migration_once(empty: str) -> None:
    applied = await asyncio.gather(*(migrate(empty, [ONE, TWO]) for _ in range(5)))
    assert sorted(chain.from_iterable(applied)) == ["0001_one", "0002_two"]


async def test_a_migration_waits_for_the_one_that_holds_the_lock(empty: str) -> None:
    holder = await asyncpg.connect(empty)
    await holder.execute("SELECT pg_advisory_lock($1)", LOCK_KEY)
    waiting = asyncio.create_task(migrate(empty, [ONE]))
    waiters = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    await eventually(lambda: holder.fetchval(waiters))
    assert await tables(empty) == set()
    await holder.close()
    assert await waiting == ["0001_one"]


async def test_a_failing_migration_changes_nothing_and_keeps_those_before_it(empty: str) -> None:
    with pytest.raises(MigrationError, match=r"0003_bad\.sql failed and changed nothing.*nonsense"):
        await migrate(empty, [ONE, BAD])
    assert await tables(empty) == {"one", "one_more", "schema_migrations"}
    assert [state.applied_at is None for state in await status(empty, [ONE, BAD])] == [False, True]


async def test_a_changed_migration_is_refused(empty: str) -> None:
    await migrate(empty, [ONE])
    changed = Migration(1, "one", ONE.sql + " -- an afterthought")
    with pytest.raises(MigrationError, match=r"0001_one\.sql was changed after it had been applied"):
        await migrate(empty, [changed, TWO])
    assert "two" not in await tables(empty)


async def test_a_database_newer_than_the_program_is_refused(empty: str) -> None:
    await migrate(empty, [ONE, TWO])
    with pytest.raises(MigrationError, match="newer than this program: it has 0002_two"):
        await migrate(empty, [ONE])
    with pytest.raises(MigrationError, match="newer than this program"):
        await status(empty, [ONE])


async def test_no_server_is_told_as_unavailable() -> None:
    with pytest.raises(Unavailable, match="cannot connect"):
        await migrate("postgresql://nobody@127.0.0.1:1/none")


def test_file_names_must_be_numbered_and_numbers_unique() -> None:
    with pytest.raises(MigrationError, match="NNNN_name"):
        parse({"1_short.sql": ""})
    with pytest.raises(MigrationError, match="same number"):
        parse({"0001_a.sql": "", "0001_b.sql": ""})

"""Applies the numbered SQL files of this folder, each once, in its own transaction, under one advisory lock.

A file is named `NNNN_name.sql`. What was applied is recorded with its checksum: a file that was changed afterwards is
an error, and so is a database that knows migrations which this program does not. Files of different number ranges do
not depend on each other, so one that arrives late is applied late.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterable, Mapping
from datetime import datetime
from importlib import resources
from typing import Final

import asyncpg
import msgspec

from core.errors import Unavailable

LOCK_KEY: Final = 0x7061726C6579
CONNECT_S: Final = 10.0
LOCK_WAIT_S: Final = 60.0
STATEMENT_S: Final = 3600.0

_NAME: Final = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
_TABLE: Final = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    number      integer PRIMARY KEY,
    name        text NOT NULL,
    checksum    text NOT NULL,
    applied_at  timestamptz NOT NULL DEFAULT clock_timestamp()
)"""


class MigrationError(Exception):
    """The database and this program do not fit; the message says which of them to change."""


class Migration(msgspec.Struct, frozen=True):
    """One file: its number, name, SQL and the checksum (SHA-256, hex) under which it is recorded."""

    number: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()

    @property
    def label(self) -> str:
        return f"{self.number:04}_{self.name}"


class State(msgspec.Struct, frozen=True):
    """A migration known to the program and when the database took it; None: pending."""

    label: str
    applied_at: datetime | None


def migrations() -> list[Migration]:
    """The files of this folder, by number."""
    return parse(
        {
            entry.name: entry.read_text(encoding="utf-8")
            for entry in resources.files(__package__).iterdir()
            if entry.name.endswith(".sql")
        }
    )


def parse(files: Mapping[str, str]) -> list[Migration]:
    """Migrations from file names and texts, by number. Raises `MigrationError` for a bad or a doubled number."""
    found: dict[int, Migration] = {}
    for name, sql in sorted(files.items()):
        match = _NAME.fullmatch(name)
        if match is None:
            raise MigrationError(f"{name}: a migration is named NNNN_name.sql (lower case, four digits)")
        migration = Migration(int(match[1]), match[2], sql)
        if migration.number in found:
            raise MigrationError(f"{name} and {found[migration.number].label}.sql have the same number")
        found[migration.number] = migration
    return [found[number] for number in sorted(found)]


async def migrate(dsn: str, wanted: Iterable[Migration] | None = None) -> list[str]:
    """Applies what is pending and returns its labels, such as `0001_history`.

    Several processes may call it at once: one applies, the others wait for it (at most 60 s) and find nothing to do.
    Raises `MigrationError` (the message names the file; the ones before it stay applied) or `Unavailable`.
    """
    known = migrations() if wanted is None else list(wanted)
    connection = await _connect(dsn)
    try:
        await _lock(connection)
        await connection.execute(_TABLE)
        applied = await _applied(connection)
        pending = _pending(known, applied)
        for migration in pending:
            await _apply(connection, migration)
        return [migration.label for migration in pending]
    except (OSError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError, TimeoutError) as error:
        raise Unavailable(f"PostgreSQL went away during a migration: {error}") from error
    finally:
        connection.terminate()


async def status(dsn: str, wanted: Iterable[Migration] | None = None) -> list[State]:
    """Every migration of this program and whether the database has it. Changes nothing; errors as in `migrate`."""
    known = migrations() if wanted is None else list(wanted)
    connection = await _connect(dsn)
    try:
        exists = await connection.fetchval("SELECT to_regclass('schema_migrations') IS NOT NULL", timeout=CONNECT_S)
        applied = await _applied(connection) if exists else {}
        _pending(known, applied)
        return [State(m.label, applied[m.number]["applied_at"] if m.number in applied else None) for m in known]
    except (OSError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError, TimeoutError) as error:
        raise Unavailable(f"PostgreSQL went away: {error}") from error
    finally:
        connection.terminate()


async def _connect(dsn: str) -> asyncpg.Connection:
    try:
        return await asyncpg.connect(dsn, timeout=CONNECT_S, server_settings={"application_name": "parley migrate"})
    except (OSError, TimeoutError, asyncpg.PostgresError) as error:
        raise Unavailable(f"cannot connect to PostgreSQL: {error}") from error


async def _lock(connection: asyncpg.Connection) -> None:
    deadline = time.monotonic() + LOCK_WAIT_S
    try:
        await connection.execute("SELECT pg_advisory_lock($1)", LOCK_KEY, timeout=deadline - time.monotonic())
    except TimeoutError as error:
        raise MigrationError(f"another migration has been running for {LOCK_WAIT_S:.0f} s; try again later") from error


async def _applied(connection: asyncpg.Connection) -> dict[int, asyncpg.Record]:
    rows = await connection.fetch("SELECT number, name, checksum, applied_at FROM schema_migrations", timeout=CONNECT_S)
    return {row["number"]: row for row in rows}


def _pending(known: list[Migration], applied: Mapping[int, asyncpg.Record]) -> list[Migration]:
    numbers = {migration.number for migration in known}
    foreign = sorted(number for number in applied if number not in numbers)
    if foreign:
        labels = ", ".join(f"{number:04}_{applied[number]['name']}" for number in foreign)
        raise MigrationError(f"the database is newer than this program: it has {labels}; run the newer program")
    for migration in known:
        row = applied.get(migration.number)
        if row is not None and row["checksum"] != migration.checksum:
            raise MigrationError(
                f"{migration.label}.sql was changed after it had been applied; "
                "restore it and put the change into a new migration"
            )
    return [migration for migration in known if migration.number not in applied]


async def _apply(connection: asyncpg.Connection, migration: Migration) -> None:
    try:
        async with connection.transaction():
            await connection.execute(migration.sql, timeout=STATEMENT_S)
            await connection.execute(
                "INSERT INTO schema_migrations (number, name, checksum) VALUES ($1, $2, $3)",
                migration.number,
                migration.name,
                migration.checksum,
            )
    except asyncpg.PostgresConnectionError:
        raise
    except asyncpg.PostgresError as error:
        raise MigrationError(f"{migration.label}.sql failed and changed nothing: {error}") from error

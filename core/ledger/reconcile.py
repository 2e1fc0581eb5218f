"""Reads what `core.books` compares from PostgreSQL: history and ledger in one snapshot."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Final

import asyncpg
import msgspec

from core.books import Report, Served, TooMuch, TurnFacts, compare
from core.ledger.postgres import to_entry
from core.model import End, TurnKey
from core.postgres import Pool
from core.schema.migrate import MigrationError
from core.sql import Database

MAX_TURNS: Final = 200_000
MAX_ATTEMPTS: Final = 1_000_000

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_END: Final = msgspec.msgpack.Decoder(End)

# $1 and $2 bound the time of a turn's opening, $3 names attempts from a provider's log.
_WANTED: Final = """
WITH wanted AS (
    SELECT conversation, turn FROM history_turns WHERE opened_at >= $1 AND opened_at < $2
  UNION
    SELECT t.conversation, t.turn FROM ledger_entries e
    JOIN history_turns t ON t.conversation = e.conversation AND t.turn = e.turn
    WHERE e.attempt = ANY($3::text[])
)"""

_TURNS: Final = f"""{_WANTED}
SELECT t.conversation, t.turn, t.owner, t.max_tokens, t.run, t.ended, o.turn IS NOT NULL AS listed
FROM wanted JOIN history_turns t USING (conversation, turn) LEFT JOIN history_open o USING (conversation, turn)
LIMIT $4"""  # noqa: S608 - constants of this file

_OF_TURNS: Final = f"""{_WANTED}
SELECT DISTINCT ON (e.attempt) e.* FROM wanted JOIN ledger_entries e USING (conversation, turn)
ORDER BY e.attempt, e.revision DESC LIMIT $4"""  # noqa: S608 - constants of this file

_UNSTORED: Final = """
SELECT DISTINCT ON (e.attempt) e.* FROM ledger_entries e
WHERE (e.at_ms >= $1 AND e.at_ms < $2 OR e.attempt = ANY($3::text[]))
AND NOT EXISTS (SELECT FROM history_turns t WHERE t.conversation = e.conversation AND t.turn = e.turn)
ORDER BY e.attempt, e.revision DESC LIMIT $4"""


async def reconcile(
    pool: Pool, since_ms: int, until_ms: int, log: Iterable[Served] | None = None, timeout_s: float = 60.0
) -> Report:
    """Compares the books of the turns opened in [since_ms, until_ms), and of calls without history made in it.

    `log`, where given, must cover every provider call of these. Usage travels for a while before it is in the ledger:
    a window that ends now may show as `missing` what is still on its way. Raises `Unavailable`, `TooMuch` and, where
    the database has no tables of ours, `MigrationError`.
    """
    served = None if log is None else list(log)
    named = [line.attempt for line in served or () if line.attempt is not None]
    window = (_EPOCH + timedelta(milliseconds=since_ms), _EPOCH + timedelta(milliseconds=until_ms), named)
    try:
        async with (
            Database(pool, timeout_s).reading() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            turns = await connection.fetch(_TURNS, *window, MAX_TURNS + 1)
            stored = await connection.fetch(_OF_TURNS, *window, MAX_ATTEMPTS + 1)
            unstored = await connection.fetch(_UNSTORED, since_ms, until_ms, named, MAX_ATTEMPTS + 1)
    except asyncpg.UndefinedTableError as error:
        raise MigrationError(f"PostgreSQL: {error}: `parley migrate` makes what is missing") from error
    if len(turns) > MAX_TURNS or max(len(stored), len(unstored)) > MAX_ATTEMPTS:
        raise TooMuch(f"more than {MAX_TURNS} turns or {MAX_ATTEMPTS} attempts in the window: choose a shorter one")
    return compare(map(_facts, turns), map(to_entry, [*stored, *unstored]), served)


def _facts(row: asyncpg.Record) -> TurnFacts:
    return TurnFacts(
        key=TurnKey(str(row["conversation"]), str(row["turn"])),
        owner=row["owner"],
        max_tokens=row["max_tokens"],
        run=row["run"],
        end=None if row["ended"] is None else _END.decode(row["ended"]),
        listed=row["listed"],
    )

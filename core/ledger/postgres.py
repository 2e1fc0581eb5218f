"""The ledger in PostgreSQL: a batch is one statement, so it is stored whole or not at all and may be repeated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import asyncpg

from core.ledger.port import Entry, Total
from core.model import TurnKey, Usage
from core.postgres import Statements

MAX_BATCH: Final = 10_000
# How far before its bound `open_attempts` looks: what is older was closed by a reconciliation.
HORIZON_MS: Final = 31 * 24 * 3600 * 1000

_COLUMNS: Final = {
    "attempt": "text",
    "revision": "smallint",
    "at_ms": "bigint",
    "conversation": "uuid",
    "turn": "uuid",
    "account": "text",
    "epoch": "integer",
    "purpose": "text",
    "charged_to": "text",
    "model": "text",
    "provider": "text",
    "price_version": "integer",
    "outcome": "text",
    "prompt_tokens": "bigint",
    "completion_tokens": "bigint",
    "cached_tokens": "bigint",
    "reasoning_tokens": "bigint",
    "estimated": "boolean",
    "cost": "bigint",
}
_NAMES: Final = ", ".join(_COLUMNS)
_ARRAYS: Final = ", ".join(f"${n}::{kind}[]" for n, kind in enumerate(_COLUMNS.values(), 1))

_APPEND: Final = f"""
WITH stored AS (
    INSERT INTO ledger_entries ({_NAMES}) SELECT * FROM unnest({_ARRAYS}) ON CONFLICT DO NOTHING RETURNING 1
)
SELECT count(*) AS new FROM stored"""

_ATTEMPTS_OF: Final = """
SELECT DISTINCT ON (attempt) * FROM ledger_entries WHERE conversation = $1 AND turn = $2
ORDER BY attempt, revision DESC"""

# An attempt was opened at the least time of its revisions; so one opened in the window has an entry there.
_TOTALS: Final = """
WITH candidates AS (
    SELECT DISTINCT attempt FROM ledger_entries WHERE at_ms >= $1 AND at_ms < $2 {account}
), counting AS (
    SELECT DISTINCT ON (attempt) charged_to, prompt_tokens, completion_tokens, cost,
           min(at_ms) OVER (PARTITION BY attempt) AS opened_ms
    FROM candidates JOIN ledger_entries USING (attempt)
    ORDER BY attempt, revision DESC
)
SELECT charged_to, count(*) AS attempts, coalesce(sum(prompt_tokens), 0)::bigint AS prompt_tokens,
       coalesce(sum(completion_tokens), 0)::bigint AS completion_tokens, sum(cost)::bigint AS cost
FROM counting WHERE opened_ms >= $1 AND opened_ms < $2
GROUP BY charged_to ORDER BY charged_to DESC"""
_TOTALS_OF_ALL: Final = _TOTALS.format(account="")
_TOTALS_OF_ONE: Final = _TOTALS.format(account="AND account = $3")

_OPEN_ATTEMPTS: Final = """
SELECT * FROM ledger_entries opened WHERE revision = 0 AND at_ms >= $1 AND at_ms < $2
AND NOT EXISTS (SELECT FROM ledger_entries later WHERE later.attempt = opened.attempt AND later.revision > 0)
ORDER BY at_ms LIMIT $3"""


class PostgresLedger:
    """`core.ledger.port.Ledger`. The database itself refuses to change or remove an entry."""

    def __init__(self, statements: Statements) -> None:
        self._statements = statements

    async def append(self, entries: Sequence[Entry]) -> int:
        """As the port says. After a repeated try the count may leave out what the unanswered try had stored."""
        if len(entries) > MAX_BATCH:
            raise ValueError(f"a batch has at most {MAX_BATCH} entries, not {len(entries)}")
        if not entries:
            return 0
        # One order in every batch: two that share entries wait for each other instead of deadlocking.
        ordered = sorted(map(_values, entries), key=_by_revision)
        result = await self._statements.write(_APPEND, *map(list, zip(*ordered, strict=True)))
        return int(result.rows[0]["new"])

    async def attempts_of(self, key: TurnKey) -> list[Entry]:
        return [to_entry(row) for row in await self._statements.read(_ATTEMPTS_OF, key.conversation_id, key.turn_id)]

    async def totals(self, account: str | None, since_ms: int, until_ms: int) -> list[Total]:
        if account is None:
            rows = await self._statements.read(_TOTALS_OF_ALL, since_ms, until_ms)
        else:
            rows = await self._statements.read(_TOTALS_OF_ONE, since_ms, until_ms, account)
        return [Total(**row) for row in rows]

    async def open_attempts(self, before_ms: int, limit: int) -> list[Entry]:
        """As the port says; looks back 31 days from `before_ms`."""
        rows = await self._statements.read(_OPEN_ATTEMPTS, before_ms - HORIZON_MS, before_ms, limit)
        return [to_entry(row) for row in rows]


def to_entry(row: asyncpg.Record) -> Entry:
    """An entry from a row of ledger_entries."""
    usage = None
    if row["prompt_tokens"] is not None:
        usage = Usage(
            prompt_tokens=row["prompt_tokens"],
            completion_tokens=row["completion_tokens"],
            cached_tokens=row["cached_tokens"],
            reasoning_tokens=row["reasoning_tokens"],
            estimated=row["estimated"],
        )
    return Entry(
        attempt=row["attempt"],
        revision=row["revision"],
        at_ms=row["at_ms"],
        key=TurnKey(str(row["conversation"]), str(row["turn"])),
        account=row["account"],
        epoch=row["epoch"],
        purpose=row["purpose"],
        charged_to=row["charged_to"],
        model=row["model"],
        provider=row["provider"],
        price_version=row["price_version"],
        outcome=row["outcome"],
        usage=usage,
        cost=row["cost"],
    )


def _by_revision(values: tuple[object, ...]) -> tuple[object, ...]:
    return values[:2]


def _values(entry: Entry) -> tuple[object, ...]:
    usage = entry.usage
    tokens: tuple[object, ...] = (None, None, None, None, None)
    if usage is not None:
        tokens = (
            usage.prompt_tokens,
            usage.completion_tokens,
            usage.cached_tokens,
            usage.reasoning_tokens,
            usage.estimated,
        )
    return (
        entry.attempt,
        entry.revision,
        entry.at_ms,
        entry.key.conversation_id,
        entry.key.turn_id,
        entry.account,
        entry.epoch,
        entry.purpose,
        entry.charged_to,
        entry.model,
        entry.provider,
        entry.price_version,
        entry.outcome,
        *tokens,
        entry.cost,
    )

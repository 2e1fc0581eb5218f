"""What the ledger of a running stack says of an answer: each attempt by its highest revision."""

from __future__ import annotations

import asyncpg

from core.ids import parse_generation_id
from tests.support.polling import eventually
from tests.support.stack import Stack

_ENTRIES = """
SELECT DISTINCT ON (attempt) attempt, revision, charged_to, outcome, prompt_tokens, completion_tokens, estimated, cost
FROM ledger_entries WHERE conversation = $1 AND turn = $2 ORDER BY attempt, revision DESC
"""


async def charges(stack: Stack, generation_id: str, attempts: int = 1) -> list[asyncpg.Record]:
    """The entries of so many attempts or more, once all of them are closed: the ledger is written a moment after the
    end is told. Raises TimeoutError.
    """
    key = parse_generation_id(generation_id)
    assert key is not None, generation_id
    connection = await asyncpg.connect(stack.dsn)

    async def closed() -> list[asyncpg.Record]:
        found = await connection.fetch(_ENTRIES, *key)
        return found if len(found) >= attempts and all(entry["revision"] > 0 for entry in found) else []

    try:
        return await eventually(closed, 15.0, f"{attempts} closed attempts in the ledger")
    finally:
        await connection.close()

"""History in PostgreSQL: every transition is one statement, decided by the database and repeatable (rule 1)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import asyncpg

from core.history import queries, rows
from core.history.port import Applied, Home, Look, Page, PathTurn, Refused, Stored
from core.model import End, Increment, NewTurn, Turn, TurnKey
from core.postgres import Statements

MAX_PAGE = 100
_ALL = 2**31 - 1


class PostgresHistory:
    """`core.history.port.History`. Ids are UUID text; anything else raises ValueError.

    A write that returned is on the disk of the server, and on its synchronous replicas where it has any.
    """

    def __init__(self, statements: Statements) -> None:
        self._statements = statements

    async def create_conversation(self, conversation_id: str, owner: str, zone: str) -> Home:
        row = await self._write(queries.CREATE, conversation_id, owner, zone)
        assert row is not None
        return rows.to_home(row)

    async def home(self, conversation_id: str) -> Home | None:
        found = await self._statements.read(queries.HOME, conversation_id)
        return rows.to_home(found[0]) if found else None

    async def set_deleted(self, conversation_id: str, deleted_at_ms: int | None) -> bool:
        result = await self._statements.write(queries.SET_DELETED, conversation_id, deleted_at_ms)
        row = result.rows[0]
        # After an unanswered try the state that was asked for is taken as that try's work.
        return bool(row["changed"]) or (result.repeated and row["stands"] == deleted_at_ms)

    async def open(self, turn: NewTurn) -> Applied | Refused:
        return rows.opened_or_claimed(await self._write(queries.OPEN, *rows.open_arguments(turn)), 0, turn.run)

    async def claim(self, key: TurnKey, epoch: int, run: str, since_ms: int) -> Applied | Refused:
        row = await self._write(queries.CLAIM, key.conversation_id, key.turn_id, epoch, run, since_ms)
        return rows.opened_or_claimed(row, epoch + 1, run)

    async def cancel(self, key: TurnKey) -> Applied | Refused:
        return rows.cancelled(await self._write(queries.CANCEL, key.conversation_id, key.turn_id))

    async def end(self, key: TurnKey, end: End) -> Applied | Refused:
        encoded = rows.encode_end(end)
        row = await self._write(queries.END, key.conversation_id, key.turn_id, end.epoch, encoded, end.chunks)
        return rows.ended(row, end)

    async def append(self, key: TurnKey, epoch: int, increment: Increment) -> None:
        pieces = increment.pieces
        await self._statements.write(
            queries.APPEND,
            key.conversation_id,
            key.turn_id,
            epoch,
            increment.i,
            increment.seq,
            rows.text_chars(pieces),
            rows.encode_pieces(pieces),
        )

    async def read(self, key: TurnKey) -> Turn | None:
        found = await self._statements.read(queries.READ, key.conversation_id, key.turn_id)
        return rows.to_turn(found[0]) if found else None

    async def read_text(self, key: TurnKey, epoch: int, limit: int | None = None) -> list[Increment]:
        bound = _ALL if limit is None else limit
        found = await self._statements.read(queries.READ_TEXT, key.conversation_id, key.turn_id, epoch, bound)
        return rows.to_increments((row["i"], row["seq"], row["pieces"]) for row in found)

    async def path(self, key: TurnKey, max_chars: int) -> tuple[Turn, list[PathTurn]] | None:
        found = await self._statements.read(queries.PATH, key.conversation_id, key.turn_id, max_chars)
        if not found:
            return None
        steps = [_step(list(group)) for _, group in groupby(found, key=lambda row: row["step"])]
        return steps[0].turn, steps

    async def look(self, conversation_id: str, turn_id: str | None, parent_id: str | None) -> Look:
        newest = parent_id or queries.LAST_UUID
        found = await self._statements.read(queries.LOOK, conversation_id, turn_id, newest)
        turns = {row["which"]: rows.to_turn(row) for row in found if row["which"] is not None}
        parent = turns.get(1)
        if parent is not None and parent_id not in (None, parent.key.turn_id):
            parent = None
        return Look(rows.to_home(found[0], "home_owner") if found else None, turns.get(0), parent)

    async def page(self, conversation_id: str, before: str | None, limit: int) -> Page:
        if not 1 <= limit <= MAX_PAGE:
            raise ValueError(f"a page has 1 to {MAX_PAGE} turns, not {limit}")
        found = await self._statements.read(queries.PAGE, conversation_id, before or queries.LAST_UUID, limit + 1)
        turns = tuple(Stored(rows.to_turn(row), tuple(rows.to_increments(rows.columns(row)))) for row in found[:limit])
        return Page(turns, turns[-1].turn.key.turn_id if len(found) > limit else None)

    async def open_turns(self, idle_ms: int, limit: int) -> list[Turn]:
        return [rows.to_turn(row) for row in await self._statements.read(queries.OPEN_TURNS, idle_ms, limit)]

    async def close_listing(self, keys: Sequence[TurnKey]) -> None:
        if keys:
            conversations, turns = [key.conversation_id for key in keys], [key.turn_id for key in keys]
            await self._statements.write(queries.CLOSE_LISTING, conversations, turns)

    async def close(self) -> None:
        await self._statements.close()

    async def _write(self, sql: str, *args: object) -> asyncpg.Record | None:
        found = (await self._statements.write(sql, *args)).rows
        return found[0] if found else None


def _step(nodes: list[asyncpg.Record]) -> PathTurn:
    """One step of the path from its turn and, newest first, the turns that it continues."""
    texts = [rows.to_text(rows.to_increments(rows.columns(node))) for node in reversed(nodes)]
    message = nodes[0]["message"]
    return PathTurn(rows.to_turn(nodes[0]), "" if message is None else message.decode(), "".join(texts))

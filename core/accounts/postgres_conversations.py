"""Conversations' metadata in PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg
import msgspec

from core.accounts.model import Change, Conversation, Touch
from core.sql import Database

_ROW = """
    c.id::text, c.owner::text, c.title, c.model, c.leaf, c.pinned, c.starred, c.archived, c.created_at_ms,
    c.active_at_ms, c.deleted_at_ms
"""


def _to_conversation(row: asyncpg.Record | None) -> Conversation | None:
    return Conversation(**row) if row else None


class PostgresConversations:
    """`core.accounts.port.Conversations`."""

    _database: Database

    async def create_conversation(
        self, conversation_id: str, owner: str, title: str, model: str | None
    ) -> Conversation | None:
        async with self._database.writing() as connection:
            await connection.execute(
                """
                INSERT INTO conversation_meta (id, owner, title, model, created_at_ms, active_at_ms)
                SELECT $1::uuid, $2::uuid, $3, $4, now, now FROM parley_now_ms() AS now ON CONFLICT (id) DO NOTHING
                """,
                conversation_id,
                owner,
                title,
                model,
            )
            row = await connection.fetchrow(
                f"SELECT {_ROW} FROM conversation_meta c WHERE c.id = $1::uuid AND c.owner = $2::uuid",
                conversation_id,
                owner,
            )
        return _to_conversation(row)

    async def conversation(self, conversation_id: str, owner: str) -> Conversation | None:
        async with self._database.reading() as connection:
            row = await connection.fetchrow(
                f"SELECT {_ROW} FROM conversation_meta c WHERE c.id = $1::uuid AND c.owner = $2::uuid",
                conversation_id,
                owner,
            )
        return _to_conversation(row)

    async def list_conversations(
        self, owner: str, archived: bool, before: tuple[int, str] | None, limit: int
    ) -> list[Conversation]:
        at_ms, last = before or (None, None)
        async with self._database.reading() as connection:
            rows = await connection.fetch(
                f"""
                SELECT {_ROW} FROM conversation_meta c
                WHERE c.owner = $1::uuid AND c.archived = $2 AND c.deleted_at_ms IS NULL
                  AND ($3::bigint IS NULL OR (c.active_at_ms, c.id) < ($3::bigint, $4::uuid))
                ORDER BY c.active_at_ms DESC, c.id DESC LIMIT $5
                """,
                owner,
                archived,
                at_ms,
                last,
                limit,
            )
        return [Conversation(**row) for row in rows]

    async def change_conversation(self, conversation_id: str, owner: str, change: Change) -> Conversation | None:
        fields = {
            name: value for name in change.__struct_fields__ if (value := getattr(change, name)) is not msgspec.UNSET
        }
        if not fields:
            found = await self.conversation(conversation_id, owner)
            return found if found and found.deleted_at_ms is None else None
        assignments = ", ".join(f"{name} = ${position}" for position, name in enumerate(fields, 3))
        async with self._database.writing() as connection:
            row = await connection.fetchrow(
                f"""
                UPDATE conversation_meta c SET {assignments}
                WHERE c.id = $1::uuid AND c.owner = $2::uuid AND c.deleted_at_ms IS NULL RETURNING {_ROW}
                """,
                conversation_id,
                owner,
                *fields.values(),
            )
        return _to_conversation(row)

    async def touch_conversations(self, touches: Sequence[Touch]) -> None:
        # In one order everywhere, so that two gateways do not wait for each other.
        ordered = sorted(touches, key=lambda touch: touch.conversation_id)
        async with self._database.writing() as connection:
            await connection.execute("SET LOCAL synchronous_commit = off")
            await connection.execute(
                """
                INSERT INTO conversation_meta AS c (id, owner, title, created_at_ms, active_at_ms)
                SELECT id, owner, title, at_ms, at_ms
                FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::bigint[]) AS t (id, owner, title, at_ms)
                ON CONFLICT (id) DO UPDATE SET
                    active_at_ms = greatest(c.active_at_ms, excluded.active_at_ms),
                    title = CASE WHEN c.title = '' THEN excluded.title ELSE c.title END
                WHERE c.owner = excluded.owner
                """,
                [touch.conversation_id for touch in ordered],
                [touch.owner for touch in ordered],
                [touch.title for touch in ordered],
                [touch.at_ms for touch in ordered],
            )

    async def set_conversation_deleted(
        self, conversation_id: str, owner: str, deleted_at_ms: int | None
    ) -> Conversation | None:
        async with self._database.writing() as connection:
            row = await connection.fetchrow(
                f"""
                UPDATE conversation_meta c
                SET deleted_at_ms = CASE WHEN $3::bigint IS NULL THEN NULL ELSE coalesce(c.deleted_at_ms, $3) END
                WHERE c.id = $1::uuid AND c.owner = $2::uuid RETURNING {_ROW}
                """,
                conversation_id,
                owner,
                deleted_at_ms,
            )
        return _to_conversation(row)

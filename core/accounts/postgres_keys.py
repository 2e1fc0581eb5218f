"""API keys in PostgreSQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import asyncpg

from core.accounts.model import MAX_KEYS_PER_USER, ApiKey, Scope, User
from core.accounts.postgres_users import to_user
from core.sql import Database

_KEY = """
    k.id::text AS key_id, k.user_id::text, k.name AS key_name, k.prefix, k.scopes,
    k.created_at_ms AS key_created_at_ms, k.last_used_at_ms
"""


def _to_key(row: asyncpg.Record) -> ApiKey:
    return ApiKey(
        id=row["key_id"],
        user_id=row["user_id"],
        name=row["key_name"],
        prefix=row["prefix"],
        scopes=tuple(row["scopes"]),
        created_at_ms=row["key_created_at_ms"],
        last_used_at_ms=row["last_used_at_ms"],
    )


class PostgresKeys:
    """`core.accounts.port.Keys`."""

    _database: Database

    async def create_key(
        self, key_id: str, user_id: str, name: str, prefix: str, key_hash: bytes, scopes: Sequence[Scope]
    ) -> ApiKey | None:
        async with self._database.writing() as connection:
            # The user's row is the lock under which keys are counted.
            await connection.fetchval("SELECT 1 FROM users WHERE id = $1::uuid FOR UPDATE", user_id)
            await connection.execute(
                """
                INSERT INTO api_keys (id, user_id, name, prefix, hash, scopes, created_at_ms)
                SELECT $1::uuid, u.id, $3, $4, $5, $6::text[], parley_now_ms() FROM users u
                WHERE u.id = $2::uuid AND u.closed_at_ms IS NULL
                  AND (SELECT count(*) FROM api_keys WHERE user_id = u.id) < $7
                ON CONFLICT (id) DO NOTHING
                """,
                key_id,
                user_id,
                name,
                prefix,
                key_hash,
                list(scopes),
                MAX_KEYS_PER_USER,
            )
            row = await connection.fetchrow(
                f"SELECT {_KEY} FROM api_keys k WHERE k.id = $1::uuid AND k.user_id = $2::uuid", key_id, user_id
            )
        return _to_key(row) if row else None

    async def keys_of(self, user_id: str) -> list[ApiKey]:
        async with self._database.reading() as connection:
            rows = await connection.fetch(
                f"""
                SELECT {_KEY} FROM api_keys k WHERE k.user_id = $1::uuid
                ORDER BY k.created_at_ms DESC, k.id DESC LIMIT $2
                """,
                user_id,
                MAX_KEYS_PER_USER,
            )
        return [_to_key(row) for row in rows]

    async def delete_key(self, user_id: str, key_id: str) -> bool:
        async with self._database.writing() as connection:
            gone = await connection.fetchval(
                """
                WITH gone AS (
                    DELETE FROM api_keys WHERE id = $2::uuid AND user_id = $1::uuid RETURNING id, user_id
                )
                INSERT INTO revocations (user_id, subject, reason) SELECT user_id, id, 'key' FROM gone RETURNING true
                """,
                user_id,
                key_id,
            )
        return bool(gone)

    async def find_key(self, key_hash: bytes) -> tuple[ApiKey, User] | None:
        async with self._database.reading() as connection:
            row = await connection.fetchrow(
                f"""
                SELECT {_KEY}, u.id::text, u.email, u.name, u.role, u.zone, u.status, u.created_at_ms
                FROM api_keys k JOIN users u ON u.id = k.user_id
                WHERE k.hash = $1 AND u.closed_at_ms IS NULL
                """,
                key_hash,
            )
        return (_to_key(row), to_user(row)) if row else None

    async def touch_keys(self, used_at_ms: Mapping[str, int]) -> None:
        async with self._database.writing() as connection:
            await connection.execute(
                """
                UPDATE api_keys k SET last_used_at_ms = greatest(k.last_used_at_ms, used.at_ms)
                FROM unnest($1::uuid[], $2::bigint[]) AS used (id, at_ms) WHERE k.id = used.id
                """,
                list(used_at_ms),
                list(used_at_ms.values()),
            )

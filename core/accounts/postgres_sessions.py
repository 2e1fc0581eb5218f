"""Login sessions, refresh-token rotation and the log of revocations in PostgreSQL."""

from __future__ import annotations

import asyncpg

from core.accounts.model import MAX_SESSIONS_PER_USER, REFRESH_GRACE_MS, Revocation, Session
from core.accounts.postgres_users import revoke_all, to_user
from core.sql import Connection, Database

_LIVE = """
    SELECT s.id::text AS session_id, s.salt, s.generation, s.rotated_at_ms, s.created_at_ms AS started_at_ms,
           s.expires_at_ms, u.id::text, u.email, u.name, u.role, u.zone, u.status, u.created_at_ms
    FROM sessions s JOIN users u ON u.id = s.user_id
    WHERE s.id = $1::uuid AND s.revoked_at_ms IS NULL AND s.expires_at_ms > parley_now_ms()
      AND u.status = 'active' AND u.closed_at_ms IS NULL
"""


def _to_session(row: asyncpg.Record) -> Session:
    return Session(
        id=row["session_id"],
        user=to_user(row),
        salt=row["salt"],
        generation=row["generation"],
        created_at_ms=row["started_at_ms"],
        expires_at_ms=row["expires_at_ms"],
    )


async def _revoke(connection: Connection, session_id: str) -> bool:
    """Ends one session and logs it, inside the caller's transaction."""
    ended = await connection.fetchval(
        """
        WITH ended AS (
            UPDATE sessions SET revoked_at_ms = parley_now_ms()
            WHERE id = $1::uuid AND revoked_at_ms IS NULL RETURNING id, user_id
        )
        INSERT INTO revocations (user_id, subject, reason) SELECT user_id, id, 'session' FROM ended RETURNING true
        """,
        session_id,
    )
    return bool(ended)


class PostgresSessions:
    """`core.accounts.port.Sessions`."""

    _database: Database

    async def create_session(self, session_id: str, user_id: str, salt: bytes, lifetime_s: int) -> Session | None:
        async with self._database.writing() as connection:
            # The user's row is the lock under which sessions are counted, and keeps a suspension from slipping between.
            active = await connection.fetchval(
                "SELECT status = 'active' FROM users WHERE id = $1::uuid AND closed_at_ms IS NULL FOR UPDATE", user_id
            )
            if not active:
                return None
            await connection.execute(
                """
                INSERT INTO sessions (id, user_id, salt, rotated_at_ms, created_at_ms, expires_at_ms)
                SELECT $1::uuid, $2::uuid, $3, now, now, now + $4::bigint * 1000 FROM parley_now_ms() AS now
                ON CONFLICT DO NOTHING
                """,
                session_id,
                user_id,
                salt,
                lifetime_s,
            )
            surplus = await connection.fetch(
                """
                SELECT id::text FROM sessions
                WHERE user_id = $1::uuid AND revoked_at_ms IS NULL AND expires_at_ms > parley_now_ms()
                ORDER BY created_at_ms DESC, id DESC OFFSET $2
                """,
                user_id,
                MAX_SESSIONS_PER_USER,
            )
            for oldest in surplus:
                await _revoke(connection, oldest["id"])
            row = await connection.fetchrow(_LIVE, session_id)
        return _to_session(row) if row else None

    async def session(self, session_id: str) -> Session | None:
        async with self._database.reading() as connection:
            row = await connection.fetchrow(_LIVE, session_id)
        return _to_session(row) if row else None

    async def rotate(self, session_id: str, generation: int, lifetime_s: int) -> Session | None:
        async with self._database.writing() as connection:
            row = await connection.fetchrow(_LIVE + " FOR UPDATE OF s", session_id)
            if row is None:
                return None
            current, now = row["generation"], await connection.fetchval("SELECT parley_now_ms()")
            if generation == current - 1 and now - row["rotated_at_ms"] <= REFRESH_GRACE_MS:
                return _to_session(row)
            if generation != current:
                await _revoke(connection, session_id)
                return None
            await connection.execute(
                """
                UPDATE sessions SET generation = $2, rotated_at_ms = $3, expires_at_ms = $3 + $4::bigint * 1000
                WHERE id = $1::uuid
                """,
                session_id,
                current + 1,
                now,
                lifetime_s,
            )
            rotated = await connection.fetchrow(_LIVE, session_id)
        return _to_session(rotated) if rotated else None

    async def revoke_session(self, session_id: str) -> bool:
        async with self._database.writing() as connection:
            return await _revoke(connection, session_id)

    async def revoke_sessions(self, user_id: str) -> int:
        async with self._database.writing() as connection:
            return await revoke_all(connection, user_id)

    async def revocations(self, since_ms: int, limit: int) -> list[Revocation]:
        async with self._database.reading() as connection:
            rows = await connection.fetch(
                """
                SELECT at_ms, user_id::text, subject::text, reason FROM (
                    (SELECT at_ms, id AS number, user_id, subject, reason FROM revocations
                     WHERE at_ms >= $1 ORDER BY at_ms, id LIMIT $2)
                    UNION ALL
                    (SELECT expires_at_ms, NULL, user_id, id, 'session' FROM sessions
                     WHERE expires_at_ms >= $1 AND expires_at_ms <= parley_now_ms() AND revoked_at_ms IS NULL
                     ORDER BY expires_at_ms LIMIT $2)
                ) AS log ORDER BY at_ms, number LIMIT $2
                """,
                since_ms,
                limit,
            )
        return [Revocation(**row) for row in rows]

    async def now_ms(self) -> int:
        async with self._database.reading() as connection:
            return int(await connection.fetchval("SELECT parley_now_ms()"))

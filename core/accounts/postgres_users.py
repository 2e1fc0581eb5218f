"""Users and login codes in PostgreSQL."""

from __future__ import annotations

import asyncpg

from core.accounts.model import Credentials, Role, Status, User, fold_email
from core.sql import Connection, Database

_USER = "u.id::text, u.email, u.name, u.role, u.zone, u.status, u.created_at_ms"


def to_user(row: asyncpg.Record) -> User:
    return User(
        id=row["id"],
        email=row["email"],
        name=row["name"],
        role=row["role"],
        zone=row["zone"],
        status=row["status"],
        created_at_ms=row["created_at_ms"],
    )


async def revoke_all(connection: Connection, user_id: str, keep_session: str | None = None) -> int:
    """Ends a user's sessions and logs each, inside the caller's transaction."""
    rows = await connection.fetch(
        """
        WITH ended AS (
            UPDATE sessions SET revoked_at_ms = parley_now_ms()
            WHERE user_id = $1::uuid AND revoked_at_ms IS NULL AND ($2::uuid IS NULL OR id <> $2::uuid)
            RETURNING id, user_id
        )
        INSERT INTO revocations (user_id, subject, reason) SELECT user_id, id, 'session' FROM ended RETURNING 1
        """,
        user_id,
        keep_session,
    )
    return len(rows)


class PostgresUsers:
    """`core.accounts.port.Users`."""

    _database: Database

    async def create_user(
        self, user_id: str, email: str, name: str, password_hash: str | None, role: Role, zone: str
    ) -> User | None:
        async with self._database.writing() as connection:
            await connection.execute(
                """
                INSERT INTO users (id, email, name, password_hash, role, zone, created_at_ms)
                VALUES ($1::uuid, $2, $3, $4, $5, $6, parley_now_ms()) ON CONFLICT DO NOTHING
                """,
                user_id,
                fold_email(email),
                name,
                password_hash,
                role,
                zone,
            )
            row = await connection.fetchrow(
                f"SELECT {_USER} FROM users u WHERE u.id = $1::uuid AND u.email = $2", user_id, fold_email(email)
            )
        return to_user(row) if row else None

    async def user(self, user_id: str) -> User | None:
        found = await self.credentials(user_id=user_id)
        return found.user if found else None

    async def credentials(self, *, email: str | None = None, user_id: str | None = None) -> Credentials | None:
        condition = "u.email = $1" if email is not None else "u.id = $1::uuid"
        async with self._database.reading() as connection:
            row = await connection.fetchrow(
                f"SELECT {_USER}, u.password_hash FROM users u WHERE {condition} AND u.closed_at_ms IS NULL",
                fold_email(email) if email is not None else user_id,
            )
        return Credentials(to_user(row), row["password_hash"]) if row else None

    async def rename(self, user_id: str, name: str) -> User | None:
        return await self._update(user_id, "name = $2", name)

    async def set_role(self, user_id: str, role: Role) -> User | None:
        return await self._update(user_id, "role = $2", role)

    async def _update(self, user_id: str, assignment: str, value: str) -> User | None:
        async with self._database.writing() as connection:
            row = await connection.fetchrow(
                f"UPDATE users u SET {assignment} WHERE id = $1::uuid AND closed_at_ms IS NULL RETURNING {_USER}",
                user_id,
                value,
            )
        return to_user(row) if row else None

    async def set_password(self, user_id: str, password_hash: str, keep_session: str | None) -> bool:
        async with self._database.writing() as connection:
            changed = await connection.fetchval(
                "UPDATE users SET password_hash = $2 WHERE id = $1::uuid AND closed_at_ms IS NULL RETURNING true",
                user_id,
                password_hash,
            )
            if changed:
                await revoke_all(connection, user_id, keep_session)
        return bool(changed)

    async def upgrade_hash(self, user_id: str, old: str, new: str) -> None:
        async with self._database.writing() as connection:
            await connection.execute(
                "UPDATE users SET password_hash = $3 WHERE id = $1::uuid AND password_hash = $2", user_id, old, new
            )

    async def set_status(self, user_id: str, status: Status) -> User | None:
        async with self._database.writing() as connection:
            before = await connection.fetchval(
                "SELECT status FROM users WHERE id = $1::uuid AND closed_at_ms IS NULL FOR UPDATE", user_id
            )
            row = await connection.fetchrow(
                f"UPDATE users u SET status = $2 WHERE id = $1::uuid AND closed_at_ms IS NULL RETURNING {_USER}",
                user_id,
                status,
            )
            if row is not None and before != status:
                await connection.execute(
                    "INSERT INTO revocations (user_id, reason) VALUES ($1::uuid, $2)",
                    user_id,
                    "suspended" if status == "suspended" else "restored",
                )
            if row is not None and status == "suspended":
                await revoke_all(connection, user_id)
        return to_user(row) if row else None

    async def close_user(self, user_id: str) -> bool:
        async with self._database.writing() as connection:
            closed = await connection.fetchval(
                """
                UPDATE users SET email = NULL, name = '', password_hash = NULL, closed_at_ms = parley_now_ms()
                WHERE id = $1::uuid AND closed_at_ms IS NULL RETURNING true
                """,
                user_id,
            )
            if closed:
                await revoke_all(connection, user_id)
                await connection.execute(
                    """
                    WITH gone AS (DELETE FROM api_keys WHERE user_id = $1::uuid RETURNING id, user_id)
                    INSERT INTO revocations (user_id, subject, reason) SELECT user_id, id, 'key' FROM gone
                    """,
                    user_id,
                )
                await connection.execute("DELETE FROM login_codes WHERE user_id = $1::uuid", user_id)
        return bool(closed)

    async def create_code(self, user_id: str, code_hash: bytes, lifetime_s: int) -> None:
        async with self._database.writing() as connection:
            await connection.execute(
                """
                INSERT INTO login_codes (hash, user_id, expires_at_ms)
                VALUES ($1, $2::uuid, parley_now_ms() + $3::bigint * 1000) ON CONFLICT DO NOTHING
                """,
                code_hash,
                user_id,
                lifetime_s,
            )

    async def use_code(self, code_hash: bytes) -> User | None:
        async with self._database.writing() as connection:
            row = await connection.fetchrow(
                f"""
                WITH used AS (DELETE FROM login_codes WHERE hash = $1 RETURNING user_id, expires_at_ms)
                SELECT {_USER} FROM used JOIN users u ON u.id = used.user_id
                WHERE used.expires_at_ms > parley_now_ms() AND u.status = 'active' AND u.closed_at_ms IS NULL
                """,
                code_hash,
            )
        return to_user(row) if row else None

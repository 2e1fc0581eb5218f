"""Accounts in PostgreSQL, tables of `core/schema/01xx_*.sql`. Ids are UUID text; anything else raises ValueError."""

from __future__ import annotations

from core.accounts.model import REVOCATIONS_KEPT_MS
from core.accounts.postgres_conversations import PostgresConversations
from core.accounts.postgres_keys import PostgresKeys
from core.accounts.postgres_sessions import PostgresSessions
from core.accounts.postgres_users import PostgresUsers
from core.postgres import Pool
from core.sql import Database

_OVER_KEPT_MS = 30 * 24 * 3600 * 1000


class PostgresAccounts(PostgresUsers, PostgresSessions, PostgresKeys, PostgresConversations):
    """`core.accounts.port.Accounts` over a pool that the caller opens and closes."""

    def __init__(self, pool: Pool, timeout_s: float) -> None:
        self._database = Database(pool, timeout_s)

    async def purge(self) -> int:
        async with self._database.writing() as connection:
            tags = [
                await connection.execute(
                    """
                    DELETE FROM sessions
                    WHERE expires_at_ms < parley_now_ms() - $1 OR revoked_at_ms < parley_now_ms() - $1
                    """,
                    _OVER_KEPT_MS,
                ),
                await connection.execute("DELETE FROM login_codes WHERE expires_at_ms < parley_now_ms()"),
                await connection.execute(
                    "DELETE FROM revocations WHERE at_ms < parley_now_ms() - $1", REVOCATIONS_KEPT_MS
                ),
            ]
        return sum(int(tag.rpartition(" ")[2]) for tag in tags)

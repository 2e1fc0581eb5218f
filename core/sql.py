"""Transactions over a PostgreSQL pool, failures told in the ports' terms; `core.postgres` has single statements."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeAlias

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from core.errors import Unavailable, Unknown
from core.postgres import Pool

Connection: TypeAlias = "PoolConnectionProxy[asyncpg.Record]"


_AWAY = (
    OSError,
    TimeoutError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.PostgresSystemError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.InternalClientError,
)


class Database:
    """A pool and the longest wait for a statement or transaction, waiting for a connection included."""

    def __init__(self, pool: Pool, timeout_s: float) -> None:
        self._pool = pool
        self._timeout_s = timeout_s

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Connection]:
        """A connection for reads. Raises `Unavailable`."""
        try:
            async with asyncio.timeout(self._timeout_s), self._pool.acquire() as connection:
                yield connection
        except _AWAY as error:
            raise Unavailable(f"PostgreSQL: {_why(error)}") from error
        except asyncpg.InterfaceError as error:
            raise _usage_error(error) from error

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[Connection]:
        """A connection in a transaction. Raises `Unavailable` before it began, `Unknown` afterwards."""
        begun = False
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                self._pool.acquire() as connection,
                connection.transaction(),
            ):
                begun = True
                yield connection
        except _AWAY as error:
            raise (Unknown if begun else Unavailable)(f"PostgreSQL: {_why(error)}") from error
        except asyncpg.InterfaceError as error:
            raise _usage_error(error, begun) from error


def _usage_error(error: asyncpg.InterfaceError, begun: bool = False) -> Exception:
    """asyncpg tells a lost connection and a closing pool by the class it also tells wrong arguments by."""
    if isinstance(error, ValueError):
        return error
    return (Unknown if begun else Unavailable)(f"PostgreSQL: {_why(error)}")


def _why(error: BaseException) -> str:
    return str(error) or type(error).__name__

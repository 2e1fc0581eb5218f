"""PostgreSQL for adapters whose statements may be repeated: a bounded pool, deadlines, and failures told apart.

What a failure means is decided here once. Never sent, or refused by the server with an error: nothing was changed.
Sent and not answered: unknown, so the same statement is sent again on another connection until it is answered.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, Final, TypeAlias

import asyncpg
import msgspec

from core.errors import Unavailable, Unknown

Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"

CONNECT_S: Final = 5.0
CLOSE_S: Final = 5.0
PAUSE_S: Final = 0.02
MAX_PAUSE_S: Final = 0.32
# The least time worth another try: below it the deadline counts as reached.
LEAST_TRY_S: Final = 0.05

# Statements find their rows by key, so one plan serves all arguments, and planning a path anew costs more than to
# follow it. A plan that was made while a table was nearly empty must not read it whole once it is large.
SESSION: Final = {
    "application_name": "parley",
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "jit": "off",
}

# The server answered, and its answer says that the transaction is gone: conflicts with others (class 40, 55), no
# resources (53, 58), a standby (25006), a cancelled statement (57014). Not a mistake of the statement's.
_ROLLED_BACK: Final = ("40", "53", "55", "58", "25006", "57014")
# The server's last words on a connection (57P01 and its like) and a lost connection (08) tell nothing of a commit.
_LOST: Final = ("08", "57P")


class Rows(msgspec.Struct, frozen=True):
    """What a statement returned; `repeated`: an earlier try of it may have taken effect."""

    rows: list[asyncpg.Record]
    repeated: bool


class _NotSentError(Exception):
    """The statement never reached a server, or was rolled back by it."""


class _LostError(Exception):
    """The statement was sent; its result is not known."""


async def open_pool(dsn: str, size: int) -> Pool:
    """A pool of at most `size` connections, made when they are needed: a server that is away fails calls, not this."""
    return await asyncpg.create_pool(
        dsn,
        min_size=0,
        max_size=size,
        timeout=CONNECT_S,
        init=_acknowledge_durably,
        reset=_keep_session,
        server_settings=SESSION,
    )


async def _acknowledge_durably(connection: Any) -> None:
    await connection.execute(
        "SELECT set_config('synchronous_commit', 'on', false) "
        "WHERE current_setting('synchronous_commit') NOT IN ('on', 'remote_apply')"
    )


async def _keep_session(_: Any) -> None:
    """Sessions carry no state of a caller's, so a round trip to reset them would be wasted."""


class Statements:
    """Single statements over a pool, each under one deadline that includes the wait for a connection.

    `timeout_s` bounds reads, `write_s` bounds repeatable writes with all their repetitions. No statement is cancelled
    at the server: a commit that waits for a replica must not be talked out of it. A connection that does not answer in
    time is dropped instead. Arguments that no row may hold (an id that is no UUID, a negative cost) raise ValueError.
    """

    def __init__(self, pool: Pool, timeout_s: float = 5.0, write_s: float = 5.0) -> None:
        self._pool = pool
        self._timeout_s = timeout_s
        self._write_s = write_s

    async def read(self, sql: str, *args: object) -> list[asyncpg.Record]:
        """Rows of a query, asked again where the connection was lost. Raises `Unavailable`."""
        try:
            return (await self._until(self._timeout_s, sql, args, writes=False)).rows
        except Unknown as error:
            raise Unavailable(str(error)) from error

    async def write(self, sql: str, *args: object) -> Rows:
        """A statement that may be repeated without harm: repeated, identical, until its result is known.

        Raises `Unavailable` where it certainly did nothing and `Unknown` where the deadline passed first.
        """
        return await self._until(self._write_s, sql, args, writes=True)

    async def close(self) -> None:
        """Closes the pool, after at most five seconds for what is under way. Idempotent."""
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._pool.close()
        except TimeoutError:
            self._pool.terminate()

    async def _until(self, seconds: float, sql: str, args: tuple[object, ...], writes: bool) -> Rows:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        pause, repeated = PAUSE_S, False
        while True:
            try:
                return Rows(await self._try(deadline - loop.time(), sql, args), repeated)
            except (_LostError, _NotSentError) as error:
                cause = error
            repeated = repeated or isinstance(cause, _LostError)
            if isinstance(cause, _NotSentError) and not (repeated and writes):
                raise Unavailable(f"PostgreSQL: {cause}") from cause
            if deadline - loop.time() < LEAST_TRY_S + pause:
                raise Unknown(f"PostgreSQL: no answer within {seconds:g} s: {cause}") from cause
            await asyncio.sleep(pause)
            pause = min(pause * 2, MAX_PAUSE_S)

    async def _try(self, left: float, sql: str, args: tuple[object, ...]) -> list[asyncpg.Record]:
        connection = await self._acquire(left)
        # Half of what is left: a connection that hangs must leave time for another one.
        timer = asyncio.get_running_loop().call_later(left / 2, _drop, connection)
        try:
            rows: list[asyncpg.Record] = await connection.fetch(sql, *args)
            return rows
        except (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError) as error:
            raise ValueError(_why(error)) from error
        except asyncpg.PostgresError as error:
            state = error.sqlstate or ""
            if state.startswith(_ROLLED_BACK):
                raise _NotSentError(_why(error)) from error
            if state.startswith(_LOST):
                _drop(connection)
                raise _LostError(_why(error)) from error
            raise
        except (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
            # asyncpg tells wrong use by the same class as a lost connection.
            if isinstance(error, ValueError):
                raise
            _drop(connection)
            raise _LostError(_why(error)) from error
        except BaseException:
            _drop(connection)
            raise
        finally:
            timer.cancel()
            await self._pool.release(connection)

    async def _acquire(self, left: float) -> Any:
        try:
            async with asyncio.timeout(left):
                return await self._pool.acquire()
        except TimeoutError as error:
            raise _NotSentError(f"no connection within {left:.1f} s") from error
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
            raise _NotSentError(_why(error)) from error


def _drop(connection: Any) -> None:
    """Cuts a connection where it stands; one that broke has left the pool already."""
    with suppress(asyncpg.InterfaceError):
        connection.terminate()


def _why(error: BaseException) -> str:
    return str(error) or type(error).__name__

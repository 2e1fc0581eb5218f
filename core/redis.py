"""Redis for everything that needs it: a few connections over which the commands of one loop turn leave together.

Each connection is a lane: it takes what waits, sends it as one pipeline, reads the replies and takes again. So a
command costs a fraction of a round trip of its own, and the busier the process the larger the pipelines.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import deque
from typing import Any, NamedTuple

import hiredis
import redis.exceptions
from redis.asyncio.connection import Connection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from core.errors import Unavailable, Unknown

MAX_WAITING = 20_000
MAX_PIPELINE = 256

Argument = str | bytes | int


class _Command(NamedTuple):
    packed: bytes
    reply: asyncio.Future[Any]
    deadline: float


class Script:
    """A Lua script and the SHA-1 that Redis knows it by."""

    __slots__ = ("sha", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


class Redis:
    """A client of one Redis server. Replies are bytes, integers, lists and None, as the server sends them.

    Ordering: none between commands. Errors: `Unavailable` when a command was certainly not sent (no connection, the
    queue of `MAX_WAITING` is full, or its turn did not come within the timeout); `Unknown` when it was sent and no
    reply came; `redis.exceptions.ResponseError` as the server says. A command is answered within twice `timeout_s`:
    once for its turn, once for its pipeline. Cancellation: a command that was sent is carried out all the same.
    Nothing is retried here, but for a script that the server does not know yet. A restarted server is found again
    by the next command.
    """

    def __init__(self, url: str, timeout_s: float, lanes: int = 4) -> None:
        self._url = url
        self._timeout_s = timeout_s
        self._lanes = lanes
        self._waiting: deque[_Command] = deque()
        self._idle: deque[asyncio.Future[None]] = deque()
        self._woken = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._closed = False

    async def execute(self, *args: Argument) -> Any:
        """One command, its name first."""
        return await self.send(*args)

    def send(self, *args: Argument) -> asyncio.Future[Any]:
        """The same without a coroutine, for many at once: its future has the reply. Raises `Unavailable` at once."""
        if self._closed:
            raise Unavailable("the Redis client is closed")
        if len(self._waiting) >= MAX_WAITING:
            raise Unavailable("Redis takes no more: too many commands wait")
        packed = hiredis.pack_command(args)  # type: ignore[arg-type] # its stub takes tuples of one
        loop = asyncio.get_running_loop()
        reply = loop.create_future()
        self._waiting.append(_Command(packed, reply, time.monotonic() + self._timeout_s))
        self._wake(loop)
        return reply

    async def run(self, script: Script, keys: tuple[Argument, ...], args: tuple[Argument, ...]) -> Any:
        """A script by its SHA-1; its text is sent where the server does not have it (it was restarted)."""
        try:
            return await self.execute("EVALSHA", script.sha, len(keys), *keys, *args)
        except redis.exceptions.NoScriptError:
            return await self.execute("EVAL", script.text, len(keys), *keys, *args)

    async def close(self) -> None:
        """Waits for what was sent, bounded by the timeout; what still waits gets `Unavailable`. Idempotent."""
        self._closed = True
        self._refuse(len(self._waiting), "the Redis client is closed")
        for idle in self._idle:
            idle.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._timeout_s)
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)

    def _wake(self, loop: asyncio.AbstractEventLoop) -> None:
        # One lane a loop turn: it takes all that has come until it runs.
        if self._woken:
            return
        while self._idle:
            idle = self._idle.popleft()
            if not idle.done():
                idle.set_result(None)
                self._woken += 1
                return
        if len(self._tasks) < self._lanes:
            self._woken += 1
            self._tasks.append(loop.create_task(self._lane(), name="redis-lane"))

    async def _lane(self) -> None:
        connection = open_connection(self._url)
        loop = asyncio.get_running_loop()
        woken = True
        try:
            while not self._closed:
                if woken:
                    self._woken -= 1
                    woken = False
                batch = self._take()
                if batch:
                    await self._carry_out(connection, batch)
                    continue
                idle = loop.create_future()
                self._idle.append(idle)
                await idle
                woken = True
        finally:
            await connection.disconnect(nowait=True)

    def _take(self) -> list[_Command]:
        """The next pipeline; those that waited too long or whose caller is gone are left out."""
        batch: list[_Command] = []
        now = time.monotonic()
        while self._waiting and len(batch) < MAX_PIPELINE:
            command = self._waiting.popleft()
            if command.reply.done():
                continue
            if command.deadline < now:
                command.reply.set_exception(Unavailable("Redis did not come to it in time"))
                continue
            batch.append(command)
        return batch

    async def _carry_out(self, connection: Connection, batch: list[_Command]) -> None:
        sent = False
        answered = 0
        try:
            async with asyncio.timeout(self._timeout_s):
                await _ready(connection)
                sent = True
                await connection.send_packed_command(b"".join([command.packed for command in batch]), False)
                for command in batch:
                    _settle(command.reply, await _read(connection))
                    answered += 1
        except BaseException as error:
            failure = Unknown if sent else Unavailable
            for command in batch[answered:]:
                _settle(command.reply, failure(f"Redis: {error!r}"))
            await connection.disconnect(nowait=True)
            if not isinstance(error, Exception):
                raise

    def _refuse(self, count: int, why: str) -> None:
        for _ in range(count):
            _settle(self._waiting.popleft().reply, Unavailable(why))


def open_connection(url: str) -> Connection:
    """A connection of RESP2, not connected yet, that repeats nothing and waits as long as its caller does."""
    options: dict[str, Any] = dict(parse_url(url))
    kind = options.pop("connection_class", Connection)
    # Deadlines are set around whole pipelines and RESP2 spares the handshake, so the client's own extras are off.
    made: Connection = kind(
        **options,
        protocol=2,
        driver_info=None,
        socket_timeout=None,
        socket_connect_timeout=None,
        retry=Retry(NoBackoff(), 0),
    )
    return made


async def _ready(connection: Connection) -> None:
    if connection.is_connected and await connection.can_read():
        # Nothing was asked, so what there is to read is the server's goodbye.
        await connection.disconnect(nowait=True)
    if not connection.is_connected:
        await connection.connect()  # type: ignore[no-untyped-call]


async def _read(connection: Connection) -> Any:
    try:
        return await connection.read_response()
    except redis.exceptions.ResponseError as error:
        return error


def _settle(future: asyncio.Future[Any], reply: Any) -> None:
    if future.done():
        return
    if isinstance(reply, Exception):
        future.set_exception(reply)
    else:
        future.set_result(reply)

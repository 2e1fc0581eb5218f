"""A proxy before PostgreSQL that loses what a network loses: requests, replies, or all signs of life."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Literal

Fault = Literal["lose request", "lose reply", "hang"]
_EXECUTE = ord("E")
_ENCRYPTION = (80877103, 80877104)


class PostgresProxy:
    """Listens on a loopback port of its own. Each planned fault hits one execution of a prepared statement, in order.

    "lose request": the connection is cut before the server learns of it. "lose reply": the server has done it, then
    `between` (if any) runs, then the connection is cut. "hang": the server has done it, and the connection stays open
    and silent.
    """

    def __init__(self, port: int) -> None:
        self._server_port = port
        self._listener: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._clients: set[asyncio.StreamWriter] = set()
        self.port = 0
        self.faults: deque[Fault | None] = deque()
        self.between: Callable[[], Awaitable[object]] | None = None

    async def start(self) -> None:
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Cuts every connection and refuses new ones; `start` listens on the same port again."""
        assert self._listener is not None
        self._listener.close()
        for writer in self._clients:
            writer.transport.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._clients.add(writer)
        try:
            to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self._server_port)
            try:
                await self._relay(reader, writer, to_reader, to_writer)
            finally:
                to_writer.transport.abort()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()
            self._clients.discard(writer)
            self._tasks.discard(task)

    async def _relay(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        to_reader: asyncio.StreamReader,
        to_writer: asyncio.StreamWriter,
    ) -> None:
        back = asyncio.create_task(_copy(to_reader, writer))
        try:
            to_writer.write(await _startup(reader, writer))
            while True:
                kind, body = await _message(reader)
                fault = self.faults.popleft() if kind == _EXECUTE and self.faults else None
                if fault == "lose request":
                    return
                if fault is None:
                    to_writer.write(bytes((kind,)) + body)
                    continue
                back.cancel()
                await asyncio.gather(back, return_exceptions=True)
                to_writer.write(bytes((kind,)) + body)
                await self._swallow(reader, to_reader, to_writer)
                if fault == "hang":
                    await reader.read()
                elif self.between is not None:
                    await self.between()
                return
        finally:
            back.cancel()
            await asyncio.gather(back, return_exceptions=True)

    @staticmethod
    async def _swallow(
        reader: asyncio.StreamReader, to_reader: asyncio.StreamReader, to_writer: asyncio.StreamWriter
    ) -> None:
        """Sends what follows the execution up to its Sync, and waits until the server is ready again."""
        kind = 0
        while kind != ord("S"):
            kind, body = await _message(reader)
            to_writer.write(bytes((kind,)) + body)
        while kind != ord("Z"):
            kind, _ = await _message(to_reader)


async def _startup(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """The first message, once offers of encryption were declined."""
    while True:
        head = await reader.readexactly(8)
        if int.from_bytes(head[4:], "big") not in _ENCRYPTION:
            return head + await reader.readexactly(int.from_bytes(head[:4], "big") - 8)
        writer.write(b"N")


async def _message(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """(type, length and body) of one message of the protocol."""
    head = await reader.readexactly(5)
    return head[0], head[1:] + await reader.readexactly(int.from_bytes(head[1:], "big") - 4)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.transport.abort()

"""An HTTP/1.1 client that costs little: POSTs JSON over connections that it keeps, reads bodies as they come."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import cast

_REQUEST = (
    "POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\n"
    "Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
)


class Failure(Exception):
    """The answer was not a 200, or it broke off."""


class _Exchange(asyncio.Protocol):
    """One connection, and the exchange that runs on it."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._done: asyncio.Future[None] | None = None
        self._on_body: Callable[[bytes], None] = lambda _: None
        self._buffer = b""
        self._left = 0
        self._in_body = self._chunked = False
        self.closed = False

    async def run(self, request: bytes, on_body: Callable[[bytes], None]) -> None:
        """Raises `Failure`."""
        assert self._transport is not None
        self._done = asyncio.get_running_loop().create_future()
        self._on_body, self._in_body = on_body, False
        self._transport.write(request)
        await self._done

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not checked: uvloop's transports are no instances of asyncio's.
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(f"the connection was closed: {exc}")

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        if not self._in_body and not self._take_head():
            return
        if self._chunked:
            while self._take_chunk():
                pass
        else:
            self._take_plain()

    def _take_head(self) -> bool:
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return False
        first, *lines = head.decode("latin-1").split("\r\n")
        if " 200 " not in first + " ":
            self._fail(f"{first}: {rest[:300].decode('utf-8', 'replace')}")
            return False
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        self._chunked = headers.get("transfer-encoding", "") == "chunked"
        self._left = 0 if self._chunked else int(headers["content-length"])
        self._in_body, self._buffer = True, rest
        return True

    def _take_plain(self) -> None:
        data, self._buffer = self._buffer, b""
        self._left -= len(data)
        self._on_body(data)
        if self._left <= 0:
            self._end()

    def _take_chunk(self) -> bool:
        """Takes one whole chunk; False where there is none (or it was the last)."""
        line, found, rest = self._buffer.partition(b"\r\n")
        size = int(line, 16) if found else 0
        if not found or len(rest) < size + 2:
            return False
        self._buffer = rest[size + 2 :]
        if size:
            self._on_body(rest[:size])
            return True
        self._end()
        return False

    def _end(self) -> None:
        done, self._done = self._done, None
        if done is not None:
            done.set_result(None)

    def _fail(self, why: str) -> None:
        self.closed = True
        done, self._done = self._done, None
        if done is not None and not done.done():
            done.set_exception(Failure(why))


class Http:
    """POSTs to one path of one server on loopback, each over a connection that is idle, or a new one."""

    def __init__(self, port: int, path: str, token: str) -> None:
        self._port, self._path, self._token = port, path, token
        self._idle: list[_Exchange] = []

    async def post(self, body: bytes, on_body: Callable[[bytes], None]) -> None:
        """Returns when the answer has ended; its body went to `on_body` as it came. Raises `Failure`, OSError."""
        exchange = await self._connection()
        head = _REQUEST.format(path=self._path, port=self._port, token=self._token, length=len(body))
        await exchange.run(head.encode() + body, on_body)
        self._idle.append(exchange)

    async def _connection(self) -> _Exchange:
        while self._idle:
            exchange = self._idle.pop()
            if not exchange.closed:
                return exchange
        loop = asyncio.get_running_loop()
        _, exchange = await loop.create_connection(_Exchange, "127.0.0.1", self._port)
        return exchange

    def close(self) -> None:
        for exchange in self._idle:
            exchange.close()


class Events:
    """The `data` of server-sent events, from a body in pieces of any size."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        *events, self._rest = (self._rest + data).split(b"\n\n")
        for event in events:
            if event.startswith(b"data: "):
                yield event[6:]

"""A small HTTP/1.1 server on asyncio.Protocol: the control over bytes and closes that a scripted provider needs.

One request of a connection is served at a time, in its own task. When the client goes away that task is
cancelled at once, with `Exchange.gone` set.
"""

import asyncio
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import NamedTuple, cast
from urllib.parse import unquote

MAX_HEAD = 64 << 10
MAX_BODY = 16 << 20
_REASONS = {
    200: "OK",
    202: "Accepted",
    400: "Bad Request",
    401: "Unauthorized",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    411: "Length Required",
    413: "Content Too Large",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


class Request(NamedTuple):
    """A whole request. Header names are in lower case; of repeated headers the last one counts."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes


Handler = Callable[["Exchange"], Awaitable[None]]


class Exchange:
    """One request and the way to answer it."""

    def __init__(self, connection: "Connection", request: Request) -> None:
        self._connection = connection
        self.request = request
        self.started = False
        self.finished = False
        self._chunked = False

    @property
    def gone(self) -> bool:
        return self._connection.lost

    def respond(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        """Send a whole response, JSON unless `headers` says otherwise."""
        fields = {"content-type": "application/json", **(headers or {}), "content-length": str(len(body))}
        self._connection.write(self._head(status, fields) + body)
        self.started = self.finished = True

    def start(self, headers: dict[str, str]) -> None:
        """Send the head of a streamed 200."""
        self._chunked = True
        self.started = True
        self._connection.write(self._head(200, {**headers, "transfer-encoding": "chunked"}))

    async def send(self, data: bytes) -> None:
        """Send a piece of the body; waits while the client reads too slowly."""
        self._connection.write(b"%x\r\n%b\r\n" % (len(data), data))
        if self._connection.paused is not None:
            await self._connection.paused

    def finish(self, *, close: bool = False) -> None:
        """End the body; `close` then closes the connection though the head did not say so."""
        self._connection.write(b"0\r\n\r\n")
        self._connection.closing = self._connection.closing or close
        self.finished = True

    def cut(self, *, reset: bool) -> None:
        """End the connection in the middle: with a TCP reset, or with an ordinary close."""
        self.finished = True
        self._connection.cut(reset)

    def _head(self, status: int, fields: dict[str, str]) -> bytes:
        if self._connection.closing:
            fields["connection"] = "close"
        lines = [f"HTTP/1.1 {status} {_REASONS.get(status, 'Status')}"]
        lines += [f"{name}: {value}" for name, value in fields.items()]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")


class Connection(asyncio.Protocol):
    def __init__(self, handler: Handler, connections: set["Connection"]) -> None:
        self._handler = handler
        self._connections = connections
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None
        self.paused: asyncio.Future[None] | None = None
        self.lost = False
        self.closing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not checked: uvloop's transports are no instances of asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self._connections.discard(self)
        self.resume_writing()
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        self.paused = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        if self.paused is not None and not self.paused.done():
            self.paused.set_result(None)
        self.paused = None

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if len(self._buffer) > MAX_HEAD + MAX_BODY:
            self.cut(reset=True)
        elif self._task is None:
            self._next()

    def write(self, data: bytes) -> None:
        if self._transport is not None and not self.lost:
            self._transport.write(data)

    def cut(self, reset: bool) -> None:
        transport = self._transport
        if transport is None or self.lost:
            return
        if not reset:
            transport.close()
            return
        # A duplicate descriptor: event loops do not let their own socket's options be set.
        with socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno())) as duplicate:
            duplicate.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()

    async def stop(self) -> None:
        """Close the connection and wait for the request that it serves."""
        task = self._task
        if task is not None:
            task.cancel()
            await asyncio.wait([task], timeout=1)
        if self._transport is not None:
            self._transport.abort()

    def _next(self) -> None:
        """Start serving the next request if it has arrived whole."""
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > MAX_HEAD:
                self._refuse(431)
            return
        head = bytes(self._buffer[:end]).decode("latin-1").split("\r\n")
        words = head[0].split(" ")
        if len(words) != 3:
            return self._refuse(400)
        headers = {}
        for line in head[1:]:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        length = headers.get("content-length", "0")
        if "transfer-encoding" in headers or not length.isdigit():
            return self._refuse(411)
        if int(length) > MAX_BODY:
            return self._refuse(413)
        body_end = end + 4 + int(length)
        if len(self._buffer) < body_end:
            if headers.pop("expect", "").lower() == "100-continue" and len(self._buffer) == end + 4:
                self.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            return
        body = bytes(self._buffer[end + 4 : body_end])
        del self._buffer[:body_end]
        self.closing = words[2] == "HTTP/1.0" or headers.get("connection", "").lower() == "close"
        path, _, query = words[1].partition("?")
        request = Request(words[0], unquote(path), query, headers, body)
        self._task = asyncio.get_running_loop().create_task(self._serve(Exchange(self, request)))

    async def _serve(self, exchange: Exchange) -> None:
        try:
            await self._handler(exchange)
        finally:
            self._task = None
            if not self.lost:
                if not exchange.finished:
                    self.cut(reset=True)
                elif self.closing and self._transport is not None:
                    self._transport.close()
                elif self._buffer:
                    self._next()

    def _refuse(self, status: int) -> None:
        self.closing = True
        Exchange(self, Request("", "", "", {}, b"")).respond(status, b"{}")
        if self._transport is not None:
            self._transport.close()

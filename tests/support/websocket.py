"""A WebSocket client that may break every rule, and a handler that writes down what happens to it."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sequence
from typing import Any

from ext.ws import Accept, Connection, Handler, Limits, Listener, Refuse, Request, listen
from ext.ws_frames import mask
from tests.support.polling import eventually

KEY = "AQIDBAUGBwgJCgsMDQ4PEA=="
REQUEST = (
    b"GET /chat?room=1 HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + KEY.encode() + b"\r\n\r\n"
)
TEXT, BINARY, CONTINUATION, CLOSE, PING, PONG = 1, 2, 0, 8, 9, 10


def client_frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    masked: bool = True,
    length: bytes | None = None,
) -> bytes:
    """A frame as clients send it. `length` replaces the length byte and what extends it."""
    length = _length(len(payload)) if length is None else length
    head = bytes(((0x80 if fin else 0) | rsv << 4 | opcode, length[0] | (0x80 if masked else 0))) + length[1:]
    key = b"\x37\xfa\x21\x3d"
    return head + key + mask(payload, key) if masked else head + payload


def _length(size: int) -> bytes:
    if size < 126:
        return bytes((size,))
    return b"\x7e" + struct.pack("!H", size) if size < 65_536 else b"\x7f" + struct.pack("!Q", size)


def payload_of(frame: bytes) -> bytes:
    """The payload of one whole, unmasked frame of less than 64 KiB."""
    return frame[4:] if frame[1] == 126 else frame[2:]


def close_body(code: int, reason: str = "") -> bytes:
    return struct.pack("!H", code) + reason.encode()


class RawClient:
    """A TCP connection to a listener, read with deadlines."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self, within_s: float = 5.0) -> tuple[int, dict[str, str], bytes]:
        """Status, headers by lower-case name and body of an HTTP answer."""
        async with asyncio.timeout(within_s):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head.strip().split("\r\n")
            headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
            body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        return int(first.split(" ")[1]), headers, body

    async def frame(self, within_s: float = 5.0) -> tuple[int, bytes]:
        """Opcode and payload of the next frame, which must be whole and unmasked."""
        async with asyncio.timeout(within_s):
            first, size = await self.reader.readexactly(2)
            assert first & 0xF0 == 0x80
            assert size < 128
            if size == 126:
                (size,) = struct.unpack("!H", await self.reader.readexactly(2))
            elif size == 127:
                (size,) = struct.unpack("!Q", await self.reader.readexactly(8))
            return first & 15, await self.reader.readexactly(size)

    async def closed(self, within_s: float = 5.0) -> tuple[int, str]:
        """Code and reason of the close frame, which must be the next frame and the last thing that comes."""
        opcode, body = await self.frame(within_s)
        assert opcode == CLOSE, (opcode, body)
        assert await self.rest(within_s) == b""
        return (struct.unpack("!H", body[:2])[0], body[2:].decode()) if body else (1005, "")

    async def rest(self, within_s: float = 5.0) -> bytes:
        """Everything up to the end of the stream. ConnectionResetError where the listener reset it."""
        async with asyncio.timeout(within_s):
            return await self.reader.read()

    async def leave(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except OSError:
            return

    def reset(self) -> None:
        self.writer.transport.abort()


class Recorder(Handler):
    """Keeps every call in `calls`, the connection in `connection`, the request as it was in `on_open` in `request`."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.connection: Connection | None = None
        self.request: Request | None = None

    def on_open(self, connection: Connection) -> None:
        self.connection = connection
        self.request = connection.request
        self.calls.append(("open",))

    def on_text(self, message: str) -> None:
        self.calls.append(("text", message))

    def on_binary(self, message: bytes) -> None:
        self.calls.append(("binary", message))

    def on_close(self, code: int, reason: str) -> None:
        self.calls.append(("close", code, reason))

    def pause_writing(self) -> None:
        self.calls.append(("pause",))

    def resume_writing(self) -> None:
        self.calls.append(("resume",))

    def count(self, name: str) -> int:
        return sum(call[0] == name for call in self.calls)

    async def end(self, within_s: float = 5.0) -> tuple[int, str]:
        """What `on_close` was told; it must be the only such call and the last one."""
        await eventually(lambda: self.count("close"), within_s, "on_close")
        assert self.count("close") == 1
        assert self.calls[-1][0] == "close"
        return self.calls[-1][1], self.calls[-1][2]


class Echo(Recorder):
    def on_text(self, message: str) -> None:
        super().on_text(message)
        assert self.connection is not None
        self.connection.send_text(message)

    def on_binary(self, message: bytes) -> None:
        super().on_binary(message)
        assert self.connection is not None
        self.connection.send_binary(message)


class Site:
    """A listener whose connections get handlers of one class, and raw clients for it."""

    def __init__(self, listener: Listener, handlers: list[Any]) -> None:
        self.listener = listener
        self.handlers = handlers
        self.clients: list[RawClient] = []

    @classmethod
    async def start(cls, handler: type[Recorder], limits: Limits, subprotocol: str | None = None) -> Site:
        handlers: list[Recorder] = []

        async def accept(request: Request) -> Accept | Refuse:
            handlers.append(handler())
            return Accept(handlers[-1], subprotocol if subprotocol in request.subprotocols else None)

        return cls(await listen(accept, "127.0.0.1", 0, limits), handlers)

    async def connect(self, data: bytes = b"") -> RawClient:
        """A TCP connection; `data` is sent at once."""
        client = RawClient(*await asyncio.open_connection("127.0.0.1", self.listener.port))
        self.clients.append(client)
        client.send(data)
        return client

    async def open(self, frames: bytes = b"") -> RawClient:
        """An open WebSocket; `frames` are sent after the handshake's answer."""
        client = await self.connect(REQUEST)
        status, _, _ = await client.answer()
        assert status == 101
        client.send(frames)
        return client

    async def stop(self, others: Sequence[RawClient] = ()) -> None:
        for client in (*self.clients, *others):
            client.reset()
        self.listener.stop_accepting()
        assert await self.listener.wait_closed(5)
        assert self.listener.connections == 0

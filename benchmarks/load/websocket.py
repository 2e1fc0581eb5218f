"""A WebSocket client that costs little: whole text messages in and out, pings answered, nothing else."""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import Callable
from typing import cast

from ext.ws_frames import mask

_TEXT, _CLOSE, _PING, _PONG = 1, 8, 9, 10
_REQUEST = (
    "GET /v1/ws HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEA==\r\n"
    "Sec-WebSocket-Protocol: parley.v1\r\nAuthorization: Bearer {token}\r\n\r\n"
)


class Socket(asyncio.Protocol):
    """One connection, open once `opened` is done: its result is the first message. Later ones go to `on_message`.

    `lost` says why it ended, or is empty.
    """

    def __init__(self, port: int, token: str, on_message: Callable[[bytes], None] = lambda _: None) -> None:
        self._request = _REQUEST.format(port=port, token=token).encode()
        self.on_message = on_message
        self.opened: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.lost = ""
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._upgraded = False

    @classmethod
    async def open(cls, port: int, token: str, on_message: Callable[[bytes], None] = lambda _: None) -> Socket:
        """An open, welcomed connection. Raises OSError, `ConnectionError` with the answer where it was refused."""
        loop = asyncio.get_running_loop()
        _, socket = await loop.create_connection(lambda: cls(port, token, on_message), "127.0.0.1", port)
        await socket.opened
        return socket

    def send(self, payload: bytes) -> None:
        self._send(_TEXT, payload)

    def close(self) -> None:
        """Ends the TCP connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def _send(self, opcode: int, payload: bytes) -> None:
        assert self._transport is not None
        size = len(payload)
        head = bytes((0x80 | opcode, 0x80 | size)) if size < 126 else struct.pack("!BBH", 0x80 | opcode, 0xFE, size)
        key = os.urandom(4)
        self._transport.write(head + key + mask(payload, key))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not checked: uvloop's transports are no instances of asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._request)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = self.lost or str(exc or "the connection was closed")
        if not self.opened.done():
            self.opened.set_exception(ConnectionError(self.lost))

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        if not self._upgraded and not self._take_answer():
            return
        at = 0
        while (end := self._take_frame(at)) > at:
            at = end
        self._buffer = self._buffer[at:]

    def _take_answer(self) -> bool:
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return False
        if not head.startswith(b"HTTP/1.1 101 "):
            self.lost = self._buffer[:300].decode("latin-1")
            self.close()
            return False
        self._upgraded, self._buffer = True, rest
        return True

    def _take_frame(self, at: int) -> int:
        """Takes the frame that begins at `at`; returns where it ends, or `at` where it is not whole yet."""
        buffer = self._buffer
        if len(buffer) < at + 2:
            return at
        opcode, size, start = buffer[at] & 15, buffer[at + 1], at + 2
        if size > 125:
            width = 2 if size == 126 else 8
            start += width
            if len(buffer) < start:
                return at
            size = int.from_bytes(buffer[start - width : start], "big")
        if len(buffer) < start + size:
            return at
        self._take(opcode, buffer[start : start + size])
        return start + size

    def _take(self, opcode: int, payload: bytes) -> None:
        if opcode == _TEXT:
            if self.opened.done():
                self.on_message(payload)
            else:
                self.opened.set_result(payload)
        elif opcode == _PING:
            self._send(_PONG, payload)
        elif opcode == _CLOSE:
            code = int.from_bytes(payload[:2], "big")
            self.lost = f"closed with {code} {payload[2:].decode('utf-8', 'replace')}"
            self.close()

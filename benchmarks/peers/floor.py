"""The floor: what the loop and the kernel cost, with the least that can be called a WebSocket server above them.

A bare uvloop `BufferedProtocol` with one read buffer for all connections. It trusts its client: no limits, no checks,
no heartbeat, no close handshake. Frames to send are ready bytes, given to `transport.write`.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from typing import cast

import uvloop

from benchmarks.peers.common import BACKLOG, HOST, Steps, command, frame
from ext.ws_frames import mask

BUFFER = bytearray(256 * 1024)
VIEW = memoryview(BUFFER)
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
KEY = b"Sec-WebSocket-Key: "
ANSWER = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
CLOSE = 8


class Floor(asyncio.BufferedProtocol):
    __slots__ = ("_opened", "_rest", "_transport", "paused")

    everyone: set[Floor] = set()  # noqa: RUF012 - one for the process, as the buffer is
    steps = Steps()

    def __init__(self) -> None:
        self._opened = False
        self._rest = b""
        self.paused = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.everyone.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self.everyone.discard(self)

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False

    def get_buffer(self, sizehint: int) -> memoryview:
        return VIEW

    def buffer_updated(self, nbytes: int) -> None:
        data = bytes(VIEW[:nbytes])
        if self._rest:
            data, self._rest = self._rest + data, b""
        if not self._opened:
            data = self._open(data)
        at = 0
        while at < len(data):
            end = self._take(data, at)
            if end == at:
                self._rest = data[at:]
                return
            at = end

    def write(self, text: bytes, count: int) -> None:
        if self._transport is not None:
            self._transport.write(_ready(text, count))

    def _open(self, data: bytes) -> bytes:
        head, found, rest = data.partition(b"\r\n\r\n")
        if not found:
            self._rest = data
            return b""
        start = head.index(KEY) + len(KEY)
        digest = hashlib.sha1(head[start : start + 24] + GUID, usedforsecurity=False).digest()
        assert self._transport is not None
        self._transport.write(ANSWER + base64.b64encode(digest) + b"\r\n\r\n")
        self._opened = True
        return rest

    def _take(self, data: bytes, at: int) -> int:
        """Takes the masked frame that begins at `at`; returns where it ends, or `at` where it is not whole."""
        if len(data) < at + 6:
            return at
        size, body = data[at + 1] & 127, at + 6
        if size > 125:
            width = 2 if size == 126 else 8
            body += width
            size = int.from_bytes(data[at + 2 : at + 2 + width], "big")
        if len(data) < body + size:
            return at
        opcode, text = data[at] & 15, mask(data[body : body + size], data[body - 4 : body])
        if self._transport is None:
            return body + size
        if opcode == CLOSE:
            self._transport.close()
        elif (given := command(text)) is not None:
            self.steps.begin(given, [self] if given.to == "push" else self.everyone)
        elif opcode == 1:
            self._transport.write(frame(text))
        return body + size


_made: dict[tuple[bytes, int], bytes] = {}


def _ready(text: bytes, count: int) -> bytes:
    found = _made.get((text, count))
    if found is None:
        found = _made[text, count] = frame(text) * count
    return found


async def serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Floor, HOST, port, backlog=BACKLOG)
    await server.serve_forever()


def run(port: int) -> None:
    uvloop.run(serve(port))

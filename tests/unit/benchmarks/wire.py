"""The server's side of what the engine talks with: whole frames in, whole frames out."""

from __future__ import annotations

import asyncio
import struct

from benchmarks.native.upgrade import ACCEPT

SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: " + ACCEPT + b"\r\n\r\n"


def frame(payload: bytes, opcode: int = 1) -> bytes:
    size = len(payload)
    return (bytes((0x80 | opcode, size)) if size < 126 else struct.pack("!BBH", 0x80 | opcode, 126, size)) + payload


async def take_frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Opcode and unmasked payload."""
    head = await reader.readexactly(2)
    size = head[1] & 127
    if size > 125:
        width = 2 if size == 126 else 8
        size = int.from_bytes(await reader.readexactly(width), "big")
    assert head[1] & 128, "the engine masks what it sends"
    key = await reader.readexactly(4)
    payload = await reader.readexactly(size)
    return head[0] & 15, bytes(byte ^ key[at & 3] for at, byte in enumerate(payload))


async def shake_hands(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """Answers an upgrade; gives the request."""
    request = await reader.readuntil(b"\r\n\r\n")
    writer.write(SWITCH)
    return request

"""Does it serve? One question per kind of server, each bounded by its caller."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from cli.supervisor import Probe


def answers(port: int, request: bytes, expected: bytes, host: str = "127.0.0.1") -> Probe:
    """A server that answers `request` with something that begins with `expected`."""

    async def probe() -> bool:
        async with _connected(host, port) as (reader, writer):
            writer.write(request)
            return await reader.readexactly(len(expected)) == expected

    return probe


def http_ok(port: int, path: str, headers: str = "", host: str = "127.0.0.1") -> Probe:
    """An HTTP server that answers 200 to a GET of `path`."""
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n{headers}\r\n"
    return answers(port, request.encode(), b"HTTP/1.1 200", host)


def http_alive(port: int) -> Probe:
    """An HTTP server that answers anything."""
    request = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
    return answers(port, request, b"HTTP/1.")


@contextlib.asynccontextmanager
async def _connected(host: str, port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

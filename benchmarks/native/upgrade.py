"""The first bytes of connections: upgrade requests, HTTP requests, and what a PROXY header looks like."""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import struct
from collections.abc import Iterable

KEY = "AQIDBAUGBwgJCgsMDQ4PEA=="
ACCEPT = base64.b64encode(hashlib.sha1(f"{KEY}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest())
"""What answers `KEY`: for `Engine.prepare`."""

_PROXY = b"\r\n\r\n\x00\r\nQUIT\n"


def upgrade(
    path: str = "/v1/ws",
    *,
    host: str = "127.0.0.1",
    token: str = "",
    subprotocols: str = "parley.v1",
    headers: Iterable[str] = (),
) -> bytes:
    """A request for a WebSocket; `token` goes as Bearer, `headers` as they are (without line ends)."""
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: {host}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {KEY}",
        *([f"Sec-WebSocket-Protocol: {subprotocols}"] if subprotocols else []),
        *([f"Authorization: Bearer {token}"] if token else []),
        *headers,
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def request(
    method: str, path: str, body: bytes = b"", *, host: str = "127.0.0.1", headers: Iterable[str] = ()
) -> bytes:
    """An HTTP/1.1 request on a connection that is kept."""
    length = [f"Content-Length: {len(body)}"] if body or method not in ("GET", "DELETE") else []
    return "\r\n".join([f"{method} {path} HTTP/1.1", f"Host: {host}", *headers, *length, "", ""]).encode() + body


def proxy_v2(source: str, source_port: int, target: str, target_port: int) -> bytes:
    """A PROXY protocol v2 header for TCP over IPv4, as a load balancer puts it before a connection's first byte."""
    addresses = ipaddress.IPv4Address(source).packed + ipaddress.IPv4Address(target).packed
    return (
        _PROXY + bytes((0x21, 0x11)) + struct.pack("!H", 12) + addresses + struct.pack("!HH", source_port, target_port)
    )


def loopback(count: int, first: int = 0) -> list[str]:
    """`count` addresses of 127.0.0.0/8, from number `first` on."""
    return [str(ipaddress.IPv4Address("127.1.0.1") + first + number) for number in range(count)]

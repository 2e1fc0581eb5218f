"""The PROXY protocol, version 2: what a balancer says of its client before the first byte of the client's. Sans IO.

TCP over IPv4 and IPv6, and LOCAL (the balancer's own health checks). Of the extensions (TLVs) nothing is used, so they
are skipped, their checksum with them: TCP has one. Version 1, a line of text, is not read: balancers that speak
it speak version 2.
"""

from __future__ import annotations

import socket

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
HEADER_BYTES = 16
# Addresses take 36 bytes; the rest is for extensions. Balancers' own come to about a hundred bytes.
MAX_BYTES = HEADER_BYTES + 1024

LOCAL, PROXY = 0x20, 0x21
UNSPECIFIED, TCP4, TCP6 = 0x00, 0x11, 0x21
_ADDRESSES = {TCP4: (socket.AF_INET, 4), TCP6: (socket.AF_INET6, 16)}


class ProxyError(Exception):
    """What came is no such header; the message says why."""


def parse_proxy(data: bytes | bytearray) -> tuple[int, tuple[str, int] | None] | None:
    """The header at the beginning of `data`: its size, and the client's address and port.

    No address: the balancer speaks for itself (LOCAL) or does not know. None while the header is incomplete, at most
    `MAX_BYTES` long. Raises `ProxyError`, at the first byte that shows it where that is the signature's.
    """
    head = bytes(data[:HEADER_BYTES])
    if not SIGNATURE.startswith(head[: len(SIGNATURE)]):
        raise ProxyError("a PROXY header of version 2 is missing")
    if len(head) < HEADER_BYTES:
        return None
    command, family = head[12], head[13]
    size = HEADER_BYTES + int.from_bytes(head[14:16], "big")
    if command not in (LOCAL, PROXY):
        raise ProxyError("unknown version or command in the PROXY header")
    if size > MAX_BYTES:
        raise ProxyError(f"the PROXY header is longer than {MAX_BYTES} bytes")
    if command == LOCAL or family == UNSPECIFIED:
        return (size, None) if len(data) >= size else None
    if family not in _ADDRESSES:
        raise ProxyError("the PROXY header is not about TCP over IPv4 or IPv6")
    kind, length = _ADDRESSES[family]
    if size < HEADER_BYTES + 2 * length + 4:
        raise ProxyError("the PROXY header is too short for its addresses")
    if len(data) < size:
        return None
    address = socket.inet_ntop(kind, bytes(data[HEADER_BYTES : HEADER_BYTES + length]))
    port = HEADER_BYTES + 2 * length
    return size, (address, int.from_bytes(data[port : port + 2], "big"))

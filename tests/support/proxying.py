"""PROXY headers of version 2 as balancers send them, for tests."""

from __future__ import annotations

import ipaddress

SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")


def proxy_header(
    client: str = "198.51.100.7",
    port: int = 4711,
    *,
    server: str | None = None,
    command: int = 0x21,
    family: int | None = None,
    extensions: bytes = b"",
    length: int | None = None,
) -> bytes:
    """A header that names `client`; what is given besides replaces what would be right."""
    source = ipaddress.ip_address(client)
    target = ipaddress.ip_address(server) if server else source
    body = source.packed + target.packed + port.to_bytes(2, "big") + (8081).to_bytes(2, "big") + extensions
    kind = (0x11 if source.version == 4 else 0x21) if family is None else family
    size = len(body) if length is None else length
    return SIGNATURE + bytes((command, kind)) + size.to_bytes(2, "big") + body


LOCAL = SIGNATURE + b"\x20\x00\x00\x00"

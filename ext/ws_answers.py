"""The words of the WebSocket listener: which violation closes with what, and its HTTP answers as bytes."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from http import HTTPStatus

FAILURES: dict[str, tuple[int, str]] = {
    "rsv": (1002, "reserved bits are set"),
    "opcode": (1002, "unknown opcode"),
    "unmasked": (1002, "client frames must be masked"),
    "control": (1002, "control frame fragmented or longer than 125 bytes"),
    "continuation": (1002, "continuation frame out of order"),
    "length": (1002, "length not in its shortest form"),
    "close": (1002, "invalid close frame"),
    "utf8": (1007, "text is not UTF-8"),
    "size": (1009, "message too long"),
    "fragments": (1009, "message in too many fragments"),
}


def failure(name: str) -> tuple[int, str]:
    """Close code and reason of a violation."""
    return FAILURES[name]


class HandshakeError(Exception):
    """A handshake that cannot be accepted: the HTTP status, a sentence for the client, headers of the answer."""

    def __init__(self, status: int, message: str, headers: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers

    def encode(self) -> bytes:
        """The whole HTTP answer."""
        text = (("Content-Type", "text/plain; charset=utf-8"), *self.headers)
        return encode_refusal(self.status, text, self.message.encode() + b"\n")


def bad_request(message: str) -> HandshakeError:
    return HandshakeError(400, message)


def upgrade_required(message: str) -> HandshakeError:
    headers = (("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Version", "13"))
    return HandshakeError(426, message, headers)


def crowded(seconds: float) -> HandshakeError:
    """The answer to a connection too many from one address."""
    wait_ms = spread_ms(max(1, int(seconds)))
    told = (("Retry-After", str(-(-wait_ms // 1000))), ("retry-after-ms", str(wait_ms)))
    return HandshakeError(429, "too many connections from this address", told)


def spread_ms(seconds: int) -> int:
    """A random time that is `seconds` when it is told in whole seconds, so that not all come back at once."""
    return max(0, 1000 * seconds - random.randrange(1000))  # noqa: S311 - jitter, not a secret


_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*\Z")


def _encode_headers(headers: Sequence[tuple[str, str]]) -> bytes:
    lines = []
    for name, value in headers:
        if not _NAME.match(name) or not _VALUE.match(value):
            raise ValueError(f"header {name!r} cannot be sent")
        lines.append(f"{name}: {value}\r\n")
    return "".join(lines).encode("latin-1")


def encode_refusal(status: int, headers: Sequence[tuple[str, str]], body: bytes) -> bytes:
    """An HTTP answer that ends the connection. ValueError for headers or a status that cannot be sent."""
    if not 300 <= status <= 599:
        raise ValueError(f"a handshake cannot be refused with status {status}")
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "Refused"
    if not any(name.lower() == "connection" for name, _ in headers):
        headers = (*headers, ("Connection", "close"))
    head = f"HTTP/1.1 {status} {phrase}\r\nContent-Length: {len(body)}\r\n".encode()
    return head + _encode_headers(headers) + b"\r\n" + body


_WAIT = (("Content-Type", "text/plain; charset=utf-8"), ("Retry-After", "%d"), ("retry-after-ms", "%d"))
_OVERLOADED = encode_refusal(503, _WAIT, b"try again later\n")


def encode_overloaded(retry_after_ms: int) -> bytes:
    """503, with when to come back in whole seconds and exactly."""
    return _OVERLOADED % (-(-retry_after_ms // 1000), retry_after_ms)


def encode_accept(token: bytes, subprotocol: str | None, headers: Sequence[tuple[str, str]]) -> bytes:
    """The 101 answer. `token` is the value of Sec-WebSocket-Accept. ValueError for headers that cannot be sent."""
    head = (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: %b\r\n" % token
    )
    if subprotocol is not None:
        headers = (("Sec-WebSocket-Protocol", subprotocol), *headers)
    return head + (_encode_headers(headers) if headers else b"") + b"\r\n"

"""What users of the WebSocket listener fill in or receive: limits, a request and its answer, a handler."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ext.ws import Connection

READ_BYTES = 65_536
"""What one read takes from a socket at most."""


class Handler:
    """What happens on one connection. Subclass it; give each connection its own instance in `Accept`.

    Every method is called on the listener's loop, never concurrently, and must not block. An exception from
    any of them is logged once and closes the connection with 1011. Declare `__slots__` in subclasses: an idle
    connection costs what its handler costs.
    """

    __slots__ = ()

    def on_open(self, connection: Connection) -> None:
        """The handshake was answered; `connection.request` is readable here and gone afterwards."""

    def on_text(self, message: str) -> None:
        """A complete text message, valid UTF-8, of at most `Limits.message_bytes` bytes."""

    def on_binary(self, message: bytes) -> None:
        """A complete binary message of at most `Limits.message_bytes` bytes."""

    def on_overrun(self, what: str, retry_after_ms: int) -> None:
        """The peer sent more `what` ("frames" or "bytes") than `Limits` let it; `retry_after_ms` fills an empty bucket.

        The connection ends after this call: by the handler's `close`, else with 4429. Nothing that came above the rate
        is delivered.
        """

    def on_close(self, code: int, reason: str) -> None:
        """The connection is gone: called exactly once for every handler given in an `Accept`, last of all.

        `code` is that of whoever closed first: ours, if this side did (also for a violation or a missed
        heartbeat), else the peer's (1005 where it gave none), else 1006 where the peer vanished. Where the
        peer vanishes before the handshake could be answered, this comes without an `on_open`.
        """

    def pause_writing(self) -> None:
        """More than `Limits.write_high` bytes wait to be sent: stop sending until `resume_writing`."""

    def resume_writing(self) -> None:
        """At most `Limits.write_low` bytes wait to be sent: go on."""


@dataclass(frozen=True, slots=True)
class Request:
    """A valid upgrade request. Headers may hold credentials, so `repr` shows neither them nor the query."""

    path: str
    """As sent: not percent-decoded, without the query."""
    query: str = field(repr=False)
    """What follows the first `?`, as sent; empty if nothing does."""
    headers: Mapping[str, str] = field(repr=False)
    """By lower-case name. Repeated ones are joined by `, ` (cookies by `; `); bytes above 127 read as Latin-1."""
    subprotocols: Sequence[str] = field(repr=False)
    """What the client offers in `Sec-WebSocket-Protocol`, in its order."""
    peer: tuple[str, int]
    """The client's address and port: the other end of the socket, or whom a trusted proxy names (by X-Forwarded-For
    without a port: 0)."""


@dataclass(frozen=True, slots=True)
class Accept:
    """Opens the connection. `subprotocol` must be one that the client offered."""

    handler: Handler
    subprotocol: str | None = None
    headers: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True, slots=True)
class Refuse:
    """Answers the handshake with an HTTP error (`status` 300 to 599) and ends it."""

    status: int
    headers: Sequence[tuple[str, str]] = ()
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one connection, and one listener, may cost (several with one `Budget`). Sizes are bytes, times seconds."""

    handshake_bytes: int = 8192
    """Request line and headers together; more is answered 431."""
    headers: int = 64
    """Header lines in a handshake; more is answered 431."""
    handshake_s: float = 5.0
    """From the TCP connection to the answer. A request that is incomplete then is answered 408, one that is still
    being authorised 503."""
    authorising: int = 1024
    """`accept` callbacks that run at once; one more handshake is answered 503."""
    message_bytes: int = 65_536
    """A whole message, all fragments; more closes with 1009."""
    fragments: int = 128
    """Frames of one message; more closes with 1009."""
    frames_per_s: float = 0.0
    """Frames that a peer may send in the long run, control frames and fragments counted; more closes with 4429.
    0: no such limit."""
    frames_at_once: int = 200
    """Frames that may come at once after a pause."""
    bytes_per_s: float = 0.0
    """Bytes, as read from the socket, that a peer may send in the long run; more closes with 4429. 0: no such limit."""
    bytes_at_once: int = 1_048_576
    """Bytes that may come at once after a pause; at least a message and what one read takes (64 KiB) on top of it."""
    message_s: float = 60.0
    """From the first byte of a message to its last; longer closes with 4408 (checked once per `ping_s`)."""
    ping_s: float = 25.0
    """Silence after which the peer is pinged, at the latest; each a little earlier, to spread them."""
    pong_s: float = 10.0
    """Silence after a ping that closes with 4408."""
    close_s: float = 5.0
    """From our close frame (or HTTP refusal) to the end of the TCP connection; then it is reset."""
    stuck_s: float = 60.0
    """From `Handler.pause_writing` to `resume_writing`; a peer that needs longer is closed with 4408, however much
    it took meanwhile."""
    write_high: int = 16_384
    """Unsent bytes in this process above which `Handler.pause_writing` is called."""
    write_low: int = 4_096
    """Unsent bytes in this process down to which `Handler.resume_writing` waits."""
    write_max: int = 1_048_576
    """Unsent bytes in this process at which the connection is dropped as 4408: a handler ignored the pause."""
    so_sndbuf: int | None = 65_536
    """SO_SNDBUF of every connection (Linux doubles it); None leaves the system's default. A buffer that holds no
    second segment waits for delayed acknowledgements when it is full, and a segment of loopback has 64 KiB."""
    notsent_lowat: int | None = 16_384
    """TCP_NOTSENT_LOWAT of every connection; None leaves the system's default."""
    connections: int = 100_000
    """Open at once, handshakes included; one more is answered 503 with Retry-After before it is read."""
    connections_per_address: int = 0
    """Open at once from one client address (of IPv6, one network of 64 bits), handshakes included; one more is answered
    429 with Retry-After: before its request is read, where that is not what tells the address. 0: no such limit."""
    handshakes_per_s: float = 0.0
    """Connections that are let in per second, whatever becomes of them; more are answered 503 before they are read.
    Each is told a Retry-After of its own: those that obey come back at this rate. 0: no such limit."""
    handshakes_at_once: int = 100
    """Connections that may come at once on top of that rate, after a pause."""
    retry_after_max_s: float = 30.0
    """The longest Retry-After of those 503s, and that of the 429s of `connections_per_address`."""
    reserved_files: int = 64
    """File descriptors left free below RLIMIT_NOFILE for everything else in the process; a connection that
    would use them is answered like one above `connections`."""
    refusals: int = 256
    """Connections refused before they were read whose sockets are kept, for at most `close_s`, until their peers have
    read why; the oldest are closed for newer ones."""
    retry_after_s: int = 2
    """What Retry-After says in all other 503s."""
    backlog: int = 4096
    """Connections that the kernel completes before they are accepted (bounded by net.core.somaxconn)."""

    def __post_init__(self) -> None:
        if not all(math.isfinite(getattr(self, each.name) or 0) for each in fields(self)):
            raise ValueError("numbers of Limits must be finite")
        positive = (
            *(self.handshake_bytes, self.headers, self.handshake_s, self.authorising, self.message_bytes),
            *(self.fragments, self.message_s, self.ping_s, self.pong_s, self.close_s, self.stuck_s),
            *(self.write_high, self.write_max, self.connections, self.handshakes_at_once),
            *(self.retry_after_max_s, self.backlog, self.frames_at_once, self.bytes_at_once),
        )
        if any(value <= 0 for value in positive):
            raise ValueError("sizes, counts and times of Limits must be positive")
        if (
            min(self.connections_per_address, self.handshakes_per_s, self.frames_per_s, self.bytes_per_s, self.refusals)
            < 0
        ):
            raise ValueError("rates and refusals of Limits must be positive, or 0")
        if self.bytes_per_s and self.bytes_at_once < self.message_bytes + READ_BYTES:
            raise ValueError(f"Limits needs bytes_at_once >= message_bytes + {READ_BYTES}: a message and a read")
        if not 0 <= self.write_low < self.write_high <= self.write_max:
            raise ValueError("Limits needs 0 <= write_low < write_high <= write_max")

from collections.abc import Iterable

from ext.ws_types import Request

class Connection:
    """One WebSocket connection. Methods are called on the listener's loop only; none waits, none fails because the peer
    has gone: once the connection closes, what is sent is dropped."""

    @property
    def buffered(self) -> int:
        """Bytes given to `send_*` that the kernel has not taken yet."""
    @property
    def closing(self) -> bool:
        """Whether a close has begun, at either side."""
    @property
    def last_activity(self) -> float:
        """Loop time at which the last byte arrived."""
    @property
    def peer(self) -> tuple[str, int]:
        """Address and port at the other end; ("", 0) once the connection is gone."""
    @property
    def request(self) -> Request | None:
        """The handshake's request, during `Handler.on_open` only."""
    def send_text(self, message: str | bytes) -> None:
        """Send a text message. `bytes` must be valid UTF-8: they are not checked.

        Raises UnicodeEncodeError for a str with surrogates. Messages sent in one loop turn leave in one write.
        """
    def send_binary(self, message: bytes) -> None:
        """Send a binary message."""
    def send_many(self, messages: Iterable[str | bytes]) -> None:
        """Send text messages, in order, as `send_text` does."""
    def send_encoded(self, frames: bytes) -> None:
        """Send whole frames as `ext.ws_frames.encode_frame` makes them: what goes to many connections is encoded once.

        They are not checked.
        """
    def ping(self, payload: bytes = b"") -> None:
        """Send a ping of at most 125 bytes (else ValueError). Silence after it does not close the connection; the
        listener's own heartbeat does that."""
    def pause_reading(self) -> None:
        """Read nothing more from the socket. Messages that were already read, at most 64 KiB, are still delivered.

        The heartbeat does not close the connection meanwhile; that the peer has gone may be seen only later.
        """
    def resume_reading(self) -> None:
        """Undo `pause_reading`."""
    def close(self, code: int = 1000, reason: str = "") -> None:
        """Send what is queued and a close frame, then wait for the peer's, at most `Limits.close_s`.

        Messages that arrive afterwards are dropped. `reason` is cut to 123 bytes of UTF-8. Raises ValueError
        for a code that may not be sent. Does nothing once the connection is closing.
        """
    def abort(self) -> None:
        """Reset the connection without a close frame; what is queued is lost. `on_close` follows, with 1006 unless a
        close had begun."""

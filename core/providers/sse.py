"""An incremental parser of server-sent events (the WHATWG HTML standard, "event stream interpretation").

Sans-IO: bytes in, events out, whatever the splits. It works on bytes, so a split inside a UTF-8 sequence needs
no care and data reaches the JSON decoder without a copy through `str`.
"""

from typing import NamedTuple

_BOM = b"\xef\xbb\xbf"


class ServerSentEvent(NamedTuple):
    """One event: `data` lines joined by LF, not decoded; `event` is "message" unless the stream named it."""

    data: bytes
    event: str = "message"
    last_id: str = ""


class SSELimitError(ValueError):
    """A line or an event's data is longer than the parser may hold."""


class SSEParser:
    """Parses one stream. `max_bytes` bounds one line, and one event's data; the parser holds at most twice that.

    `retry` is kept in `retry_ms` where the stream sent one. An event that no blank line has ended when the
    stream ends is not an event, as the standard says.
    """

    __slots__ = (
        "_data",
        "_data_size",
        "_event",
        "_first_line",
        "_last_id",
        "_max",
        "_partial",
        "_partial_size",
        "_skip_lf",
        "retry_ms",
    )

    def __init__(self, max_bytes: int = 1 << 20) -> None:
        self._max = max_bytes
        self._partial: list[bytes] = []
        self._partial_size = 0
        self._skip_lf = False
        self._first_line = True
        self._data: list[bytes] = []
        self._data_size = 0
        self._event = ""
        self._last_id = ""
        self.retry_ms: int | None = None

    def feed(self, chunk: bytes) -> list[ServerSentEvent]:
        """Take the next bytes, return the events that they complete.

        Raises SSELimitError; the parser must not be used after that.
        """
        events: list[ServerSentEvent] = []
        if self._skip_lf and chunk:
            self._skip_lf = False
            if chunk[0] == 0x0A:
                chunk = chunk[1:]
        if b"\r" in chunk:
            self._skip_lf = chunk[-1] == 0x0D
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        lines = chunk.split(b"\n")
        rest = lines.pop()
        if lines and self._partial:
            self._partial.append(lines[0])
            lines[0] = b"".join(self._partial)
            self._partial.clear()
            self._partial_size = 0
        for line in lines:
            self._line(line, events)
        if rest:
            self._partial.append(rest)
            self._partial_size += len(rest)
            if self._partial_size > self._max:
                raise SSELimitError(f"a line is longer than {self._max} bytes")
        return events

    def _line(self, line: bytes, events: list[ServerSentEvent]) -> None:
        if self._first_line:
            self._first_line = False
            line = line.removeprefix(_BOM)
        if len(line) > self._max:
            raise SSELimitError(f"a line is longer than {self._max} bytes")
        if not line:
            self._dispatch(events)
        elif line.startswith(b"data:"):
            self._append(line[6:] if line[5:6] == b" " else line[5:])
        elif line[0] != 0x3A:
            self._field(line)

    def _append(self, value: bytes) -> None:
        self._data.append(value)
        self._data_size += len(value) + 1
        if self._data_size > self._max + 1:
            raise SSELimitError(f"an event holds more than {self._max} bytes")

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"event":
            self._event = value.decode("utf-8", "replace")
        elif name == b"data":
            self._append(value)
        elif name == b"id":
            if b"\0" not in value:
                self._last_id = value.decode("utf-8", "replace")
        elif name == b"retry" and value.isdigit() and len(value) <= 9:
            self.retry_ms = int(value)

    def _dispatch(self, events: list[ServerSentEvent]) -> None:
        if self._data:
            data = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
            events.append(ServerSentEvent(data, self._event or "message", self._last_id))
            self._data.clear()
            self._data_size = 0
        self._event = ""

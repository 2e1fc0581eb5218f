"""The WebSocket kernels once more in plain Python, written for reading: what the compiled ones must agree with.

The same functions and class as `ext.ws_frames` and `ext.ws_handshake`; nothing but tests and measurements uses it.
"""

from __future__ import annotations

import base64
import codecs
import hashlib
import re
from itertools import cycle, islice

from ext.ws_answers import HandshakeError, bad_request, failure, upgrade_required
from ext.ws_types import Limits

FAILED, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10

Event = tuple[int, str] | tuple[int, bytes] | tuple[int, tuple[int, str]]


def mask(data: bytes | bytearray, key: bytes | bytearray, offset: int = 0) -> bytes:
    if len(key) != 4:
        raise ValueError("a masking key has four bytes")
    return bytes(a ^ b for a, b in zip(data, islice(cycle(key), offset % 4, None), strict=False))


def close_code_valid(code: int) -> bool:
    return 3000 <= code <= 4999 or code in {*range(1000, 1004), *range(1007, 1015)}


def encode_frame(opcode: int, payload: bytes) -> bytes:
    size = len(payload)
    if opcode >= CLOSE and size > 125:
        raise ValueError("a control frame has at most 125 bytes")
    if size < 126:
        return bytes((0x80 | opcode, size)) + payload
    if size < 65_536:
        return bytes((0x80 | opcode, 126)) + size.to_bytes(2, "big") + payload
    return bytes((0x80 | opcode, 127)) + size.to_bytes(8, "big") + payload


def encode_close(code: int, reason: str) -> bytes:
    if code == 1005:
        return encode_frame(CLOSE, b"")
    if not close_code_valid(code):
        raise ValueError(f"close code {code} may not be sent")
    text = reason.encode("utf-8", "replace")[:123].decode("utf-8", "ignore").encode()
    return encode_frame(CLOSE, code.to_bytes(2, "big") + text)


class _Violation(Exception):
    pass


class FrameParser:
    def __init__(self, max_message: int, max_fragments: int) -> None:
        self.max_message = max_message
        self.max_fragments = max_fragments
        self._pending = bytearray()
        self.frames = 0
        self._ended = False
        self._message_opcode = 0
        self._message = bytearray()
        self._fragments = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._checked = 0

    @property
    def idle(self) -> bool:
        return not (self._pending or self._message_opcode or self._ended)

    def feed(self, data: bytes) -> list[Event]:
        events: list[Event] = []
        self._pending += data
        try:
            while not self._ended and self._take_frame(events):
                pass
        except _Violation as violation:
            self._ended = True
            events.append((FAILED, failure(str(violation))))
        return events

    def _take_frame(self, events: list[Event]) -> bool:
        """Take one frame if it is complete; of an incomplete text frame, check what is there."""
        header = self._header()
        if header is None:
            return False
        opcode, fin, start, length = header
        payload = mask(self._pending[start : start + length], self._pending[start - 4 : start])
        complete = len(payload) == length
        if opcode < CLOSE and (opcode or self._message_opcode) == TEXT:
            self._check_text(payload[self._checked :], fin and complete)
            self._checked = len(payload)
        if not complete:
            return False
        self._checked = 0
        self.frames += 1
        del self._pending[: start + length]
        if opcode == CLOSE:
            self._take_close(payload, events)
        elif opcode > CLOSE:
            events.append((opcode, payload))
        else:
            self._take_data(opcode, fin, payload, events)
        return True

    def _header(self) -> tuple[int, bool, int, int] | None:
        if len(self._pending) < 2:
            return None
        first, second = self._pending[:2]
        opcode, fin, short = first & 15, bool(first & 0x80), second & 127
        self._check_first(first, second)
        extended = {126: 2, 127: 8}.get(short, 0)
        start = 2 + extended + 4
        if len(self._pending) < start:
            return None
        length = int.from_bytes(self._pending[2 : 2 + extended], "big") if extended else short
        if (extended == 2 and length < 126) or (extended == 8 and not 65_536 <= length < 1 << 63):
            raise _Violation("length")
        if opcode < CLOSE:
            if len(self._message) + length > self.max_message:
                raise _Violation("size")
            if self._fragments >= self.max_fragments:
                raise _Violation("fragments")
        return opcode, fin, start, length

    def _check_first(self, first: int, second: int) -> None:
        opcode = first & 15
        if first & 0x70:
            raise _Violation("rsv")
        if opcode not in {0, TEXT, BINARY, CLOSE, PING, PONG}:
            raise _Violation("opcode")
        if not second & 0x80:
            raise _Violation("unmasked")
        if opcode >= CLOSE and (not first & 0x80 or second & 127 > 125):
            raise _Violation("control")
        if opcode < CLOSE and (opcode == 0) != (self._message_opcode != 0):
            raise _Violation("continuation")

    def _check_text(self, piece: bytes, final: bool) -> None:
        try:
            self._decoder.decode(piece, final)
        except UnicodeDecodeError:
            raise _Violation("utf8") from None
        # Python's decoder waits for the third byte of a surrogate, for the sake of "surrogatepass".
        rest, _ = self._decoder.getstate()
        if rest[:1] == b"\xed" and rest[1:2] >= b"\xa0":
            raise _Violation("utf8")

    def _take_data(self, opcode: int, fin: bool, payload: bytes, events: list[Event]) -> None:
        self._message_opcode = self._message_opcode or opcode
        self._message += payload
        self._fragments += 1
        if not fin:
            return
        message = bytes(self._message)
        events.append((TEXT, message.decode()) if self._message_opcode == TEXT else (BINARY, message))
        self._message_opcode = self._fragments = 0
        self._message.clear()
        self._decoder.reset()

    def _take_close(self, payload: bytes, events: list[Event]) -> None:
        if not payload:
            events.append((CLOSE, (1005, "")))
        elif len(payload) == 1 or not close_code_valid(int.from_bytes(payload[:2], "big")):
            raise _Violation("close")
        else:
            try:
                reason = payload[2:].decode()
            except UnicodeDecodeError:
                raise _Violation("utf8") from None
            events.append((CLOSE, (int.from_bytes(payload[:2], "big"), reason)))
        self._ended = True


class Meter:
    """The two buckets of `ext.ws_rates.Metered`, counted in frames and bytes instead of in time."""

    def __init__(self, limits: Limits, now: float) -> None:
        self._rates = limits.bytes_per_s, limits.frames_per_s
        self._sizes = limits.bytes_at_once, limits.frames_at_once
        self._left: list[float] = [*self._sizes]
        self._at = now

    def spend(self, size: int, frames: int, now: float) -> tuple[bool, bool]:
        passed, self._at = now - self._at, now
        over = []
        for n, taken in enumerate((size, frames)):
            self._left[n] = min(self._sizes[n], self._left[n] + passed * self._rates[n]) - taken
            over.append(self._rates[n] > 0 and self._left[n] < -0.001)
        return over[0], over[1]


_REQUEST_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+) ([!-~]+) HTTP/([0-9]\.[0-9])")
_ABSOLUTE = re.compile(r"https?://[^/?#]*", re.IGNORECASE)
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_KEY = re.compile(r"[A-Za-z0-9+/]{22}==")
_SINGLE = {"host", "origin", "authorization", "content-length", "sec-websocket-key", "sec-websocket-version"}


def parse_upgrade(head: bytes, max_headers: int) -> tuple[str, str, dict[str, str]]:
    line, found, rest = head.partition(b"\r\n")
    if not found:
        raise bad_request("the request does not end")
    path, query = _target(line)
    headers: dict[str, str] = {}
    count = 0
    while True:
        line, found, rest = rest.partition(b"\r\n")
        if not found:
            raise bad_request("the request does not end")
        if not line:
            break
        count += 1
        if count > max_headers:
            raise HandshakeError(431, f"more than {max_headers} headers")
        _add_header(headers, line)
    _check_upgrade(headers)
    return path, query, headers


def _target(line: bytes) -> tuple[str, str]:
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        raise bad_request("malformed request line")
    method, target, version = (part.decode() for part in match.groups())
    if method != "GET":
        raise HandshakeError(405, "a WebSocket is opened with GET", (("Allow", "GET"),))
    if version != "1.1":
        raise HandshakeError(505, "HTTP/1.1 is needed")
    if not target.startswith("/"):
        authority = _ABSOLUTE.match(target)
        if authority is None:
            raise bad_request("the request target is neither a path nor an http URI")
        target = target[authority.end() :]
        target = target if target.startswith("/") else "/" + target
    if "#" in target:
        raise bad_request("the request target has a fragment")
    path, _, query = target.partition("?")
    return path, query


def _add_header(headers: dict[str, str], line: bytes) -> None:
    raw_name, colon, raw_value = line.partition(b":")
    if not colon or not _NAME.fullmatch(raw_name):
        raise bad_request("malformed header name")
    raw_value = raw_value.strip(b" \t")
    if not _VALUE.fullmatch(raw_value):
        raise bad_request("malformed header value")
    name, value = raw_name.decode().lower(), raw_value.decode("latin-1")
    if name not in headers:
        headers[name] = value
    elif name in _SINGLE:
        raise bad_request(f"header {name} is repeated")
    else:
        headers[name] += ("; " if name == "cookie" else ", ") + value


def _check_upgrade(headers: dict[str, str]) -> None:
    def tokens(name: str) -> set[str]:
        return {part.strip(" \t").lower() for part in headers.get(name, "").split(",")}

    if not headers.get("host"):
        raise bad_request("header host is missing")
    if headers.get("content-length", "0") != "0" or "transfer-encoding" in headers:
        raise bad_request("a WebSocket handshake has no body")
    if "websocket" not in tokens("upgrade"):
        raise upgrade_required("this is a WebSocket endpoint")
    if "upgrade" not in tokens("connection"):
        raise bad_request("header connection does not say upgrade")
    if headers.get("sec-websocket-version") != "13":
        raise upgrade_required("WebSocket version 13 is needed")
    if not _KEY.fullmatch(headers.get("sec-websocket-key", "")):
        raise bad_request("header sec-websocket-key is not 16 bytes in base64")


def accept_token(key: str) -> bytes:
    digest = hashlib.sha1(key.encode("ascii") + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11", usedforsecurity=False)
    return base64.b64encode(digest.digest())

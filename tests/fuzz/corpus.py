"""Valid things to begin with: handshakes, conversations in frames, messages of the protocol."""

from __future__ import annotations

import random

from tests.support.websocket import BINARY, CLOSE, CONTINUATION, PING, PONG, REQUEST, TEXT, client_frame, close_body

MESSAGE_BYTES = 600
FRAGMENTS = 5

HANDSHAKES = (
    REQUEST,
    REQUEST.replace(
        b"\r\n\r\n", b"\r\nSec-WebSocket-Protocol: parley.v1, parley.ticket.abc\r\nOrigin: http://x\r\n\r\n"
    ),
    REQUEST.replace(b"/chat?room=1", b"http://example.org:80/v1/ws?x=%2f"),
    REQUEST.replace(b"\r\n\r\n", b"\r\nCookie: a=b\r\nCookie: c=d; e=\xe9\r\nX-Long: " + b"y" * 300 + b"\r\n\r\n"),
    REQUEST.replace(b"\r\n\r\n", b"\r\n" + b"".join(b"X-%d: %d\r\n" % (n, n) for n in range(56)) + b"\r\n"),
)

_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
PROXY_HEADERS = (
    _SIGNATURE + b"\x21\x11\x00\x0c" + bytes((203, 0, 113, 9, 192, 0, 2, 1)) + b"\x15\xb3\x01\xbb",
    _SIGNATURE + b"\x21\x21\x00\x24" + bytes(range(32)) + b"\x15\xb3\x01\xbb",
    _SIGNATURE + b"\x21\x11\x00\x13" + bytes(12) + b"\x03\x00\x04\x01\x02\x03\x04",
    _SIGNATURE + b"\x20\x00\x00\x00",
    _SIGNATURE + b"\x21\x00\x00\x05hello",
)
PROXY_WORDS = (
    _SIGNATURE,
    b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n",
    b"\x20",
    b"\x21",
    b"\x11",
    b"\x12",
    b"\x31",
    b"\x04\x00",
)

HANDSHAKE_WORDS = (
    b"\r\n", b"\r\n\r\n", b"\n", b"\r", b": ", b":", b" ", b"\t", b",", b"GET ", b"POST ", b"HTTP/1.1", b"HTTP/1.0",
    b"HTTP/2.0", b"Host: a\r\n", b"Upgrade: websocket\r\n", b"Connection: Upgrade\r\n", b"Connection: close\r\n",
    b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Sec-WebSocket-Version: 8\r\n", b"#", b"?", b"//",
    b"Sec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEA==\r\n", b"Sec-WebSocket-Protocol: ,,\r\n", b"\x00", b"\x7f", b"\xff",
    b"X" * 900, b"Cookie: " + b"z" * 8000 + b"\r\n",
)  # fmt: skip

FRAME_WORDS = (
    b"\x81\x80\0\0\0\0", b"\x01\x80\0\0\0\0", b"\x00\x80\0\0\0\0", b"\x80\x80\0\0\0\0", b"\x82\x80\0\0\0\0",
    b"\x89\x80\0\0\0\0", b"\x8a\x80\0\0\0\0", b"\x88\x80\0\0\0\0", b"\x88\x82\0\0\0\0\x03\xe8", b"\x88\x81\0\0\0\0\x03",
    b"\x81\xfe\x00\x7d", b"\x81\xfe\x00\x7e", b"\x81\xff\0\0\0\0\0\0\x01\x00", b"\x81\xff\x80\0\0\0\0\0\0\0",
    b"\x89\xfe\x00\x7e", b"\xc1\x80", b"\x83\x80", b"\x81\x05hello", b"\xf0\x9f\x99\x82", b"\xed\xa0\x80", b"\xc0\x80",
    b"\x88\x82\0\0\0\0\x03\xed", b"\x88\x82\0\0\0\0\x0f\xa0", b"\xff\xff", b"\x7f\xff",
)  # fmt: skip

JSON_WORDS = (
    b'"type"', b'"send"', b'"resume"', b'"ping"', b'"cancel"', b'"regenerate"', b'"continue"', b'"message_id"',
    b'"generation_id"', b'"turn_id"', b"true", b"null", b"{}", b"[]", b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\",
    b"\\u0000", b"\\ud800", b"-1", b"0", b"1e999", b"9223372036854775808", b"1.5", b"NaN", b"[" * 2000, b'{"a":' * 600,
    b"\xef\xbb\xbf", b"\xff", b'"x":1,', b'"content":"",', b'"epoch":', b'"seq":', b'"params":{"a":[1,2,{}]},',
    b'"files":["f"],', b"\xe2\x80\xa8",
)  # fmt: skip

MESSAGES = (
    b'{"type":"send","message_id":"0198f9a2-0000-7000-8000-000000000000","conversation_id":"c","content":"hello"}',
    b'{"type":"send","conversation_id":"c","content":"\\u00fc","parent_id":"p","files":["f"],"model":"m","params":{"t":1}}',
    b'{"type":"regenerate","generation_id":"c~t","turn_id":"t","model":"m"}',
    b'{"type":"continue","generation_id":"c~t"}',
    b'{"type":"resume","generation_id":"c~t","epoch":3,"seq":-1}',
    b'{"type":"cancel","generation_id":"c~t"}',
    b'{"type":"ping","t":12.5}',
    b'{"type":"ping"}',
)


def conversation(rng: random.Random) -> bytes:
    """A valid stream of client frames: messages in fragments, control frames between them, sometimes a close."""
    data = b""
    for _ in range(rng.randrange(1, 6)):
        payload = rng.choice(
            (b"", b"hello", "ünïcödé 🙂".encode() * rng.randrange(1, 9), b"x" * rng.randrange(MESSAGE_BYTES + 20))
        )
        opcode = rng.choice((TEXT, TEXT, BINARY))
        parts = rng.randrange(1, FRAGMENTS + 1) if rng.randrange(3) == 0 else 1
        size = len(payload) // parts + 1
        for number in range(parts):
            if rng.randrange(4) == 0:
                data += client_frame(rng.choice((PING, PONG)), rng.randbytes(rng.choice((0, 4, 125))))
            part = payload[number * size : (number + 1) * size]
            data += client_frame(CONTINUATION if number else opcode, part, fin=number == parts - 1)
    if rng.randrange(3) == 0:
        data += client_frame(CLOSE, close_body(rng.choice((1000, 1001, 3000, 4999)), "bye"))
    return data

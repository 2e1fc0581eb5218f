"""What opens a WebSocket and what does not: a table, and the compiled parser against its plain reference."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ext import ws_handshake, ws_reference
from ext.ws_answers import HandshakeError, encode_accept, encode_refusal
from tests.support.websocket import KEY, REQUEST

IMPLEMENTATIONS = pytest.mark.parametrize("kernel", [ws_handshake, ws_reference], ids=["compiled", "reference"])

REFUSED = {
    "POST": (REQUEST.replace(b"GET", b"POST"), 405),
    "lower-case method": (REQUEST.replace(b"GET", b"get"), 405),
    "HTTP/1.0": (REQUEST.replace(b"HTTP/1.1", b"HTTP/1.0"), 505),
    "HTTP/2.0": (REQUEST.replace(b"HTTP/1.1", b"HTTP/2.0"), 505),
    "no version": (REQUEST.replace(b" HTTP/1.1", b""), 400),
    "two spaces": (REQUEST.replace(b"GET ", b"GET  "), 400),
    "space in target": (REQUEST.replace(b"/chat", b"/ch at"), 400),
    "control character in target": (REQUEST.replace(b"/chat", b"/ch\x01at"), 400),
    "target without slash": (REQUEST.replace(b"/chat", b"chat"), 400),
    "asterisk": (REQUEST.replace(b"/chat?room=1", b"*"), 400),
    "other scheme": (REQUEST.replace(b"/chat", b"ftp://host/chat"), 400),
    "fragment": (REQUEST.replace(b"room=1", b"room=1#here"), 400),
    "no host": (REQUEST.replace(b"Host: localhost\r\n", b""), 400),
    "empty host": (REQUEST.replace(b"Host: localhost", b"Host:"), 400),
    "two hosts": (REQUEST.replace(b"Host: localhost", b"Host: a\r\nhost: b"), 400),
    "no upgrade": (REQUEST.replace(b"Upgrade: websocket\r\n", b""), 426),
    "other upgrade": (REQUEST.replace(b"Upgrade: websocket", b"Upgrade: h2c"), 426),
    "no connection": (REQUEST.replace(b"keep-alive, Upgrade", b"keep-alive"), 400),
    "version 8": (REQUEST.replace(b"Version: 13", b"Version: 8"), 426),
    "no socket version": (REQUEST.replace(b"Sec-WebSocket-Version: 13\r\n", b""), 426),
    "short key": (REQUEST.replace(KEY.encode(), b"AQIDBAUGBwgJCgsMDQ4P"), 400),
    "long key": (REQUEST.replace(KEY.encode(), b"AQIDBAUGBwgJCgsMDQ4PEBESE="), 400),
    "key not base64": (REQUEST.replace(KEY.encode(), b"AQIDBAUGBwgJCgsMDQ4PE*=="), 400),
    "no key": (REQUEST.replace(b"Sec-WebSocket-Key", b"X-Key"), 400),
    "two keys": (REQUEST[:-2] + b"Sec-WebSocket-Key: " + KEY.encode() + b"\r\n\r\n", 400),
    "body": (REQUEST[:-2] + b"Content-Length: 3\r\n\r\n", 400),
    "chunked body": (REQUEST[:-2] + b"Transfer-Encoding: chunked\r\n\r\n", 400),
    "space before colon": (REQUEST.replace(b"Host:", b"Host :"), 400),
    "folded header": (REQUEST[:-2] + b"X-A: 1\r\n 2\r\n\r\n", 400),
    "bare line feed": (REQUEST.replace(b"localhost\r\n", b"localhost\n"), 400),
    "bare carriage return": (REQUEST.replace(b"localhost", b"local\rhost"), 400),
    "null in value": (REQUEST.replace(b"localhost", b"local\0host"), 400),
    "header without colon": (REQUEST[:-2] + b"nonsense\r\n\r\n", 400),
    "empty name": (REQUEST[:-2] + b": x\r\n\r\n", 400),
    "too many headers": (REQUEST[:-2] + b"X-A: 1\r\n" * 20 + b"\r\n", 431),
    "not ended": (REQUEST[:-2], 400),
}


@IMPLEMENTATIONS
@pytest.mark.parametrize(("request_head", "status"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(kernel: Any, request_head: bytes, status: int) -> None:
    with pytest.raises(HandshakeError) as refused:
        kernel.parse_upgrade(request_head, 16)
    assert refused.value.status == status
    assert refused.value.encode().startswith(b"HTTP/1.1 %d " % status)
    if status == 426:
        assert b"\r\nSec-WebSocket-Version: 13\r\n" in refused.value.encode()


@IMPLEMENTATIONS
def test_accepted(kernel: Any) -> None:
    path, query, headers = kernel.parse_upgrade(REQUEST, 16)
    assert (path, query) == ("/chat", "room=1")
    assert headers["connection"] == "keep-alive, Upgrade"
    assert headers["sec-websocket-key"] == KEY


@IMPLEMENTATIONS
@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/", "/", ""),
        (b"/a%20b?x=%C3%A9?&y", "/a%20b", "x=%C3%A9?&y"),
        (b"http://localhost:80/a?b", "/a", "b"),
        (b"HTTPS://localhost", "/", ""),
        (b"http://localhost?b", "/", "b"),
        (b"//double/slash", "//double/slash", ""),
    ],
)
def test_targets(kernel: Any, target: bytes, path: str, query: str) -> None:
    assert kernel.parse_upgrade(REQUEST.replace(b"/chat?room=1", target), 16)[:2] == (path, query)


@IMPLEMENTATIONS
def test_headers_are_joined_and_trimmed(kernel: Any) -> None:
    more = (
        b"Cookie: a=1\r\nCOOKIE:b=2\r\nX-A: \t one \t\r\nx-a:\r\nX-Latin: caf\xe9\r\nX-" + b"L" * 80 + b": long\r\n\r\n"
    )
    headers = kernel.parse_upgrade(REQUEST[:-2] + more, 16)[2]
    assert headers["cookie"] == "a=1; b=2"
    assert headers["x-a"] == "one, "
    assert headers["x-latin"] == "café"
    assert headers["x-" + "l" * 80] == "long"


@IMPLEMENTATIONS
def test_token_of_the_standard(kernel: Any) -> None:
    assert kernel.accept_token("dGhlIHNhbXBsZSBub25jZQ==") == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def outcome(kernel: Any, head: bytes) -> object:
    try:
        return kernel.parse_upgrade(head, 12)
    except HandshakeError as refused:
        return refused.status, refused.message, refused.headers


pieces = st.sampled_from([b"\r\n", b": ", b" ", b",", b"\x80", b"upgrade", b"//", b"?#"])
edits = st.lists(
    st.tuples(
        st.integers(0, len(REQUEST)),
        st.integers(0, 6),
        st.one_of(
            st.binary(max_size=4), st.sampled_from([b"\r\n", b": ", b" ", b",", b"\x80", b"upgrade", b"//", b"?#"])
        ),
    ),
    max_size=4,
)


@settings(max_examples=400, deadline=None)
@given(edits)
def test_both_parsers_agree_on_damaged_requests(changes: list[tuple[int, int, bytes]]) -> None:
    head = REQUEST
    for at, cut, put in changes:
        head = head[:at] + put + head[at + cut :]
    assert outcome(ws_handshake, head) == outcome(ws_reference, head)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80), st.lists(st.tuples(st.binary(max_size=9), st.binary(max_size=9)), max_size=14))
def test_both_parsers_agree_on_anything(line: bytes, fields: list[tuple[bytes, bytes]]) -> None:
    lines = b"".join(name + b":" + value + b"\r\n" for name, value in fields)
    for head in (line, line + b"\r\n\r\n", REQUEST[:-2] + lines + b"\r\n"):
        assert outcome(ws_handshake, head) == outcome(ws_reference, head)


@pytest.mark.parametrize("header", [("X-A", "1\r\nX-B: 2"), ("X A", "1"), ("X-A", "1\n"), ("X-A\n", "1"), ("X-A", "€")])
def test_answers_cannot_be_split(header: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match="cannot be sent"):
        encode_accept(b"token", None, (header,))
    with pytest.raises(ValueError, match="cannot be sent"):
        encode_refusal(401, (header,), b"")


def test_refusals_are_errors() -> None:
    with pytest.raises(ValueError, match="200"):
        encode_refusal(200, (), b"")
    assert encode_refusal(599, (), b"x").startswith(b"HTTP/1.1 599 Refused\r\nContent-Length: 1\r\n")

"""The compiled parsers against their references: the same result on everything, and no exception but the documented."""

from __future__ import annotations

import ipaddress
import random
from typing import Any

from ext import ws_frames, ws_handshake, ws_reference
from ext.ws_answers import FAILURES, HandshakeError
from ext.ws_proxy import MAX_BYTES, ProxyError, parse_proxy
from tests.fuzz.corpus import (
    FRAGMENTS,
    FRAME_WORDS,
    HANDSHAKE_WORDS,
    HANDSHAKES,
    MESSAGE_BYTES,
    PROXY_HEADERS,
    PROXY_WORDS,
    conversation,
)
from tests.fuzz.mutations import cut, mutate

STATUSES = frozenset({400, 405, 426, 431, 505})
CLOSES = frozenset(code for code, _ in FAILURES.values())
MAX_HEADERS = 64


def frames(rng: random.Random) -> None:
    """One stream through both frame parsers, in the same pieces."""
    compiled = ws_frames.FrameParser(MESSAGE_BYTES, FRAGMENTS)
    reference = ws_reference.FrameParser(MESSAGE_BYTES, FRAGMENTS)
    over = False
    for piece in cut(rng, mutate(rng, conversation(rng), FRAME_WORDS)):
        events = compiled.feed(piece)
        expected = reference.feed(piece)
        assert events == expected, (events, expected)
        assert compiled.idle == reference.idle or any(kind == 0 for kind, _ in events)
        assert not (over and events), "something came after the end"
        for kind, value in events:
            if kind == 0:
                assert value[0] in CLOSES, value
            over = over or kind in (0, 8)


def handshake(rng: random.Random) -> None:
    """One request through both handshake parsers."""
    head = mutate(rng, rng.choice(HANDSHAKES), HANDSHAKE_WORDS)
    if rng.randrange(4):
        head += b"\r\n\r\n"
    results = [_upgrade(kernel, head) for kernel in (ws_handshake, ws_reference)]
    assert results[0] == results[1], results


def _upgrade(kernel: Any, head: bytes) -> tuple[object, ...]:
    try:
        path, query, headers = kernel.parse_upgrade(head, MAX_HEADERS)
    except HandshakeError as error:
        refused = error
    else:
        assert path.startswith("/")
        return path, query, headers, kernel.accept_token(headers["sec-websocket-key"])
    assert refused.status in STATUSES
    assert refused.encode().startswith(b"HTTP/1.1 %d " % refused.status)
    return refused.status, refused.message, refused.headers


def proxy(rng: random.Random) -> None:
    """A PROXY header as it arrives: once it is told or refused, nothing that follows changes that."""
    data = mutate(rng, rng.choice(PROXY_HEADERS), PROXY_WORDS, most=3) + rng.choice((b"", b"GET / HTTP/1.1\r\n"))
    told = None
    for end in range(len(data) + 1):
        now = _proxy(data[:end])
        assert told is None or now == told, (told, now)
        told = now
    assert told is not None or len(data) < MAX_BYTES, "an incomplete header is bounded"


def _proxy(data: bytes) -> object:
    try:
        found = parse_proxy(data)
    except ProxyError as refused:
        return str(refused)
    if found is None:
        return None
    size, client = found
    assert 16 <= size <= min(len(data), MAX_BYTES)
    if client is not None:
        ipaddress.ip_address(client[0])
        assert 0 <= client[1] < 65536
    return found

"""A real listener over loopback under changed conversations: its answers are those that the references foretell."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections.abc import Iterator
from dataclasses import replace

from ext import ws_reference
from ext.ws import Accept, Connection, Handler, Hops, Limits, Listener, Request, listen
from ext.ws_answers import HandshakeError
from ext.ws_proxy import ProxyError, parse_proxy
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
from tests.support.websocket import BINARY, CLOSE, PING, PONG, REQUEST, TEXT

ANSWER_S = 10.0
LIMITS = Limits(message_bytes=MESSAGE_BYTES, fragments=FRAGMENTS, handshake_s=30, close_s=20)
TIGHT = replace(
    LIMITS, frames_per_s=0.1, frames_at_once=4, bytes_per_s=1.0, bytes_at_once=LIMITS.message_bytes + 65_536
)
TOO_MUCH = 4429
NO_REQUEST = HandshakeError(400, "this is no HTTP request").encode()

Told = list[tuple[int, object]]
"""What the listener says after its 101: opcode and message, of a close its code (1005 for none)."""


class Echo(Handler):
    __slots__ = ("_connection",)

    def on_open(self, connection: Connection) -> None:
        self._connection = connection

    def on_text(self, message: str) -> None:
        self._connection.send_text(message)

    def on_binary(self, message: bytes) -> None:
        self._connection.send_binary(message)


def _accept(request: Request) -> Accept:
    return Accept(Echo(), request.subprotocols[0] if request.subprotocols else None)


async def _accept_later(request: Request) -> Accept:
    await asyncio.sleep(0)
    return _accept(request)


class Site:
    """Three listeners: one has no rates and accepts at once, the tight one has low rates and takes a while to accept,
    the last is behind a proxy that tells its clients' addresses.
    """

    def __init__(self) -> None:
        self._listeners: list[Listener] = []

    async def start(self) -> None:
        self._listeners = [
            await listen(_accept, "127.0.0.1", 0, LIMITS),
            await listen(_accept_later, "127.0.0.1", 0, TIGHT),
            await listen(_accept, "127.0.0.1", 0, LIMITS, hops=Hops(("127.0.0.0/8",), "proxy")),
        ]

    async def stop(self) -> int:
        """How many connections did not end by themselves."""
        left = 0
        for listener in self._listeners:
            listener.stop_accepting()
            if not await listener.wait_left(5):
                left += listener.connections
            await listener.wait_closed(0)
        return left

    async def talk(self, rng: random.Random) -> None:
        """One connection: what it says in pieces, then the end of its side, sometimes a reset instead."""
        said = b"".join(_said(rng))
        which = rng.choice((0, 0, 0, 1, 2))
        header = mutate(rng, rng.choice(PROXY_HEADERS), PROXY_WORDS, most=1) if which == 2 else b""
        async with asyncio.timeout(ANSWER_S):
            answer = await converse(rng, self._listeners[which].port, said, header)
        if answer is None:
            return
        if which == 2:
            rest = _behind_header(header + said)
            if rest is None:
                assert not answer or _status(answer) == 400, answer
                return
            said = rest
            if answer == NO_REQUEST and not _begins_like_a_method(said):
                return  # told at once where it came in a piece of its own, else by the parser
        elif said and not _begins_like_a_method(said):
            assert answer == NO_REQUEST, answer
            return
        check(said, answer, tight=which == 1)


async def converse(rng: random.Random, port: int, said: bytes, header: bytes = b"") -> bytes | None:
    """Says it in pieces, behind a header of a proxy's; gives all that came back. None where it was ended by a reset:
    ours, or the other side's after we went on behind our own close frame.
    """
    loop = asyncio.get_running_loop()
    with socket.socket() as sock:
        sock.setblocking(False)
        try:
            await loop.sock_connect(sock, ("127.0.0.1", port))
            for piece in cut(rng, header + said):
                await loop.sock_sendall(sock, piece)
                for _ in range(rng.randrange(3)):
                    await asyncio.sleep(0)
            if rng.randrange(16) == 0:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return None
            for _ in range(rng.randrange(30)):  # who shuts its side has left: what is still at work here is cancelled
                await asyncio.sleep(0)
            sock.shutdown(socket.SHUT_WR)
            answer = b""
            while more := await loop.sock_recv(sock, 65536):
                answer += more
            return answer
        except OSError:
            # A peer that goes on after its own close frame is not waited for, and what it sent then resets all.
            assert header or _goes_on_after_close(said), "reset"
            return None


def _begins_like_a_method(said: bytes) -> bool:
    return b"A" <= said[:1] <= b"Z"


def _behind_header(said: bytes) -> bytes | None:
    """What follows the proxy's header; None where there is no whole one."""
    try:
        found = parse_proxy(said)
    except ProxyError:
        return None
    return said[found[0] :] if found is not None else None


def _said(rng: random.Random) -> tuple[bytes, bytes]:
    if rng.randrange(3):
        return REQUEST, mutate(rng, conversation(rng), FRAME_WORDS)
    head = mutate(rng, rng.choice(HANDSHAKES), HANDSHAKE_WORDS)
    return head, mutate(rng, conversation(rng), FRAME_WORDS) if rng.randrange(2) else b""


def check(said: bytes, answer: bytes, tight: bool) -> None:
    """Raises AssertionError where the answer is not the one that is documented."""
    end = said.find(b"\r\n\r\n")
    if (end + 4 if end >= 0 else len(said)) > LIMITS.handshake_bytes:
        assert _status(answer) == 431, answer
        return
    if end < 0:
        assert answer == b"", answer
        return
    refusal = _refusal(said[: end + 4])
    if refusal:
        assert answer == refusal, (answer, refusal)
        return
    if tight and not answer:
        return  # who shuts its side while `accept` is at work has left
    if tight and _status(answer) == 400:
        assert len(said) - end - 4 > MESSAGE_BYTES, "more than a message before the answer"
        return
    assert _status(answer) == 101, answer
    told = list(frames_of(answer[answer.index(b"\r\n\r\n") + 4 :]))
    expected, pings = _expected(said[end + 4 :])
    said_back = [event for event in told if event[0] != PONG]
    pongs = [payload for opcode, payload in told if opcode == PONG]
    rest = iter(pings)
    assert all(pong in rest for pong in pongs), (pongs, pings)
    if tight and said_back[-1:] == [(CLOSE, TOO_MUCH)]:
        assert said_back[:-1] == expected[: len(said_back) - 1], (told, expected)
        return
    assert said_back == expected, (told, expected)
    assert bool(pongs) == bool(pings)


def _goes_on_after_close(said: bytes) -> bool:
    at = said.find(b"\r\n\r\n") + 4
    parser = ws_reference.FrameParser(MESSAGE_BYTES, FRAGMENTS)
    while at < len(said) and not any(kind == CLOSE for kind, _ in parser.feed(said[at : at + 1])):
        at += 1
    return at + 1 < len(said)


def _refusal(head: bytes) -> bytes:
    try:
        ws_reference.parse_upgrade(head, LIMITS.headers)
    except HandshakeError as refused:
        return refused.encode()
    return b""


def _status(answer: bytes) -> int:
    assert answer.startswith(b"HTTP/1.1 "), answer
    return int(answer[9:12])


def _expected(frames: bytes) -> tuple[Told, list[object]]:
    """What the reference parser makes of it, as an echo tells it; and the pings."""
    told: Told = []
    pings: list[object] = []
    for kind, value in ws_reference.FrameParser(MESSAGE_BYTES, FRAGMENTS).feed(frames):
        if kind in (TEXT, BINARY):
            told.append((kind, value))
        elif kind == PING:
            pings.append(value)
        elif kind in (0, CLOSE):
            told.append((CLOSE, value[0]))
    return told, pings


def frames_of(data: bytes) -> Iterator[tuple[int, object]]:
    at = 0
    while at < len(data):
        first, size = data[at], data[at + 1]
        assert first & 0xF0 == 0x80, "a whole message, no reserved bits"
        assert size < 128, "a server does not mask"
        at += 2
        if size >= 126:
            width = 2 if size == 126 else 8
            size = int.from_bytes(data[at : at + width], "big")
            at += width
        payload = data[at : at + size]
        assert len(payload) == size, "the last frame is whole"
        at += size
        yield _event(first & 15, payload)


def _event(opcode: int, payload: bytes) -> tuple[int, object]:
    if opcode == CLOSE:
        payload[2:].decode()
        return CLOSE, struct.unpack("!H", payload[:2])[0] if payload else 1005
    return opcode, payload.decode() if opcode == TEXT else payload

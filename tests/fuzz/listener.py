"""A real listener over loopback under changed conversations: its answers are those that the references foretell."""

from __future__ import annotations

import asyncio
import random
import struct
from collections.abc import Iterator

from ext import ws_reference
from ext.ws import Accept, Connection, Handler, Limits, Listener, Request, listen
from ext.ws_answers import HandshakeError
from tests.fuzz.corpus import FRAGMENTS, FRAME_WORDS, HANDSHAKE_WORDS, HANDSHAKES, MESSAGE_BYTES, conversation
from tests.fuzz.mutations import cut, mutate
from tests.support.websocket import BINARY, CLOSE, PING, PONG, REQUEST, TEXT

ANSWER_S = 10.0
LIMITS = Limits(message_bytes=MESSAGE_BYTES, fragments=FRAGMENTS, handshake_s=30, close_s=20)

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


async def start() -> Listener:
    return await listen(_accept, "127.0.0.1", 0, LIMITS)


async def talk(rng: random.Random, port: int) -> None:
    """One connection: what it says in pieces, then the end of its side, sometimes a reset instead."""
    said = b"".join(_said(rng))
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(ANSWER_S):
            for piece in cut(rng, said):
                writer.write(piece)
                for _ in range(rng.randrange(3)):
                    await asyncio.sleep(0)
            if rng.randrange(16) == 0:
                return
            if not writer.transport.is_closing():
                writer.write_eof()
            answer = await reader.read()
    except ConnectionError:
        # A peer that goes on after its own close frame is not waited for, and what it sent then resets the connection.
        assert _goes_on_after_close(said), "reset"
        return
    finally:
        writer.transport.abort()
    check(said, answer)


def _said(rng: random.Random) -> tuple[bytes, bytes]:
    if rng.randrange(3):
        return REQUEST, mutate(rng, conversation(rng), FRAME_WORDS)
    head = mutate(rng, rng.choice(HANDSHAKES), HANDSHAKE_WORDS)
    return head, mutate(rng, conversation(rng), FRAME_WORDS) if rng.randrange(2) else b""


def check(said: bytes, answer: bytes) -> None:
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
    assert _status(answer) == 101, answer
    told = list(_frames(answer[answer.index(b"\r\n\r\n") + 4 :]))
    expected, pings = _expected(said[end + 4 :])
    assert [event for event in told if event[0] != PONG] == expected, (told, expected)
    pongs = [payload for opcode, payload in told if opcode == PONG]
    rest = iter(pings)
    assert all(pong in rest for pong in pongs), (pongs, pings)
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


def _frames(data: bytes) -> Iterator[tuple[int, object]]:
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

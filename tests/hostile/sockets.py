"""A WebSocket client that sends whatever it is told to, over a socket that it reads only when asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any

from tests.support.websocket import CLOSE, PING, PONG, TEXT, RawClient, client_frame

ANSWER_S = 15.0

Frame = dict[str, Any]


class Refused(Exception):
    """The handshake was answered with HTTP `status` and this body."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        super().__init__(f"{status} {body[:300]!r}")
        self.status = status
        self.headers = headers
        self.error: Frame = json.loads(body)["error"] if body else {}


class Closed(Exception):
    """The server sent a close frame."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} {reason}")
        self.code = code
        self.reason = reason


class Socket(RawClient):
    """One connection after its handshake. Pings of the server's are answered while `answering`."""

    answering = True

    @classmethod
    async def open(
        cls,
        port: int,
        token: str | None = None,
        *,
        headers: Sequence[tuple[str, str]] = (),
        path: str = "/v1/ws",
        receive_bytes: int | None = None,
    ) -> Socket:
        """A handshake with an access token or API key, or with these headers. Raises `Refused`. `receive_bytes`: how
        much is read ahead here, when nobody reads.
        """
        limit = receive_bytes or 2**20
        client = cls(*await asyncio.open_connection("127.0.0.1", port, limit=limit))
        lines = [f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", "Upgrade: websocket", "Connection: Upgrade"]
        lines += ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEA=="]
        given = [("Authorization", f"Bearer {token}"), *headers] if token is not None else headers
        lines += [f"{name}: {value}" for name, value in given]
        client.send("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n")
        status, got, body = await client.answer(ANSWER_S)
        if status != 101:
            client.reset()
            raise Refused(status, got, body)
        return client

    def tell(self, frame: Frame | str | bytes, opcode: int = TEXT) -> None:
        """Sends one message: a frame, or a payload as it is."""
        payload = json.dumps(frame) if isinstance(frame, dict) else frame
        self.send(client_frame(opcode, payload if isinstance(payload, bytes) else payload.encode()))

    async def next(self, within_s: float = ANSWER_S) -> Frame:
        """The next frame of the protocol but events, which come whenever another device does something: who gets those
        is tested elsewhere. Raises `Closed`.
        """
        while True:
            opcode, payload = await self.frame(within_s)
            if opcode == PING and self.answering:
                self.send(client_frame(PONG, payload))
            elif opcode == CLOSE:
                raise Closed(int.from_bytes(payload[:2], "big"), payload[2:].decode())
            elif opcode == TEXT and (frame := json.loads(payload))["type"] != "event":
                return dict(frame)

    async def first(self, wanted: Callable[[Frame], object], within_s: float = ANSWER_S) -> Frame:
        """The next frame that is wanted; others are dropped. Raises `Closed`."""
        async with asyncio.timeout(within_s):
            while True:
                frame = await self.next(within_s)
                if wanted(frame):
                    return frame

    async def of(self, kind: str, within_s: float = ANSWER_S) -> Frame:
        """The next frame of this type."""
        return await self.first(lambda frame: frame["type"] == kind, within_s)

    async def end(self, within_s: float = ANSWER_S) -> tuple[list[Frame], Closed]:
        """All frames up to the close, and the close."""
        seen: list[Frame] = []
        async with asyncio.timeout(within_s):
            while True:
                try:
                    seen.append(await self.next(within_s))
                except Closed as closed:
                    return seen, closed

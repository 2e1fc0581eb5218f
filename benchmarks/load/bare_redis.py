"""The floor of an admission: the same script with the same arguments over one connection, and nothing around it.

No queue, no timeouts, no reconnecting, no decision: a call is one write, a reply one future.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, cast
from urllib.parse import unquote, urlsplit

import hiredis

from core.limits.redis import Scripts


class BareRedis(asyncio.Protocol):
    """Replies come in the order of the commands; errors are hiredis', and ConnectionError where the server is gone."""

    def __init__(self) -> None:
        self._reader = hiredis.Reader()
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._transport: asyncio.Transport | None = None
        self._sha = b""

    @classmethod
    async def connect(cls, url: str) -> BareRedis:
        """Logged in, and with the script loaded."""
        address = urlsplit(url)
        loop = asyncio.get_running_loop()
        _, client = await loop.create_connection(cls, str(address.hostname), address.port or 6379)
        if address.password:
            await client.execute("AUTH", *filter(None, (address.username, unquote(address.password))))
        client._sha = await client.execute("SCRIPT", "LOAD", Scripts().admit.text)
        return client

    async def admit(self, account: str, turn: str) -> None:
        """As `core.limits.redis` calls it. Raises AssertionError where it was refused."""
        head = f"parley:limits:{{{account}}}:"
        keys = (head + "turns", head + "minute", head + "even", head + "odd")
        reply = await self.execute("EVALSHA", self._sha, 4, *keys, turn, 1, 1_000_000, 1_000_000, 10**12)
        assert reply[0] == 0, f"it was refused: {reply}"

    def execute(self, *words: str | bytes | int) -> asyncio.Future[Any]:
        assert self._transport is not None
        reply = asyncio.get_running_loop().create_future()
        self._waiting.append(reply)
        self._transport.write(hiredis.pack_command(words))  # type: ignore[arg-type] # its stub takes tuples of one
        return reply

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not checked: uvloop's transports are no instances of asyncio's.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            waiting = self._waiting.popleft()
            if waiting.done():
                continue
            if isinstance(reply, Exception):
                waiting.set_exception(reply)
            else:
                waiting.set_result(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_exception(ConnectionError("the connection to Redis was closed"))

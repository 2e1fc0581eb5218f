"""Tickets, login attempts and the revocation channel in Redis."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import hiredis
import msgspec
import redis.exceptions

from core.accounts.model import TICKET_S, Reason, Ticket
from core.auth.opaque import new_secret
from core.errors import Unavailable, Unknown
from core.redis import Redis, Script, open_connection

LOCAL_COUNTERS: Final = 10_000
RECONNECT_S: Final = 1.0
LIFE_S: Final = 5.0
CHANNEL: Final = "parley:revocations"

_MAX_TICKET_CHARS: Final = 64

_TAKE: Final = Script(
    """
local wait = 0
for i, name in ipairs(KEYS) do
    local count = redis.call('INCR', name)
    local left = redis.call('PTTL', name)
    if left < 0 then
        left = tonumber(ARGV[1])
        redis.call('PEXPIRE', name, left)
    end
    if count > tonumber(ARGV[i + 1]) and left > wait then
        wait = left
    end
end
return wait
"""
)

_FORGIVE: Final = Script(
    """
if tonumber(redis.call('GET', KEYS[1]) or 0) > 0 then
    redis.call('DECR', KEYS[1])
end
return 0
"""
)

log = logging.getLogger(__name__)


class RedisTickets:
    """`core.accounts.port.Tickets`. The key is the ticket's hash; `GETDEL` lets exactly one caller have it."""

    def __init__(self, client: Redis) -> None:
        self._client = client

    async def issue(self, ticket: Ticket) -> str:
        text = new_secret()
        payload = msgspec.json.encode(ticket)
        try:
            await self._client.execute("SET", _ticket_key(text), payload, "EX", TICKET_S)
        except (Unavailable, Unknown, redis.exceptions.RedisError) as error:
            raise Unavailable(f"tickets: {error}") from error
        return text

    async def redeem(self, text: str) -> Ticket | None:
        if len(text) > _MAX_TICKET_CHARS:
            return None
        try:
            payload = await self._client.execute("GETDEL", _ticket_key(text))
        except (Unavailable, Unknown, redis.exceptions.RedisError) as error:
            raise Unavailable(f"tickets: {error}") from error
        return msgspec.json.decode(payload, type=Ticket) if payload else None


class RedisAttempts:
    """`core.accounts.port.Attempts`. Without Redis it counts in this process: 10,000 counters, the oldest forgotten."""

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._local: dict[str, tuple[int, float]] = {}

    async def take(self, counters: Mapping[str, int], window_s: int) -> int | None:
        keys = tuple(_attempt_key(name) for name in counters)
        try:
            # One call a counter: the keys of one script must share a slot on a cluster.
            waits = await asyncio.gather(
                *(
                    self._client.run(_TAKE, (key,), (window_s * 1000, limit))
                    for key, limit in zip(keys, counters.values(), strict=True)
                )
            )
        except (Unavailable, Unknown, redis.exceptions.RedisError) as error:
            log.warning("login attempts are counted in this process only: %s", error)
            waits = [self._take_local(key, limit, window_s) for key, limit in zip(keys, counters.values(), strict=True)]
        return max(waits) or None

    async def forgive(self, names: Sequence[str]) -> None:
        keys = [_attempt_key(name) for name in names]
        for key in keys:
            count, ends = self._local.get(key, (0, 0.0))
            if count > 0:
                self._local[key] = (count - 1, ends)
        try:
            await asyncio.gather(*(self._client.run(_FORGIVE, (key,), ()) for key in keys))
        except (Unavailable, Unknown, redis.exceptions.RedisError) as error:
            log.warning("login attempts are not forgiven: %s", error)

    def _take_local(self, key: str, limit: int, window_s: int) -> int:
        now = time.monotonic()
        count, ends = self._local.pop(key, (0, now + window_s))
        if ends <= now:
            count, ends = 0, now + window_s
        self._local[key] = (count + 1, ends)
        if len(self._local) > LOCAL_COUNTERS:
            del self._local[next(iter(self._local))]
        return max(1, int((ends - now) * 1000)) if count + 1 > limit else 0


class RedisRevocations:
    """`core.accounts.port.RevocationChannel` by PUBLISH and one subscription."""

    def __init__(self, client: Redis, url: str, timeout_s: float) -> None:
        self._client = client
        self._url = url
        self._timeout_s = timeout_s

    async def publish(self, user_id: str, subject: str | None, reason: Reason) -> None:
        try:
            await self._client.execute("PUBLISH", CHANNEL, msgspec.json.encode((user_id, subject, reason)))
        except (Unavailable, Unknown, redis.exceptions.RedisError) as error:
            log.warning("a revocation was not announced, polling will find it: %s", error)

    async def listen(self, on_message: Callable[[str, str | None, Reason], None]) -> None:
        while True:
            try:
                await self._subscribe(on_message)
            except (OSError, TimeoutError, redis.exceptions.RedisError) as error:
                log.info("no announcements of revocations for now: %s", error)
            await asyncio.sleep(RECONNECT_S)

    async def _subscribe(self, on_message: Callable[[str, str | None, Reason], None]) -> None:
        """Delivers until the connection fails. A silent one is asked for life, or it could be dead for ever."""
        connection = open_connection(self._url)
        try:
            async with asyncio.timeout(self._timeout_s):
                await connection.connect()  # type: ignore[no-untyped-call]
            await connection.send_packed_command(_packed("SUBSCRIBE", CHANNEL), False)
            alive = True
            while True:
                try:
                    async with asyncio.timeout(LIFE_S):
                        reply = await connection.read_response(disconnect_on_error=False)
                except TimeoutError:
                    if not alive:
                        raise
                    alive = False
                    await connection.send_packed_command(_packed("PING"), False)
                    continue
                alive = True
                if isinstance(reply, list) and reply[0] == b"message":
                    _deliver(reply[2], on_message)
        finally:
            await connection.disconnect(nowait=True)


def _packed(*words: str) -> bytes:
    arguments: Any = words
    packed: bytes = hiredis.pack_command(arguments)
    return packed


def _deliver(payload: bytes, on_message: Callable[[str, str | None, Reason], None]) -> None:
    try:
        user_id, subject, reason = msgspec.json.decode(payload, type=tuple[str, str | None, Reason])
    except msgspec.MsgspecError:
        log.warning("a malformed announcement of a revocation was dropped")
        return
    on_message(user_id, subject, reason)


def _ticket_key(text: str) -> str:
    return "parley:ticket:" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _attempt_key(name: str) -> str:
    """Hashed: names hold addresses and emails, of any length."""
    return "parley:attempts:" + hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()

"""Presence in Redis: a set of gateways for each user, a key with a time to live for each gateway's lease."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Collection
from typing import Any, Final

import redis.exceptions

from core.errors import Unavailable, Unknown
from core.presence.port import KEEP_S, LEASE_S, MAX_WAITING
from core.redis import Redis

RENEW_S: Final = 10.0
AGAIN_S: Final = 8 * 3600.0
RETRY_S: Final = 1.0
# The notes of this long leave together: a call for one costs more CPU than the handshake that caused it, and who has
# just connected has just read everything.
GATHER_S: Final = 0.1
BATCH: Final = 100

_AWAY: Final = (Unavailable, Unknown, redis.exceptions.RedisError)

log = logging.getLogger(__name__)


class RedisPresence:
    """`core.presence.port.Presence`. One task renews the lease and sends the notes, a batch at a time."""

    def __init__(self, client: Redis, gateway: str, lease_s: float = LEASE_S, renew_s: float = RENEW_S) -> None:
        self._client = client
        self._gateway = gateway
        self._lease_ms = int(lease_s * 1000)
        self._renew_s = renew_s
        self._users: Collection[str] = ()
        self._waiting: dict[str, bool] = {}
        self._again: list[str] = []
        self._stale = False
        self._renew_at = self._again_at = 0.0
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self, users: Collection[str]) -> None:
        self._users = users
        self._task = asyncio.create_task(self._run(), name="presence")

    async def stop(self) -> None:
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._task = None
        with contextlib.suppress(*_AWAY):
            await self._client.execute("DEL", _lease(self._gateway))

    def note(self, user: str) -> None:
        self._put(user, True)

    def forget(self, user: str) -> None:
        self._put(user, False)

    async def gateways(self, user: str) -> list[str]:
        try:
            members = await self._client.execute("SMEMBERS", _present(user))
            names = [member.decode() for member in members]
            living = await self._living(names)
            if lapsed := [name for name in names if name not in living]:
                await self._remove(user, lapsed)
        except _AWAY as error:
            raise Unavailable(f"presence: {error}") from error
        return [name for name in names if name in living]

    async def _living(self, names: list[str]) -> set[str]:
        found = await asyncio.gather(*(self._client.execute("EXISTS", _lease(name)) for name in names))
        return {name for name, exists in zip(names, found, strict=True) if exists}

    async def _remove(self, user: str, lapsed: list[str]) -> None:
        await self._client.execute("SREM", _present(user), *lapsed)
        # Whoever took its lease again meanwhile may have noted the user before it was removed here.
        if back := await self._living(lapsed):
            await self._client.execute("SADD", _present(user), *back)

    def _put(self, user: str, here: bool) -> None:
        if len(self._waiting) >= MAX_WAITING and user not in self._waiting:
            self._stale = self._stale or here
            return
        self._waiting[user] = here
        self._woken.set()

    async def _run(self) -> None:
        while True:
            try:
                await self._renew()
                busy = await self._send(self._take())
            except _AWAY as error:
                if self._renew_at:
                    log.warning("presence is away for now, events reach this gateway's users only: %s", error)
                self._stale, self._renew_at = True, 0.0
                await asyncio.sleep(RETRY_S)
                continue
            if not busy:
                await self._rest()

    async def _renew(self) -> None:
        """Keeps the lease; where it was lost, or notes were, all users are to be noted again."""
        now = asyncio.get_running_loop().time()
        if now < self._renew_at:
            return
        before = await self._client.execute("SET", _lease(self._gateway), "", "PX", self._lease_ms, "GET")
        if before is None or self._stale or now >= self._again_at:
            self._stale = False
            self._again = list(self._users)
            self._again_at = now + AGAIN_S
        self._renew_at = now + self._renew_s

    def _take(self) -> dict[str, bool]:
        """The next batch: what is new, then those to be noted again who are still here."""
        batch = dict(itertools.islice(self._waiting.items(), BATCH))
        for user in batch:
            del self._waiting[user]
        while self._again and len(batch) < BATCH:
            user = self._again.pop()
            if user in self._users:
                batch.setdefault(user, True)
        return batch

    async def _send(self, batch: dict[str, bool]) -> bool:
        replies: list[asyncio.Future[Any]] = []
        try:
            for user, here in batch.items():
                key = _present(user)
                replies.append(self._client.send("SADD" if here else "SREM", key, self._gateway))
                if here:
                    replies.append(self._client.send("EXPIRE", key, KEEP_S))
            await asyncio.gather(*replies)
        finally:
            for reply in replies:
                reply.cancel()
        return bool(batch)

    async def _rest(self) -> None:
        self._woken.clear()
        if self._waiting:
            return
        wait_s = self._renew_at - asyncio.get_running_loop().time()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._woken.wait()
            await asyncio.sleep(GATHER_S)


def _present(user: str) -> str:
    return "parley:present:" + user


def _lease(gateway: str) -> str:
    return "parley:gateway:" + gateway

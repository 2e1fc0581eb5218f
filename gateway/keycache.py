"""API keys as this process knows them: read at most every 5 s, and when they were used noted every 30 s."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

import msgspec

from core.accounts.model import ApiKey, Reason, User
from core.accounts.port import Keys
from core.auth.opaque import fingerprint
from core.clock import Clock
from core.errors import ParleyError, Unavailable, Unknown
from gateway.revocations import Revocations

FRESH_S: Final = 5.0
STALE_S: Final = 600.0
CACHED: Final = 10_000
FLUSH_S: Final = 30.0

Found = tuple[ApiKey, User] | None

log = logging.getLogger(__name__)


class _Entry(msgspec.Struct, frozen=True):
    found: Found
    read_at: float


class KeyCache:
    """At most 10,000 keys, the oldest forgotten; unknown ones are remembered as such, too.

    A deleted key is dropped when its revocation is told. While the store is away a key goes on being accepted for 10
    minutes after it was last read; one that is not known here is `unavailable`.
    """

    def __init__(self, keys: Keys, revocations: Revocations, clock: Clock) -> None:
        self._keys = keys
        self._clock = clock
        self._entries: dict[bytes, _Entry] = {}
        self._reads: dict[bytes, asyncio.Task[_Entry]] = {}
        self._used: dict[str, int] = {}
        self._flusher: asyncio.Task[None] | None = None
        revocations.on_revoked(self._on_revoked)

    async def start(self) -> None:
        """Begins to note when keys are used."""
        self._flusher = asyncio.create_task(self._flush_loop(), name="key use")

    async def stop(self) -> None:
        """Notes what is not noted yet, if the store answers. Idempotent."""
        if self._flusher is None:
            return
        self._flusher.cancel()
        await asyncio.gather(self._flusher, *self._reads.values(), return_exceptions=True)
        self._flusher = None
        await self.flush()

    async def find(self, secret: str) -> Found:
        """The key and its owner, who may be suspended. Raises `ParleyError` `unavailable`."""
        digest = fingerprint(secret)
        entry = self._entries.get(digest)
        now = self._clock.monotonic()
        if entry is None or now - entry.read_at > FRESH_S:
            entry = await self._read(digest, entry, now)
        if entry.found is not None:
            self._used[entry.found[0].id] = self._clock.wall_ms()
        return entry.found

    async def flush(self) -> None:
        """Notes uses in the store; what cannot be noted now is lost: it is a hint, not a record."""
        used, self._used = self._used, {}
        if not used:
            return
        try:
            await self._keys.touch_keys(used)
        except (Unavailable, Unknown) as error:
            log.info("when keys were used is not noted this time: %s", error)

    async def _read(self, digest: bytes, known: _Entry | None, now: float) -> _Entry:
        """One read at a time for a key, however many ask."""
        reading = self._reads.get(digest)
        if reading is None:
            reading = self._reads[digest] = asyncio.create_task(self._fetch(digest), name="key lookup")
            reading.add_done_callback(lambda done: self._finish(digest, done))
        try:
            return await asyncio.shield(reading)
        except Unavailable as error:
            if known is not None and known.found is not None and now - known.read_at <= STALE_S:
                return known
            message = "API keys cannot be checked right now; try again."
            raise ParleyError("unavailable", message, retry_after_ms=1000) from error

    async def _fetch(self, digest: bytes) -> _Entry:
        read_at = self._clock.monotonic()
        entry = _Entry(await self._keys.find_key(digest), read_at)
        self._entries.pop(digest, None)
        self._entries[digest] = entry
        if len(self._entries) > CACHED:
            del self._entries[next(iter(self._entries))]
        return entry

    def _finish(self, digest: bytes, done: asyncio.Task[_Entry]) -> None:
        del self._reads[digest]
        if not done.cancelled() and (error := done.exception()) is not None:
            log.warning("an API key could not be looked up: %s", error)

    def _on_revoked(self, user_id: str, subject: str | None, reason: Reason) -> None:
        if reason == "session":
            return
        gone = [
            digest
            for digest, entry in self._entries.items()
            if entry.found and entry.found[1].id == user_id and subject in (None, entry.found[0].id)
        ]
        for digest in gone:
            del self._entries[digest]

    async def _flush_loop(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            await self.flush()

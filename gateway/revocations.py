"""What must no longer be accepted: told at once by a channel, and found by polling where that is lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from core.accounts.model import Reason, Revocation
from core.accounts.port import RevocationChannel, Sessions
from core.clock import Clock
from core.errors import Unavailable

POLL_S: Final = 3.0
OVERLAP_MS: Final = 10_000
PAGE: Final = 1_000
MARGIN_S: Final = 60.0

Callback = Callable[[str, str | None, Reason], None]

log = logging.getLogger(__name__)


def refusal_code(reason: Reason) -> str:
    """The code of the error that a socket is closed with."""
    return "forbidden" if reason == "suspended" else "unauthorized"


class Revocations:
    """Every revocation reaches every process within 4 s, most within milliseconds; a callback may come twice.

    Access tokens are verified without a store, so the subjects of the last `lifetime_s` (a token's life) are
    remembered and asked for by `reason`. While the store and the channel are both away nothing new is learned.
    """

    def __init__(self, sessions: Sessions, channel: RevocationChannel, clock: Clock, lifetime_s: float) -> None:
        self._sessions = sessions
        self._channel = channel
        self._clock = clock
        self._remember_s = lifetime_s + MARGIN_S
        self._callbacks: list[Callback] = []
        self._subjects: dict[str, tuple[Reason, float]] = {}
        self._suspended: dict[str, float] = {}
        self._since_ms: int | None = None
        self._seen: set[Revocation] = set()
        self._tasks: list[asyncio.Task[None]] = []

    def on_revoked(self, callback: Callback) -> None:
        """Calls back `(user_id, subject, reason)` on the loop; `subject` is a session's or key's id, or None for all
        that the user has open. Must not block.
        """
        self._callbacks.append(callback)

    def reason(self, user_id: str, subject: str | None) -> Reason | None:
        """Why a credential is no longer good; None: nothing is known against it."""
        if user_id in self._suspended:
            return "suspended"
        found = self._subjects.get(subject) if subject else None
        return found[0] if found else None

    async def announce(self, user_id: str, subject: str | None, reason: Reason) -> None:
        """Called after a revocation was stored: applies it here and tells the others."""
        self._apply(user_id, subject, reason)
        await self._channel.publish(user_id, subject, reason)

    async def start(self) -> None:
        """Reads what was revoked lately, then keeps up. A store that is away is asked again."""
        await self.catch_up()
        self._tasks = [
            asyncio.create_task(self._poll_loop(), name="revocations poll"),
            asyncio.create_task(self._channel.listen(self._apply), name="revocations channel"),
        ]

    async def stop(self) -> None:
        """Idempotent."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    async def _poll_loop(self) -> None:
        while True:
            await asyncio.sleep(POLL_S)
            await self.catch_up()

    async def catch_up(self) -> None:
        """Reads what is new in the log now. A store that is away is asked again later."""
        try:
            if self._since_ms is None:
                self._since_ms = await self._sessions.now_ms() - int(self._remember_s * 1000)
            fresh = await self._read(self._since_ms)
        except Unavailable as error:
            log.warning("revocations cannot be read for now: %s", error)
            return
        # Of what was said of a user as a whole only the last word counts: suspended and restored is restored.
        last = {row.user_id: row for row in fresh if row.subject is None}
        for row in fresh:
            if row.subject is not None or last[row.user_id] is row:
                self._apply(row.user_id, row.subject, row.reason)
        if fresh:
            self._since_ms = max(self._since_ms, fresh[-1].at_ms - OVERLAP_MS)
            self._seen = {row for row in self._seen if row.at_ms >= self._since_ms}
        self._forget()

    async def _read(self, since_ms: int) -> list[Revocation]:
        """The rows from `since_ms` on that were not seen before, oldest first."""
        fresh: dict[Revocation, None] = {}
        limit = PAGE
        while True:
            page = await self._sessions.revocations(since_ms, limit)
            fresh |= dict.fromkeys(row for row in page if row not in self._seen)
            if len(page) < limit:
                # Only now: pages that were read before one that failed are read again.
                self._seen.update(fresh)
                return list(fresh)
            if page[-1].at_ms == since_ms:
                limit *= 2
            since_ms = page[-1].at_ms

    def _apply(self, user_id: str, subject: str | None, reason: Reason) -> None:
        until = self._clock.monotonic() + self._remember_s
        if reason == "restored":
            self._suspended.pop(user_id, None)
            return
        if subject is None:
            self._suspended[user_id] = until
        else:
            self._subjects[subject] = (reason, until)
        for callback in self._callbacks:
            try:
                callback(user_id, subject, reason)
            except Exception:
                log.exception("a callback on a revocation failed")

    def _forget(self) -> None:
        """What no living token can name any more."""
        now = self._clock.monotonic()
        self._subjects = {key: entry for key, entry in self._subjects.items() if entry[1] > now}
        self._suspended = {user: until for user, until in self._suspended.items() if until > now}

"""Passwords: argon2id, computed off the event loop by a bounded number of threads."""

from __future__ import annotations

import asyncio
import unicodedata
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from core.errors import ParleyError

MIN_CHARS: Final = 8
MAX_CHARS: Final = 256
WAITING_PER_THREAD: Final = 16
RETRY_AFTER_MS: Final = 1_000

T = TypeVar("T")


def check_password(password: str) -> None:
    """Raises `invalid` unless the password may be chosen: 8 to 256 characters, not all the same."""
    if not MIN_CHARS <= len(password) <= MAX_CHARS:
        raise ParleyError("invalid", f"A password has {MIN_CHARS} to {MAX_CHARS} characters.", param="password")
    if len(set(password)) == 1:
        raise ParleyError("invalid", "A password needs more than one character repeated.", param="password")


class Passwords:
    """Hashes and verifies. At most `hashes_at_once` run, at most 16 times as many wait; more are refused.

    A hash takes 46 MiB and some 50 ms of one core. A caller that is cancelled leaves the queue; a hash that has begun
    is finished and dropped.
    """

    def __init__(self, hashes_at_once: int) -> None:
        self._hasher = PasswordHasher(time_cost=1, memory_cost=47_104, parallelism=1)
        self._threads = ThreadPoolExecutor(hashes_at_once, thread_name_prefix="argon2")
        self._limit = hashes_at_once * (1 + WAITING_PER_THREAD)
        self._pending = 0
        self._dummy: str | None = None

    async def hash(self, password: str) -> str:
        """An argon2id hash with its parameters and salt. Raises `overloaded` with `retry_after_ms`."""
        return await self._run(lambda: self._hasher.hash(_bytes(password)))

    async def verify(self, stored: str | None, password: str) -> bool:
        """Whether the password made `stored`. None (no such account) costs the same time and is False."""
        if len(password) > MAX_CHARS:
            stored, password = None, password[:MAX_CHARS]
        if stored is None and self._dummy is None:
            self._dummy = await self.hash("an account that is not there")
        matches = await self._run(lambda: self._verify(stored or self._dummy or "", password))
        return matches and stored is not None

    def outdated(self, stored: str) -> bool:
        """Whether a hash was made with other parameters than today's."""
        return self._hasher.check_needs_rehash(stored)

    def close(self) -> None:
        """Drops what waits and lets running hashes end by themselves."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _verify(self, stored: str, password: str) -> bool:
        try:
            return self._hasher.verify(stored, _bytes(password))
        except (VerificationError, InvalidHashError):
            return False

    async def _run(self, work: Callable[[], T]) -> T:
        if self._pending >= self._limit:
            message = "Too many people are signing in at once; try again."
            raise ParleyError("overloaded", message, retry_after_ms=RETRY_AFTER_MS)
        self._pending += 1
        loop = asyncio.get_running_loop()
        future = self._threads.submit(work)
        future.add_done_callback(lambda done: self._settle(loop, done))
        return await asyncio.wrap_future(future)

    def _settle(self, loop: asyncio.AbstractEventLoop, _: Future[T]) -> None:
        """Counts down on the loop: a slot is free when its thread is, not when its caller has left."""
        if not loop.is_closed():
            loop.call_soon_threadsafe(self._release)

    def _release(self) -> None:
        self._pending -= 1


def _bytes(password: str) -> bytes:
    """NFKC, so that the same characters typed on another keyboard are the same password."""
    return unicodedata.normalize("NFKC", password).encode("utf-8", "surrogatepass")

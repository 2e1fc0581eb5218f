"""Idempotency of stateless calls: a finished answer is kept for 24 h under the caller's key."""

from __future__ import annotations

from typing import Final, Protocol

import msgspec

KEEP_S: Final = 24 * 3600
LEASE_S: Final = 30
MAX_ANSWER_BYTES: Final = 4 * 1024 * 1024


class Begun(msgspec.Struct, frozen=True):
    """The call is this caller's to make; `lease` is what `renew`, `finish` and `abandon` must name."""

    lease: str


class Running(msgspec.Struct, frozen=True):
    """The same call is under way elsewhere; ask again after `retry_after_ms`."""

    retry_after_ms: int


class Finished(msgspec.Struct, frozen=True):
    """The call was made; `answer` is what it was answered with."""

    answer: bytes


class Mismatch(msgspec.Struct, frozen=True):
    """The key was used with another body."""


class Idempotency(Protocol):
    """At most one call runs under `(account, key)`, as long as its caller renews its lease.

    Ordering: calls about one key are linearisable. A lease lapses 30 s after it was made or last renewed, so a caller
    that died blocks nobody for longer; one that lost its lease may still be at work, and its `finish` is ignored.
    Errors: `Unavailable` from all but `abandon`, which never raises: the lease lapses. Cancellation: a cancelled
    `begin` may hold a lease; it lapses. What is not finished is not kept: a failed call may be made again.
    """

    async def begin(self, account: str, key: str, body_hash: str) -> Begun | Running | Finished | Mismatch:
        """Takes the key, or says how it stands."""
        ...

    async def renew(self, account: str, key: str, lease: str) -> bool:
        """Keeps the lease alive. False: it was lost."""
        ...

    async def finish(self, account: str, key: str, lease: str, answer: bytes) -> None:
        """Keeps the answer (≤ 4 MiB, else ValueError) in the lease's place."""
        ...

    async def abandon(self, account: str, key: str, lease: str) -> None:
        """Frees the key: the call failed or was left."""
        ...

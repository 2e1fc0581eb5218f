"""Limits: one atomic call admits a send and reserves what it may cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec


class UserLimits(msgspec.Struct, frozen=True):
    """What one account may do. `tokens_per_day` counts prompt and completion tokens of a UTC day."""

    requests_per_minute: int
    turns_at_once: int
    tokens_per_day: int


class Admission(msgspec.Struct, frozen=True):
    """A reservation was made. `degraded`: by a local bucket at a safe share, because the shared store is away."""

    degraded: bool
    requests_remaining: int
    tokens_remaining: int
    reset_ms: int


class Limits(Protocol):
    """Reservations are named by the turn, so that a duplicate neither takes nor releases one.

    Idempotency: every call may be repeated with the same turn; the effect is that of one. A reservation lapses by
    itself 120 s after it was made or last renewed. Time is the store's, not the caller's. Ordering: settle after
    admit; a settle of an unknown or lapsed reservation still counts its tokens, once. Errors: `admit` raises
    `ParleyError` (`rate_limited` or `quota`, with `retry_after_ms`) when refused and never because the store is away:
    then it falls back to a local bucket, bounded in time. The others raise `Unavailable`. Cancellation: a cancelled
    admit may have reserved; it lapses.
    """

    async def admit(self, account: str, turn: str, tokens: int, limits: UserLimits) -> Admission:
        """Counts a request and reserves `tokens` and one place among the turns at once, all or nothing."""
        ...

    async def renew(self, reservations: Sequence[tuple[str, str]]) -> None:
        """Keeps the reservations `(account, turn)` of running turns alive."""
        ...

    async def settle(self, account: str, turn: str, tokens: int) -> None:
        """Replaces a reservation by what was used; 0 releases it."""
        ...

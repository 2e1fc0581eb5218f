"""The ledger: append-only entries of what each provider attempt cost and who pays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import msgspec

from core.model import TurnKey, Usage

Purpose = Literal["answer", "title", "summary", "embedding", "probe"]
Payer = Literal["user", "platform"]

REVISION_OPENED = 0
REVISION_ESTIMATE = 1
REVISION_ROUTER = 2
REVISION_RECONCILE = 3


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One revision of one attempt (`attempt` = run + "." + number within the run). The highest revision counts.

    Revisions are made by role: 0 opened, 1 estimate, 2 router, 3 reconcile, so two writers never make the same one
    with different content. `cost` in nano-USD at `price_version`. `charged_to` is "user" only from the stored end that
    names this attempt. `outcome`: "opened", or how the attempt closed: an end's kind, or "error" / "superseded" /
    "lost".
    """

    attempt: str
    revision: int
    at_ms: int
    key: TurnKey
    account: str
    epoch: int
    purpose: Purpose
    charged_to: Payer
    model: str
    provider: str
    price_version: int
    outcome: str
    usage: Usage | None = None
    cost: int = 0


class Total(msgspec.Struct, frozen=True, kw_only=True):
    """A sum over the highest revisions."""

    charged_to: Payer
    attempts: int
    prompt_tokens: int
    completion_tokens: int
    cost: int


class Ledger(Protocol):
    """Append-only: an entry once stored is never changed or removed.

    Ordering: none needed; the highest revision of an attempt counts. Idempotency: an entry whose (attempt, revision)
    is stored already is ignored. Errors: `Unavailable` (nothing stored) or `Unknown`; repeat the same batch.
    Cancellation: a batch is stored whole or not at all.
    """

    async def append(self, entries: Sequence[Entry]) -> int:
        """Stores a batch (≤ 10,000 entries) in one transaction; returns how many were new.

        Raises ValueError, and stores nothing, where an entry is not one that can be stored (a negative cost).
        """
        ...

    async def attempts_of(self, key: TurnKey) -> list[Entry]:
        """The highest revision of every attempt of a turn, by attempt."""
        ...

    async def totals(self, account: str | None, since_ms: int, until_ms: int) -> list[Total]:
        """Sums by payer over attempts opened in [since, until), for one account or for all."""
        ...

    async def open_attempts(self, before_ms: int, limit: int) -> list[Entry]:
        """Attempts whose highest revision is 0 and that are older than `before_ms`: calls whose cost is not known."""
        ...

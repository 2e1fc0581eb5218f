"""The catalog: which models there are, who serves them, what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from core.config import Model as Seed


class Route(msgspec.Struct, frozen=True):
    """One place that serves a model: the provider's name in the configuration, and its own name for the model."""

    provider: str
    model: str


class Price(msgspec.Struct, frozen=True):
    """Nano-USD per token. A version of an alias never changes."""

    version: int
    input_nano: int
    output_nano: int


class CatalogModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model under the name that clients use. `routes` in the order in which they are tried.

    `context_window` and `max_output` in tokens. `price` is the one for turns that are admitted now.
    """

    alias: str
    routes: tuple[Route, ...]
    context_window: int
    max_output: int
    system_prompt: str
    capabilities: tuple[str, ...]
    price: Price


class Catalog(Protocol):
    """Read through a cache of the process that is at most 10 s old while the store answers.

    Ordering: none; a change is seen within 10 s everywhere. Errors: reads serve what was read last, however old,
    while the store is away, and raise `Unavailable` only where there is nothing to serve; `seed` raises `Unavailable`
    (nothing changed) or `Unknown` (repeat it). Cancellation: safe; `seed` is applied whole or not at all.
    """

    async def seed(self, models: Sequence[Seed]) -> int:
        """Makes the store agree with the configuration; returns how many models changed.

        Idempotent, also from several processes at once. A new price makes a new version, an unchanged one none. Models
        of an earlier configuration that this one no longer names are disabled; an empty configuration changes nothing.
        """
        ...

    async def models(self) -> tuple[CatalogModel, ...]:
        """All enabled models, in their order."""
        ...

    async def model(self, alias: str) -> CatalogModel | None:
        """An enabled model."""
        ...

    async def price(self, alias: str, version: int) -> Price | None:
        """A price of any version, the model enabled or not: what a turn admitted at that version costs."""
        ...

    async def close(self) -> None:
        """Ends a read that is under way. Idempotent."""
        ...

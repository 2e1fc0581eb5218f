"""What the provider attempts of one run cost: their names, their usage, their ledger entries."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from core.ledger.port import REVISION_OPENED, REVISION_ROUTER, Entry, Payer
from core.model import Turn, Usage
from core.providers.port import Usage as ProviderUsage


class RouteRef(msgspec.Struct, frozen=True):
    """A way to a model: which provider, under which name."""

    provider: str
    model: str


class Plan(msgspec.Struct, frozen=True):
    """What the shell prepared: routes in order, the prompt's size, and how text is counted and usage priced
    (nano-USD).
    """

    routes: tuple[RouteRef, ...]
    prompt_tokens: int
    count: Callable[[str], int]
    price: Callable[[Usage], int]


class Attempts:
    """The attempts of one run, numbered from 1; `usage` is what the provider said of the current one. `settled`: the
    router's last word on it was said.
    """

    __slots__ = ("number", "opened_ms", "plan", "route", "row", "settled", "usage")

    def __init__(self) -> None:
        self.number = 0
        self.settled = True
        self.opened_ms = 0
        self.plan: Plan | None = None
        self.route = 0
        self.row: Turn | None = None
        self.usage: ProviderUsage | None = None

    def open(self, now_ms: int) -> Entry:
        """Starts the next attempt; its first ledger entry."""
        self.number += 1
        self.settled = False
        self.opened_ms = now_ms
        self.usage = None
        return self._entry(REVISION_OPENED, "opened", "platform", None)

    def closed(self, outcome: str, payer: Payer, text: str) -> Entry:
        """The router's last word on the current attempt, whose text so far is `text`. Said once."""
        self.settled = True
        return self._entry(REVISION_ROUTER, outcome, payer, self.metered(text))

    @property
    def name(self) -> str:
        return f"{self.row.run}.{self.number}" if self.row else ""

    @property
    def another_route(self) -> bool:
        return self.plan is not None and self.route + 1 < len(self.plan.routes)

    @property
    def current_route(self) -> RouteRef | None:
        return self.plan.routes[self.route] if self.plan and self.plan.routes else None

    def metered(self, text: str) -> Usage:
        """The provider's usage, or where it gave none an estimate that says so."""
        told = self.usage
        if told is not None:
            return Usage(
                prompt_tokens=told.prompt_tokens,
                completion_tokens=told.completion_tokens,
                cached_tokens=told.cached_tokens,
                reasoning_tokens=told.reasoning_tokens,
            )
        if self.plan is None:
            return Usage(0, 0, estimated=True)
        return Usage(self.plan.prompt_tokens, self.plan.count(text) if text else 0, estimated=True)

    def cost(self, usage: Usage) -> int:
        """Nano-USD."""
        return self.plan.price(usage) if self.plan else 0

    def _entry(self, revision: int, outcome: str, payer: Payer, usage: Usage | None) -> Entry:
        assert self.row is not None
        route = self.current_route
        return Entry(
            attempt=self.name,
            revision=revision,
            at_ms=self.opened_ms,
            key=self.row.key,
            account=self.row.opened.owner,
            epoch=self.row.epoch,
            purpose="answer",
            charged_to=payer,
            model=self.row.opened.model,
            provider=route.provider if route else "",
            price_version=self.row.opened.price_version,
            outcome=outcome,
            usage=usage,
            cost=self.cost(usage) if usage else 0,
        )

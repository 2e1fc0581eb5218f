"""Before a provider is called: the row and its context read together, the routes, what tokens cost."""

from __future__ import annotations

from functools import partial

import msgspec

from core import metering
from core.catalog.port import Catalog
from core.config import Config, Provider
from core.context import Context, ContextTooLong, assemble
from core.history.port import History
from core.model import Turn, TurnKey, Usage
from workers.router.attempts import Plan, RouteRef

CHARS_PER_TOKEN = 8


class NotAnswerable(Exception):
    """There is no way to answer this turn; it fails with `code` and `message`."""

    def __init__(self, row: Turn | None, code: str, message: str) -> None:
        super().__init__(message)
        self.row = row
        self.code = code
        self.message = message


class Prepared(msgspec.Struct, frozen=True):
    """All that a turn's attempts need. `settings[n]` are those of the provider of route `n`."""

    row: Turn
    context: Context
    plan: Plan
    settings: tuple[Provider, ...]


class Planner:
    """Reads history and catalog. Errors: `Unavailable`, `NotAnswerable`."""

    def __init__(self, history: History, catalog: Catalog, config: Config) -> None:
        self._history = history
        self._catalog = catalog
        self._providers = {provider.name: provider for provider in config.providers}
        self._window = max((model.context_window for model in config.models), default=8192)

    async def prepare(self, key: TurnKey) -> Prepared:
        """Row and context of one read, fitted into the model's window."""
        found = await self._history.path(key, self._window * CHARS_PER_TOKEN)
        if found is None:
            raise NotAnswerable(None, "not_found", "The turn is gone.")
        row, path = found
        opened = row.opened
        model = await self._catalog.model(opened.model)
        price = await self._catalog.price(opened.model, opened.price_version)
        if model is None or price is None:
            raise NotAnswerable(row, "invalid", f"The model {opened.model!r} is not served any more.")
        routes = tuple(route for route in model.routes if route.provider in self._providers)
        if not routes:
            raise NotAnswerable(row, "unavailable", f"No provider of {opened.model!r} is configured here.")
        count = metering.estimate_tokens
        try:
            context = assemble(path, model.system_prompt, model.context_window, opened.max_tokens, count)
        except ContextTooLong as error:
            raise NotAnswerable(row, "context_too_long", f"The message does not fit: {error}.") from error
        plan = Plan(
            routes=tuple(RouteRef(route.provider, route.model) for route in routes),
            prompt_tokens=context.prompt_tokens,
            count=count,
            price=partial(_price, price.input_nano, price.output_nano),
        )
        return Prepared(row, context, plan, tuple(self._providers[route.provider] for route in routes))


def _price(input_nano: int, output_nano: int, usage: Usage) -> int:
    return metering.price(usage, input_nano, output_nano)

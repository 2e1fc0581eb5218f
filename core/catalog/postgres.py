"""The catalog in PostgreSQL, tables of `core/schema/0102_catalog.sql`."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Sequence
from typing import Final

import asyncpg
import msgspec

from core.catalog.port import CatalogModel, Price, Route
from core.clock import Clock
from core.config import Model as Seed
from core.errors import Unavailable
from core.postgres import Pool
from core.sql import Connection, Database

REFRESH_S: Final = 5.0
STALE_S: Final = 10.0
RETRY_S: Final = 1.0
PRICES_CACHED: Final = 4096
CAPABILITIES: Final = ["chat", "streaming"]

_SEED_LOCK: Final = 0x7061726C657901

log = logging.getLogger(__name__)


class PostgresCatalog:
    """`core.catalog.port.Catalog` over a pool that the caller opens and closes."""

    def __init__(self, pool: Pool, timeout_s: float, clock: Clock) -> None:
        self._database = Database(pool, timeout_s)
        self._clock = clock
        self._models: dict[str, CatalogModel] | None = None
        self._read_at = 0.0
        self._failed_at: float | None = None
        self._refreshing: asyncio.Task[dict[str, CatalogModel]] | None = None
        self._prices: dict[tuple[str, int], Price] = {}

    async def seed(self, models: Sequence[Seed]) -> int:
        if not models:
            return 0
        async with self._database.writing() as connection:
            await connection.execute("SELECT pg_advisory_xact_lock($1)", _SEED_LOCK)
            changed = 0
            for position, model in enumerate(models):
                changed += await _seed_model(connection, position, model)
            gone = await connection.fetch(
                "UPDATE models SET enabled = false WHERE seeded AND enabled AND alias <> ALL ($1::text[]) RETURNING 1",
                [model.alias for model in models],
            )
        self._read_at = -math.inf
        return changed + len(gone)

    async def models(self) -> tuple[CatalogModel, ...]:
        return tuple((await self._current()).values())

    async def model(self, alias: str) -> CatalogModel | None:
        return (await self._current()).get(alias)

    async def price(self, alias: str, version: int) -> Price | None:
        known = self._prices.get((alias, version))
        if known is not None:
            return known
        async with self._database.reading() as connection:
            row = await connection.fetchrow(
                "SELECT version, input_nano, output_nano FROM model_prices WHERE alias = $1 AND version = $2",
                alias,
                version,
            )
        return self._remember(alias, Price(**row)) if row else None

    async def close(self) -> None:
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.wait([self._refreshing])

    def _remember(self, alias: str, price: Price) -> Price:
        self._prices[alias, price.version] = price
        if len(self._prices) > PRICES_CACHED:
            del self._prices[next(iter(self._prices))]
        return price

    async def _current(self) -> dict[str, CatalogModel]:
        """What was read last. Up to 5 s old as it is, up to 10 s while it is read again, older only if that fails."""
        known, now = self._models, self._clock.monotonic()
        if known is None:
            return await asyncio.shield(self._refresh())
        age = now - self._read_at
        if age <= REFRESH_S or (self._failed_at is not None and now - self._failed_at < RETRY_S):
            return known
        refresh = self._refresh()
        if age <= STALE_S:
            return known
        try:
            return await asyncio.shield(refresh)
        except Unavailable:
            return known

    def _refresh(self) -> asyncio.Task[dict[str, CatalogModel]]:
        """The one read that is under way."""
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.create_task(self._read(), name="catalog refresh")
            self._refreshing.add_done_callback(_observe)
        return self._refreshing

    async def _read(self) -> dict[str, CatalogModel]:
        try:
            async with self._database.reading() as connection:
                rows = await connection.fetch(
                    """
                    SELECT m.*, p.input_nano, p.output_nano
                    FROM models m JOIN model_prices p ON p.alias = m.alias AND p.version = m.price_version
                    WHERE m.enabled ORDER BY m.position, m.alias
                    """
                )
        except Unavailable:
            self._failed_at = self._clock.monotonic()
            raise
        found = {row["alias"]: _to_model(row) for row in rows}
        for model in found.values():
            self._remember(model.alias, model.price)
        self._models, self._read_at, self._failed_at = found, self._clock.monotonic(), None
        return found


def _observe(refresh: asyncio.Task[dict[str, CatalogModel]]) -> None:
    if not refresh.cancelled() and (error := refresh.exception()) is not None:
        log.warning("the catalog could not be read: %s", error)


def _to_model(row: asyncpg.Record) -> CatalogModel:
    return CatalogModel(
        alias=row["alias"],
        routes=msgspec.json.decode(row["routes"], type=tuple[Route, ...]),
        context_window=row["context_window"],
        max_output=row["max_output"],
        system_prompt=row["system_prompt"],
        capabilities=tuple(row["capabilities"]),
        price=Price(row["price_version"], row["input_nano"], row["output_nano"]),
    )


async def _seed_model(connection: Connection, position: int, model: Seed) -> bool:
    """Writes one model inside the caller's transaction; True where that changed something."""
    price = await connection.fetchrow(
        "SELECT version, input_nano, output_nano FROM model_prices WHERE alias = $1 ORDER BY version DESC LIMIT 1",
        model.alias,
    )
    version = price["version"] if price else 0
    new_price = price is None or (price["input_nano"], price["output_nano"]) != (model.input_price, model.output_price)
    if new_price:
        version += 1
        await connection.execute(
            "INSERT INTO model_prices (alias, version, input_nano, output_nano) VALUES ($1, $2, $3, $4)",
            model.alias,
            version,
            model.input_price,
            model.output_price,
        )
    written = await connection.fetchval(
        """
        INSERT INTO models AS m (alias, position, enabled, seeded, routes, context_window, max_output, system_prompt,
                                 capabilities, price_version)
        VALUES ($1, $2, true, true, $3::jsonb, $4, $5, $6, $7::text[], $8)
        ON CONFLICT (alias) DO UPDATE SET
            position = $2, enabled = true, seeded = true, routes = $3::jsonb, context_window = $4, max_output = $5,
            system_prompt = $6, capabilities = $7::text[], price_version = $8
        WHERE (m.position, m.enabled, m.seeded, m.routes, m.context_window, m.max_output, m.system_prompt,
               m.capabilities, m.price_version)
              IS DISTINCT FROM ($2, true, true, $3::jsonb, $4, $5, $6, $7::text[], $8)
        RETURNING true
        """,
        model.alias,
        position,
        msgspec.json.encode(model.routes).decode(),
        model.context_window,
        model.max_output,
        model.system_prompt,
        CAPABILITIES,
        version,
    )
    return new_price or bool(written)

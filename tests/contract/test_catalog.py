"""The contract of `core.catalog.port.Catalog`, held by PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from core.catalog.port import Price, Route
from core.catalog.postgres import REFRESH_S, RETRY_S, STALE_S, PostgresCatalog
from core.config import Model
from core.config import Route as ConfiguredRoute
from core.errors import Unavailable
from core.postgres import Pool, open_pool
from tests.support.clock import ManualClock
from tests.support.polling import eventually
from tests.support.postgres import PostgresServer

SMALL = Model(
    alias="small",
    routes=(ConfiguredRoute(provider="a", model="a-1"), ConfiguredRoute(provider="b", model="b-1")),
    context_window=2048,
    max_output=512,
    input_price=10,
    output_price=30,
    system_prompt="Be brief.",
)
LARGE = msgspec.structs.replace(SMALL, alias="large", input_price=100)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def pool(shared_dsn: str) -> AsyncIterator[Pool]:
    pool = await open_pool(shared_dsn, 4)
    await pool.execute("TRUNCATE models, model_prices CASCADE")
    yield pool
    pool.terminate()


@pytest.fixture
async def catalog(pool: Pool, clock: ManualClock) -> AsyncIterator[PostgresCatalog]:
    catalog = PostgresCatalog(pool, 2.0, clock)
    yield catalog
    await catalog.close()


async def test_what_is_seeded_is_read_in_its_order(catalog: PostgresCatalog) -> None:
    assert await catalog.models() == ()
    assert await catalog.seed([SMALL, LARGE]) == 2
    assert [model.alias for model in await catalog.models()] == ["small", "large"]
    small = await catalog.model("small")
    assert small is not None
    assert small.routes == (Route("a", "a-1"), Route("b", "b-1"))
    assert (small.context_window, small.max_output, small.system_prompt) == (2048, 512, "Be brief.")
    assert small.price == Price(1, 10, 30)
    assert await catalog.model("absent") is None


async def test_seeding_again_changes_nothing_also_at_once(catalog: PostgresCatalog) -> None:
    changed = await asyncio.gather(*(catalog.seed([SMALL, LARGE]) for _ in range(6)))
    assert sorted(changed) == [0, 0, 0, 0, 0, 2]
    small = await catalog.model("small")
    assert small is not None
    assert small.price.version == 1


async def test_a_new_price_is_a_new_version_and_the_old_one_stays(catalog: PostgresCatalog) -> None:
    await catalog.seed([SMALL])
    assert await catalog.seed([msgspec.structs.replace(SMALL, input_price=20)]) == 1
    small = await catalog.model("small")
    assert small is not None
    assert small.price == Price(2, 20, 30)
    assert await catalog.price("small", 1) == Price(1, 10, 30)
    assert await catalog.price("small", 2) == Price(2, 20, 30)
    assert await catalog.price("small", 3) is None


async def test_another_change_makes_no_price_version(catalog: PostgresCatalog) -> None:
    await catalog.seed([SMALL])
    assert await catalog.seed([msgspec.structs.replace(SMALL, context_window=4096)]) == 1
    small = await catalog.model("small")
    assert small is not None
    assert (small.context_window, small.price.version) == (4096, 1)


async def test_what_the_configuration_drops_is_disabled_and_keeps_its_prices(catalog: PostgresCatalog) -> None:
    await catalog.seed([SMALL, LARGE])
    assert await catalog.seed([]) == 0
    assert await catalog.seed([LARGE]) == 2
    assert [model.alias for model in await catalog.models()] == ["large"]
    assert await catalog.price("small", 1) == Price(1, 10, 30)
    assert await catalog.seed([LARGE, SMALL]) == 1
    assert [model.alias for model in await catalog.models()] == ["large", "small"]


async def test_a_change_elsewhere_is_seen_within_ten_seconds(
    catalog: PostgresCatalog, pool: Pool, clock: ManualClock
) -> None:
    await catalog.seed([SMALL])
    await catalog.models()
    await PostgresCatalog(pool, 2.0, clock).seed([SMALL, LARGE])
    clock.advance(REFRESH_S)
    assert len(await catalog.models()) == 1
    clock.advance(STALE_S - REFRESH_S + 0.1)
    assert len(await catalog.models()) == 2


async def test_between_five_and_ten_seconds_nobody_waits(
    catalog: PostgresCatalog, pool: Pool, clock: ManualClock
) -> None:
    await catalog.seed([SMALL])
    await catalog.models()
    await PostgresCatalog(pool, 2.0, clock).seed([SMALL, LARGE])
    clock.advance(REFRESH_S + 0.1)
    assert len(await catalog.models()) == 1
    await eventually(lambda: _count(catalog, 2))


async def test_what_was_read_is_served_while_the_store_is_away(
    catalog: PostgresCatalog, postgres_server: PostgresServer, pool: Pool, clock: ManualClock
) -> None:
    await catalog.seed([SMALL])
    before = await catalog.models()
    postgres_server.stop()
    try:
        clock.advance(3600)
        assert await catalog.models() == before
        assert await catalog.price("small", 1) == Price(1, 10, 30)
        with pytest.raises(Unavailable):
            await catalog.price("small", 9)
        with pytest.raises(Unavailable):
            await PostgresCatalog(pool, 2.0, clock).models()
    finally:
        postgres_server.start()
    await PostgresCatalog(pool, 2.0, clock).seed([SMALL, LARGE])
    clock.advance(RETRY_S)
    assert len(await catalog.models()) == 2


async def _count(catalog: PostgresCatalog, count: int) -> bool:
    return len(await catalog.models()) == count

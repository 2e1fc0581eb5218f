"""Before a provider is called: context, routes and prices, or a clear reason why there is no way to answer."""

from __future__ import annotations

from typing import cast

import pytest

from core.catalog.port import Catalog, CatalogModel, Price, Route
from core.config import Config, Model, Provider
from core.errors import Unavailable
from core.history.port import History, PathTurn
from core.metering import estimate_tokens
from core.model import Turn, TurnKey, Usage
from tests.support.turns import new_id, new_turn
from workers.router.attempts import RouteRef
from workers.router.planner import NotAnswerable, Planner

OPENED = new_turn(new_id(), content="a question", model="small", price_version=2, max_tokens=64)
ROW = Turn(opened=OPENED, epoch=0, run=OPENED.run, since_ms=0)
NEAR = Provider(name="near", base_url="http://near/v1")
FAR = Provider(name="far", base_url="http://far/v1", idle_s=5.0)


class MemoryHistory:
    def __init__(self) -> None:
        self.found: tuple[Turn, list[PathTurn]] | None = (ROW, [PathTurn(ROW, OPENED.content, "")])
        self.max_chars = 0
        self.away = False

    async def path(self, key: TurnKey, max_chars: int) -> tuple[Turn, list[PathTurn]] | None:
        if self.away:
            raise Unavailable("history is away")
        assert key == OPENED.key
        self.max_chars = max_chars
        return self.found


class MemoryCatalog:
    def __init__(self) -> None:
        self.routes: tuple[Route, ...] = (Route("gone", "g"), Route("far", "huge"), Route("near", "tiny"))
        self.known = True
        self.prices = {1: Price(1, 1, 1), 2: Price(2, 100, 300)}

    async def model(self, alias: str) -> CatalogModel | None:
        assert alias == "small"
        model = CatalogModel(
            alias=alias,
            routes=self.routes,
            context_window=1_000,
            max_output=200,
            system_prompt="be brief",
            capabilities=(),
            price=Price(3, 7, 7),
        )
        return model if self.known else None

    async def price(self, alias: str, version: int) -> Price | None:
        return self.prices.get(version)


class Bench:
    def __init__(self) -> None:
        self.history, self.catalog = MemoryHistory(), MemoryCatalog()
        model = Model(alias="small", routes=(), context_window=1_000, max_output=200)
        config = Config(providers=(NEAR, FAR), models=(model,))
        self.planner = Planner(cast(History, self.history), cast(Catalog, self.catalog), config)

    async def refusal(self) -> NotAnswerable:
        with pytest.raises(NotAnswerable) as caught:
            await self.planner.prepare(OPENED.key)
        return caught.value


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_context_routes_and_settings_of_one_read(bench: Bench) -> None:
    prepared = await bench.planner.prepare(OPENED.key)
    assert prepared.row == ROW
    assert [message.role for message in prepared.context.messages] == ["system", "user"]
    assert prepared.plan.routes == (RouteRef("far", "huge"), RouteRef("near", "tiny"))
    assert prepared.settings == (FAR, NEAR)
    assert prepared.plan.prompt_tokens == prepared.context.prompt_tokens > 0
    assert prepared.plan.count("twelve bytes") == estimate_tokens("twelve bytes")


async def test_the_price_is_the_one_that_the_turn_was_admitted_at(bench: Bench) -> None:
    prepared = await bench.planner.prepare(OPENED.key)
    assert prepared.plan.price(Usage(10, 3)) == 10 * 100 + 3 * 300


async def test_history_is_read_as_far_as_the_window_can_hold(bench: Bench) -> None:
    await bench.planner.prepare(OPENED.key)
    assert 1_000 < bench.history.max_chars < 100_000


async def test_a_turn_that_is_gone(bench: Bench) -> None:
    bench.history.found = None
    refusal = await bench.refusal()
    assert (refusal.code, refusal.row) == ("not_found", None)


async def test_a_model_or_a_price_that_is_not_there(bench: Bench) -> None:
    bench.catalog.known = False
    refusal = await bench.refusal()
    assert (refusal.code, refusal.row) == ("invalid", ROW)
    assert "small" in refusal.message
    bench.catalog.known, bench.catalog.prices = True, {}
    assert (await bench.refusal()).code == "invalid"


async def test_a_model_that_no_provider_here_serves(bench: Bench) -> None:
    bench.catalog.routes = (Route("gone", "g"),)
    refusal = await bench.refusal()
    assert (refusal.code, refusal.row) == ("unavailable", ROW)


async def test_a_message_that_does_not_fit(bench: Bench) -> None:
    bench.history.found = (ROW, [PathTurn(ROW, "x" * 10_000, "")])
    refusal = await bench.refusal()
    assert (refusal.code, refusal.row) == ("context_too_long", ROW)


async def test_a_history_that_is_away_is_no_reason_to_fail_the_turn(bench: Bench) -> None:
    bench.history.away = True
    with pytest.raises(Unavailable):
        await bench.planner.prepare(OPENED.key)

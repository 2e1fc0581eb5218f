"""Several listeners of one process: what bounds the process bounds them together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from ext.ws import Accept, Budget, Hops, Limits, Listener, Refuse, Request, listen
from tests.support.polling import eventually
from tests.support.websocket import REQUEST, Echo, Site

pytestmark = pytest.mark.usefixtures("quiet")


def accept(request: Request) -> Accept | Refuse:
    return Accept(Echo())


async def started(limits: Limits, budget: Budget | None) -> Site:
    return Site(await listen(accept, "127.0.0.1", 0, limits, budget=budget), [])


@asynccontextmanager
async def two(shared: bool = True, **values: Any) -> AsyncIterator[list[Site]]:
    limits = Limits(**values)
    budget = Budget(limits, Hops()) if shared else None
    sites = [await started(limits, budget) for _ in range(2)]
    yield sites
    for site in sites:
        await site.stop()


async def statuses(sites: list[Site], each: int) -> list[int]:
    return [(await (await site.connect(REQUEST)).answer())[0] for site in sites for _ in range(each)]


LIMITS = [
    ({"connections": 5}, 503),
    ({"connections_per_address": 5}, 429),
    ({"handshakes_per_s": 0.001, "handshakes_at_once": 5}, 503),
]


@pytest.mark.parametrize(("limits", "refusal"), LIMITS)
async def test_listeners_with_one_budget_admit_no_more_than_one(limits: dict[str, Any], refusal: int) -> None:
    async with two(**limits) as sites:
        assert await statuses(sites, 4) == [101] * 5 + [refusal] * 3


@pytest.mark.parametrize(("limits", "refusal"), LIMITS)
async def test_listeners_without_one_have_their_own(limits: dict[str, Any], refusal: int) -> None:
    async with two(shared=False, **limits) as sites:
        assert await statuses(sites, 6) == ([101] * 5 + [refusal]) * 2


@pytest.mark.parametrize("limit", ["connections", "connections_per_address"])
async def test_a_place_that_one_gives_back_the_other_may_give(limit: str) -> None:
    async with two(**{limit: 2}) as sites:
        one, other = sites
        first = await one.open()
        await other.open()
        assert await statuses(sites, 1) == [429 if "address" in limit else 503] * 2
        first.reset()
        await eventually(lambda: one.listener.connections == 0)
        await other.open()
        assert _counts(one.listener, other.listener) == [0, 2]


def _counts(*listeners: Listener) -> list[int]:
    return [listener.connections for listener in listeners]

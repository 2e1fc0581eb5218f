"""Both event loops under every test of the listener, and a site to connect to."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Any

import pytest
import uvloop

from ext.ws import Limits
from tests.support.websocket import Echo, Recorder, Site

StartSite = Callable[..., Awaitable[Site]]


def pytest_asyncio_loop_factories(config: Any, item: Any) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


@pytest.fixture
async def start_site() -> AsyncIterator[StartSite]:
    """`await start_site(handler class, **limits)`; stopped, with all its connections, after the test."""
    sites: list[Site] = []

    async def start(handler: type[Recorder] = Echo, subprotocol: str | None = None, **limits: Any) -> Site:
        sites.append(await Site.start(handler, Limits(**limits), subprotocol))
        return sites[-1]

    yield start
    for site in sites:
        await site.stop()


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing of this test may be logged as a warning or worse, by the listener or by asyncio."""
    with caplog.at_level(logging.WARNING):
        yield
    assert [record.getMessage() for record in caplog.records] == []

"""A process's metrics in Prometheus' text format, on its admin port."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

log = logging.getLogger(__name__)


@asynccontextmanager
async def serve_metrics(host: str, port: int, gauges: Callable[[], Mapping[str, float]]) -> AsyncIterator[int]:
    """Serves `GET /metrics` while the context lives; yields the port. `port` 0: any free one."""
    registry = CollectorRegistry()
    known: dict[str, Gauge] = {}

    async def metrics(_: web.Request) -> web.Response:
        for name, value in gauges().items():
            if name not in known:
                known[name] = Gauge(f"parley_{name}", name.replace("_", " "), registry=registry)
            known[name].set(value)
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        bound: int = runner.addresses[0][1]
        log.info("metrics on %s:%d", host, bound)
        yield bound
    finally:
        await runner.cleanup()

"""Runs one worker process until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable
from typing import Final

import uvloop

from core.compose import Composition
from core.config import Config
from core.errors import Unavailable
from core.ids import new_process_id
from core.memory import settle
from core.metrics import serve_metrics
from core.spool import Spool
from workers.janitor import Janitor
from workers.ledger import run_ledger
from workers.router.planner import Planner
from workers.router.recorder import KeptEnd, SpoolingRecorder
from workers.router.service import RouterService

ENDS_SPOOL_BYTES: Final = 256 * 1024 * 1024

log = logging.getLogger(__name__)


async def _router(parts: Composition, stop: asyncio.Event) -> None:
    config = parts.config
    name = new_process_id("rt")
    history, limits, catalog = await parts.history(), await parts.limits(), await parts.catalog()
    bus = await parts.bus(name)
    ends: Spool[KeptEnd] = await parts.spool("ends", KeptEnd, ENDS_SPOOL_BYTES)
    recorder = SpoolingRecorder(await parts.recorder(name), history, ends)
    planner = Planner(history, catalog, config)
    service = RouterService(name, bus, history, limits, planner, parts.providers(), recorder, parts.clock, config)
    async with serve_metrics(config.router.admin_host, config.router.admin_port, service.gauges):
        await recorder.start()
        await service.start()
        settle()
        log.info("router %s takes turns of %s.%s", name, config.zone, config.pool)
        await stop.wait()
        await service.drain(config.router.drain_s)
        await recorder.stop()


async def _ledger(parts: Composition, stop: asyncio.Event) -> None:
    config = parts.config.router
    usage, ledger, limits = await parts.usage(new_process_id("ledger")), await parts.ledger(), await parts.limits()
    async with serve_metrics(config.admin_host, config.admin_port, dict):
        await run_ledger(usage, ledger, limits, stop)


async def _janitor(parts: Composition, stop: asyncio.Event) -> None:
    name = new_process_id("jan")
    history, limits, accounts = await parts.history(), await parts.limits(), await parts.accounts()
    bus, usage = await parts.bus(name), await parts.usage(name)
    janitor = Janitor(name, bus, history, usage, limits, accounts, parts.clock)
    async with serve_metrics(parts.config.router.admin_host, parts.config.router.admin_port, dict):
        await janitor.run(stop)


WORKERS: Final[dict[str, Callable[[Composition, asyncio.Event], Awaitable[None]]]] = {
    "router": _router,
    "ledger": _ledger,
    "janitor": _janitor,
}


async def _main(name: str, config: Config) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        async with Composition(config) as parts:
            await WORKERS[name](parts, stop)
    except Unavailable as error:
        log.error("%s cannot start: %s", name, error)
        return 1
    return 0


def run(name: str, config: Config) -> int:
    """Runs the worker `name` to its end; returns the exit status. The first signal drains."""
    return uvloop.run(_main(name, config))

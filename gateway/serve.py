"""Runs the gateway's ASGI application under Granian, on the port that all gateways share and on one of its own."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import uvloop
from granian.constants import Interfaces
from granian.log import LogLevels
from granian.server.embed import Server

from core.config import Config

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

SPARE_CONNECTIONS = 1024
BACKLOG = 1024
CLOSE_S = 0.5
STREAMS_S = 1.0

log = logging.getLogger(__name__)


class StartFailed(Exception):
    """The application's lifespan refused to start."""


class Lifespan:
    """Drives the lifespan of an ASGI application once, however many listeners serve it."""

    def __init__(self, application: Application) -> None:
        self._application = application
        self._events: asyncio.Queue[Message] = asyncio.Queue()
        self._told: asyncio.Queue[Message] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def startup(self) -> None:
        """Raises `StartFailed` with what the application said."""
        self._task = asyncio.create_task(self._run(), name="lifespan")
        said = await self._ask("startup")
        if said["type"] != "lifespan.startup.complete":
            raise StartFailed(said.get("message") or "the application did not start")

    async def shutdown(self) -> None:
        """Lets the application drain and close. Whoever calls bounds the time."""
        if self._task is None or self._task.done():
            return
        said = await self._ask("shutdown")
        if said["type"] != "lifespan.shutdown.complete":
            log.error("shutdown: %s", said.get("message"))

    async def _ask(self, event: str) -> Message:
        await self._events.put({"type": f"lifespan.{event}"})
        return await self._told.get()

    async def _run(self) -> None:
        scope: MutableMapping[str, Any] = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": {},
        }
        try:
            await self._application(scope, self._events.get, self._told.put)
        except Exception as error:
            log.exception("the application's lifespan failed")
            await self._told.put({"type": "lifespan.failed", "message": f"{type(error).__name__}: {error}"})
        else:
            await self._told.put({"type": "lifespan.failed", "message": "the lifespan ended early"})


def run(application: Application, config: Config, leaving: Callable[[], None] = lambda: None) -> int:
    """Serves until SIGTERM or SIGINT and returns an exit status.

    At the signal `leaving` is called, and for `gateway.unready_s` everything goes on. Then the listeners close and the
    lifespan's shutdown tells the application to drain: it ends its streams and its sockets within `gateway.drain_s`,
    and closes what it has within `CLOSE_S`. What is still open a second later is cut. A second signal cuts everything
    at once.
    """
    return uvloop.run(_serve(application, config, leaving))


async def _serve(application: Application, config: Config, leaving: Callable[[], None]) -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: _leave(1) if stop.is_set() else stop.set())
    lifespan = Lifespan(application)
    try:
        await lifespan.startup()
    except StartFailed as error:
        log.error("not started: %s", error)
        return 1
    servers = [_server(application, config, port) for port in _ports(config)]
    tasks = [asyncio.create_task(server.serve(), name=f"listener {server.bind_port}") for server in servers]
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
    failed = [task for task in tasks if task.done()]
    for task in failed:
        log.error("a listener ended: %s", task.exception())
    leaving()
    if not failed:
        await asyncio.sleep(config.gateway.unready_s)
    await _drain(servers, tasks, lifespan, config.gateway.drain_s)
    stopped.cancel()
    return 1 if failed else 0


async def _drain(servers: list[Server], tasks: list[asyncio.Task[None]], lifespan: Lifespan, drain_s: float) -> None:
    for server in servers:
        server.stop()  # type: ignore[no-untyped-call]
    try:
        async with asyncio.timeout(drain_s + CLOSE_S):
            await lifespan.shutdown()
    except TimeoutError:
        log.warning("not drained within %.1f s", drain_s)
    _, pending = await asyncio.wait(tasks, timeout=STREAMS_S)
    if pending:
        log.warning("connections that did not end were cut")
        _leave(0)


def _leave(status: int) -> None:
    # Granian's threads still hold connections: they would wait for ever in an interpreter that shuts down.
    logging.shutdown()
    os._exit(status)


def _ports(config: Config) -> list[int]:
    own = config.gateway.own_port
    if own == 0:
        with socket.socket(socket.AF_INET6 if ":" in config.gateway.host else socket.AF_INET) as probe:
            probe.bind((config.gateway.host, 0))
            own = probe.getsockname()[1]
    ports = list(dict.fromkeys((config.gateway.port, own)))
    log.info("serving HTTP on %s", ", ".join(f"{config.gateway.host}:{port}" for port in ports))
    return ports


def _server(application: Application, config: Config, port: int) -> Server:
    return Server(
        application,
        address=config.gateway.host,
        port=port,
        interface=Interfaces.ASGINL,
        websockets=False,
        backlog=BACKLOG,
        # One permit per connection for as long as it lives: above the streams that are allowed at once.
        backpressure=config.gateway.max_streams + SPARE_CONNECTIONS,
        log_level=LogLevels.error,
        log_dictconfig={"incremental": True, "formatters": {}, "handlers": {}, "loggers": {"_granian": {}}},
    )

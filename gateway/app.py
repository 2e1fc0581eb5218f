"""One gateway process: composed when its server starts, drained when it stops."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any, Final

from core.auth.opaque import Cursors, RefreshTokens
from core.auth.passwords import Passwords
from core.auth.tokens import AccessTokens, SigningKey
from core.compose import Composition
from core.config import Config
from core.errors import Unavailable
from core.ids import new_process_id
from core.limits.port import UserLimits
from core.memory import settle
from core.metrics import serve_metrics
from ext.ws_hops import Hops
from gateway.activity import Activity
from gateway.answers import HttpTurns
from gateway.api.app import Api, build_api
from gateway.api.services import Services
from gateway.api.streams import EventStreams
from gateway.completions import DirectCompletions
from gateway.identity import Identities, Origins
from gateway.keycache import KeyCache
from gateway.opening import Opener
from gateway.revocations import Revocations, refusal_code
from gateway.serve import Message, Receive, Send
from gateway.transports.websocket import WebSockets
from gateway.turns import Turns
from gateway.userevents import UserEvents

log = logging.getLogger(__name__)

PING_S: Final = 1.0
REQUESTS_S: Final = 0.5
# Parts of a drain's time: within which event streams end, each at its moment, and for which calls may run on.
SPREAD: Final = 0.6
PATIENCE: Final = 0.75


def application(config: Config) -> GatewayApplication:
    """The ASGI application of one gateway. Requests are served between its lifespan's startup and shutdown."""
    return GatewayApplication(config)


class GatewayApplication:
    """See `application`."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._gateway: _Gateway | None = None
        self._requests = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def leaving(self) -> None:
        """From now on /readyz tells load balancers to look away; nothing else changes yet."""
        if self._gateway is not None:
            self._gateway.leaving = True

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        assert self._gateway is not None, "requests come after the startup"
        self._requests += 1
        self._idle.clear()
        try:
            await self._gateway.api(scope, receive, send)
        finally:
            self._requests -= 1
            if not self._requests:
                self._idle.set()

    async def _finish_requests(self) -> None:
        """Requests use what is closed after the drain."""
        try:
            async with asyncio.timeout(REQUESTS_S):
                await self._idle.wait()
        except TimeoutError:
            log.warning("%d requests did not end within %.1f s", self._requests, REQUESTS_S)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        async with AsyncExitStack() as stack:
            try:
                self._gateway = await _Gateway.start(self._config, stack)
            except (Unavailable, OSError, ValueError) as error:
                await send(_failed(error))
                return
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await self._gateway.drain()
            await self._finish_requests()
        await send({"type": "lifespan.shutdown.complete"})


def _failed(error: Exception) -> Message:
    return {"type": "lifespan.startup.failed", "message": str(error) or type(error).__name__}


class _Gateway:
    """Everything of one process, running. What was pushed on the stack ends with it, in reverse."""

    def __init__(
        self,
        parts: Composition,
        services: Services,
        turns: Turns,
        sockets: WebSockets,
        completions: DirectCompletions,
    ) -> None:
        self.api: Api = build_api(services)
        self._parts = parts
        self._services = services
        self._turns = turns
        self._sockets = sockets
        self._completions = completions
        self.leaving = False

    @classmethod
    async def start(cls, config: Config, stack: AsyncExitStack) -> _Gateway:
        """Raises `Unavailable`, OSError (a port is taken), ValueError (a setting cannot be used)."""
        parts = await stack.enter_async_context(Composition(config))
        edge = new_process_id("gw")
        accounts, history, catalog = await parts.accounts(), await parts.history(), await parts.catalog()
        limits, bus = await parts.limits(), await parts.bus(edge)
        activity = Activity(accounts)
        bounds = config.limits
        user_limits = UserLimits(bounds.requests_per_minute, bounds.turns_at_once, bounds.tokens_per_day)
        opener = Opener(
            history, accounts, catalog, limits, parts.clock, user_limits, config.default_model, activity.opened
        )
        turns = Turns(edge, bus, history, limits, opener, parts.clock, config)
        key = SigningKey.load(config.auth.signing_key)
        tokens, refresh = AccessTokens(key, config.auth.access_s, parts.clock), RefreshTokens(key)
        revocations = Revocations(accounts, parts.revocation_channel(), parts.clock, config.auth.access_s)
        keys, tickets = KeyCache(accounts, revocations, parts.clock), parts.tickets()
        origins = Origins(config.gateway.origins, config.gateway.https, [config.gateway.port])
        identities = Identities(keys, tickets, tokens, refresh, revocations, origins, config.gateway.https)
        presence = parts.presence(edge)
        sockets = WebSockets(turns, identities, presence, parts.clock, config, edge)
        events = UserEvents(edge, bus, presence, sockets)
        turns.on_user_event = events.on_event
        revocations.on_revoked(lambda user, subject, why: sockets.revoke(user, subject, refusal_code(why)))
        passwords = Passwords(config.auth.hashes_at_once)
        stack.callback(passwords.close)
        recorder = await parts.recorder(edge)
        completions = DirectCompletions(catalog, parts.providers(), limits, recorder, parts.clock, config)
        services = Services(
            config=config,
            clock=parts.clock,
            accounts=accounts,
            history=history,
            catalog=catalog,
            turns=HttpTurns(turns, history),
            tickets=tickets,
            idempotency=parts.idempotency(),
            attempts=parts.attempts(),
            passwords=passwords,
            access_tokens=tokens,
            refresh_tokens=refresh,
            cursors=Cursors(key),
            identities=identities,
            revocations=revocations,
            streams=EventStreams(config.gateway.max_streams, config.gateway.connections_per_user),
            tell=events.tell,
            unready=lambda: gateway.unready(),
            completions=completions,
            hops=Hops(config.gateway.trusted_proxies, config.gateway.http_client_address),
        )
        gateway = cls(parts, services, turns, sockets, completions)
        for part in (revocations, keys, activity, recorder, turns):
            stack.push_async_callback(part.stop)
            await part.start()
        for stop in (presence.stop, events.stop):
            stack.push_async_callback(stop)
        await presence.start(sockets.users)
        metrics = serve_metrics(config.gateway.admin_host, config.gateway.admin_port, gateway.gauges)
        await stack.enter_async_context(metrics)
        await sockets.start()
        settle()
        log.info("gateway %s serves zone %s", edge, config.zone)
        return gateway

    def gauges(self) -> Mapping[str, float]:
        """For metrics."""
        counts = {f"turns_{name}": float(count) for name, count in self._turns.counts.items()}
        return counts | {
            "websockets": self._sockets.connections,
            "websockets_refused": self._sockets.refused,
            "event_streams": self._services.streams.count,
            "completions": self._completions.running,
            "bus_ok": self._turns.bus_ok,
            "draining": self.leaving,
            "degraded": self._parts.degraded,
        }

    async def drain(self) -> None:
        """Sends everybody elsewhere within `gateway.drain_s`; what they watch goes on without this process."""
        self.leaving = True
        window_s = self._parts.config.gateway.drain_s
        await asyncio.gather(self._sockets.drain(window_s), self._drain_http(window_s))

    async def _drain_http(self, window_s: float) -> None:
        await self._services.streams.drain(window_s * SPREAD, window_s * PATIENCE)
        await self._completions.stop()

    async def unready(self) -> Mapping[str, str]:
        """What keeps this gateway from serving. Without Redis it serves, degraded."""
        found: dict[str, str] = {}
        if self.leaving:
            found["gateway"] = "going away"
        try:
            await self._parts.ping_postgres(PING_S)
        except Unavailable as error:
            found["postgres"] = str(error)
        if not self._turns.bus_ok:
            found["nats"] = "no round trip lately"
        return found

"""WebSocket handshakes to clients: who it is, which subprotocol, how many; and who must leave."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Collection
from typing import Final

import msgspec

from core.clock import Clock
from core.config import Config
from core.errors import CLOSE_DRAINING, TABLE, ParleyError
from core.model import MAX_CONTENT_BYTES
from core.presence.port import Presence
from ext.ws import Accept, Budget, Hops, Limits, Listener, Refuse, Request, listen
from gateway.connection import Client, Shared
from gateway.identity import Identities, Identity, require_scope
from gateway.turns import Turns

log = logging.getLogger(__name__)

PATH: Final = "/v1/ws"
SUBPROTOCOL: Final = "parley.v1"
MESSAGE_BYTES: Final = 64 * 1024
# What may wait for a client in this process. Sending stops at 16 KiB; the piece of text that passes that mark has at
# most 32 KiB (gateway/connection.py), of which JSON makes six times as much at worst.
WRITE_MAX: Final = 256 * 1024
TOLD_LIMITS: Final = {"frame_bytes": MESSAGE_BYTES, "content_bytes": MAX_CONTENT_BYTES}
# Of the time until all are closed: clients add some to what they are told, and the last need time to leave.
DRAIN_SPREAD: Final = 0.6
DRAINS_PER_TURN: Final = 256
CLOSE_S: Final = 1.0


class WebSockets:
    """All WebSocket connections of this process."""

    def __init__(
        self, turns: Turns, identities: Identities, presence: Presence, clock: Clock, config: Config, edge: str
    ) -> None:
        self._identities = identities
        self._presence = presence
        self._clock = clock
        self._config = config
        self._edge = edge
        self._listeners: list[Listener] = []
        self._shared = Shared(turns, self._welcome, self._gone)
        # Nearly every user has one connection here, which then stands for itself, without a set around it.
        self._clients: dict[str, Client | set[Client]] = {}
        self._number = 0
        self._close_at: float | None = None
        self._late: list[Client] = []
        self._per_user = config.gateway.connections_per_user

    async def start(self) -> None:
        """Listens on the shared port and on this process's own. ValueError where a setting cannot be used."""
        settings = self._config.gateway
        limits = Limits(
            message_bytes=MESSAGE_BYTES,
            write_max=WRITE_MAX,
            ping_s=settings.heartbeat_s,
            pong_s=settings.pong_s,
            stuck_s=settings.stuck_s,
            connections=settings.max_connections,
            connections_per_address=settings.connections_per_address,
            handshakes_per_s=settings.handshakes_per_s,
            handshakes_at_once=settings.handshakes_at_once,
            retry_after_max_s=settings.retry_after_max_s,
            frames_per_s=settings.frames_per_s,
            frames_at_once=settings.frames_at_once,
            bytes_per_s=settings.bytes_per_s,
            bytes_at_once=settings.bytes_at_once,
        )
        hops = Hops(settings.trusted_proxies, settings.ws_client_address)
        budget = Budget(limits, hops)
        for port in dict.fromkeys((settings.ws_port, settings.own_ws_port)):
            listener = await listen(self._accept, settings.host, port, limits, hops=hops, budget=budget)
            self._listeners.append(listener)
            log.info("WebSockets on %s:%d", settings.host, listener.port)

    @property
    def connections(self) -> int:
        return sum(listener.connections for listener in self._listeners)

    @property
    def refused(self) -> int:
        """Connections that were refused before they were read, so far."""
        return sum(listener.refused for listener in self._listeners)

    async def drain(self, window_s: float) -> None:
        """No new ones; every client is told to go elsewhere, at a moment of its own within the window. What it watches
        goes on until it leaves, or the window ends: then who is left is closed with 1001, and reset if it stays.
        """
        loop = asyncio.get_running_loop()
        close_s = min(CLOSE_S, window_s / 4)
        self._close_at = loop.time() + window_s - close_s
        clients = [client for user in self._clients for client in self.of(user)]
        for listener in self._listeners:
            listener.stop_accepting()
        for number, client in enumerate(clients, 1):
            self._send_away(client)
            if number % DRAINS_PER_TURN == 0:
                await asyncio.sleep(0)
        left_s = self._close_at - loop.time()
        await asyncio.gather(*(listener.wait_left(left_s) for listener in self._listeners))
        for listener in self._listeners:
            listener.close_all(CLOSE_DRAINING, "draining")
        await asyncio.gather(*(listener.wait_closed(close_s) for listener in self._listeners))

    def _send_away(self, client: Client) -> None:
        assert self._close_at is not None, "called while draining"
        spread_s = max(0.0, self._close_at - asyncio.get_running_loop().time()) * DRAIN_SPREAD
        client.drain(random.randint(0, int(spread_s * 1000)))  # noqa: S311 - jitter, not a secret

    def _send_late_away(self) -> None:
        """Those whose handshake was under way when the drain began, once they have their welcome."""
        late, self._late = self._late, []
        for client in late:
            self._send_away(client)

    @property
    def users(self) -> Collection[str]:
        """Who is connected, as a live view."""
        return self._clients.keys()

    def of(self, user: str) -> tuple[Client, ...]:
        """The connections of a user."""
        found = self._clients.get(user)
        if found is None:
            return ()
        return (found,) if isinstance(found, Client) else tuple(found)

    def revoke(self, user: str, session: str | None, code: str) -> None:
        """Closes the sockets of a session, or all of a user's, with the close code of `code`."""
        close = TABLE[code].close
        for client in self.of(user):
            if session in (None, client.subject):
                client.close(close or CLOSE_DRAINING, code)

    def _accept(self, request: Request) -> Accept | Refuse | Awaitable[Accept | Refuse]:
        """At once, unless the credential is one that must be looked up."""
        if request.path != PATH:
            return _refusal(ParleyError("not_found", f"WebSockets are opened at {PATH}."))
        try:
            identity = self._identities.at_once(request.headers, request.subprotocols)
            return self._admit(request, identity) if identity is not None else self._look_up(request)
        except ParleyError as error:
            return _refusal(error)

    async def _look_up(self, request: Request) -> Accept | Refuse:
        try:
            return self._admit(request, await self._identities.of_websocket(request.headers, request.subprotocols))
        except ParleyError as error:
            return _refusal(error)

    def _admit(self, request: Request, identity: Identity) -> Accept:
        require_scope(identity, "chat")
        client = self._enter(identity.user_id, identity.subject)
        if self._close_at is not None:
            self._late.append(client)
        offered = SUBPROTOCOL in request.subprotocols
        return Accept(client, subprotocol=SUBPROTOCOL if offered else None)

    def _enter(self, user: str, subject: str | None) -> Client:
        known = self._clients.get(user)
        if known is None:
            self._presence.note(user)
            client = self._clients[user] = Client(user, subject, self._shared)
            return client
        count = 1 if isinstance(known, Client) else len(known)
        if 0 < self._per_user <= count:
            # It is told so and leaves: it takes no place, and is told nothing else.
            return Client(user, subject, self._shared, crowded=True)
        if isinstance(known, Client):
            known = self._clients[user] = {known}
        client = Client(next(iter(known)).user_id, subject, self._shared)
        known.add(client)
        return client

    def _welcome(self) -> tuple[str, int, float, dict[str, int]]:
        self._number += 1
        if self._late:
            asyncio.get_running_loop().call_soon(self._send_late_away)
        return f"{self._edge}.{self._number}", self._clock.wall_ms(), self._config.gateway.heartbeat_s, TOLD_LIMITS

    def _gone(self, client: Client) -> None:
        if client in self._late:
            self._late.remove(client)
        found = self._clients.get(client.user_id)
        if isinstance(found, set):
            found.discard(client)
            if len(found) == 1:
                self._clients[client.user_id] = found.pop()
        elif found is client:
            del self._clients[client.user_id]
            self._presence.forget(client.user_id)


def _refusal(error: ParleyError) -> Refuse:
    body = {
        "error": {
            "code": error.code,
            "message": error.message,
            "type": error.kind.type,
            "param": error.param,
            "retryable": error.kind.retryable,
            "retry_after_ms": error.retry_after_ms,
        }
    }
    headers = [("Content-Type", "application/json")]
    if error.retry_after_ms is not None:
        headers.append(("Retry-After", str(-(-error.retry_after_ms // 1000))))
    return Refuse(error.kind.status, tuple(headers), msgspec.json.encode(body))

"""Tells all connections of a user, wherever they are, that something of theirs has changed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, Final

from core.bus.port import Bus
from core.errors import Unavailable
from core.events import UserEvent
from core.model import Event
from core.presence.port import Presence
from gateway.transports.websocket import WebSockets

MAX_SENDING: Final = 1_000

log = logging.getLogger(__name__)


class UserEvents:
    """Events are told at once here and by the bus elsewhere, to the gateways that presence names, and to no other.

    An event may be lost: presence is a hint, and the bus may drop. So it says what to read again, and clients read
    again when they reconnect. At most 1,000 wait to be sent; one more is told here only.
    """

    def __init__(self, edge: str, bus: Bus, presence: Presence, sockets: WebSockets) -> None:
        self._edge = edge
        self._bus = bus
        self._presence = presence
        self._sockets = sockets
        self._sending: set[asyncio.Task[None]] = set()

    def tell(self, user: str, name: str, data: Mapping[str, Any]) -> None:
        """Neither waits nor raises. `data` is what JSON can say, below 64 KiB."""
        event = UserEvent(user, name, dict(data))
        self._tell_here(event)
        if len(self._sending) >= MAX_SENDING:
            log.warning("an event was not sent to other gateways: too many wait")
            return
        task = asyncio.create_task(self._send(event), name="user event")
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    def on_event(self, event: UserEvent) -> None:
        """An event from the bus; where nobody of the user's is here any more, presence did not know it."""
        if not self._tell_here(event):
            self._presence.forget(event.user)

    def _tell_here(self, event: UserEvent) -> bool:
        clients = self._sockets.of(event.user)
        frame = Event(name=event.name, data=event.data)
        for client in clients:
            client.event(frame)
        return bool(clients)

    async def stop(self) -> None:
        """What was not sent by now is not sent. Idempotent."""
        for task in self._sending:
            task.cancel()
        await asyncio.gather(*self._sending, return_exceptions=True)

    async def _send(self, event: UserEvent) -> None:
        try:
            for gateway in await self._presence.gateways(event.user):
                if gateway != self._edge:
                    await self._bus.to_edge(gateway, [event])
        except Unavailable as error:
            log.info("an event was not sent to other gateways: %s", error)

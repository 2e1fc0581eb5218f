"""What a router sends to gateways, batched per gateway: at once after idleness, else within 3 ms.

What somebody waits for before the first token shows never waits for that: an offer, and the first delta.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from core.bus.port import Bus
from core.errors import Unavailable
from core.events import EdgeMessage, Taken, Text

log = logging.getLogger(__name__)

FLUSH_S: Final = 0.003
BATCH_BYTES: Final = 256 * 1024
MESSAGE_BYTES: Final = 128
MAX_WAITING: Final = 50_000
MAX_EDGES: Final = 1_024


class Outbox:
    """One per router. Messages to one edge leave in the order in which they were put.

    While the bus is away messages are dropped: heartbeats carry the last seq, and gateways ask for what they miss.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._edges: dict[str, _Edge] = {}

    def put(self, edge: str, messages: Sequence[EdgeMessage]) -> None:
        """Sends the messages soon. Never waits."""
        found = self._edges.get(edge)
        if found is None:
            if len(self._edges) >= MAX_EDGES:
                self._edges = {name: box for name, box in self._edges.items() if box.busy}
            found = self._edges[edge] = _Edge(self._bus, edge)
        found.put(messages)

    async def close(self) -> None:
        """Sends what waits."""
        await asyncio.gather(*(edge.flushed() for edge in list(self._edges.values())))


class _Edge:
    """The messages for one gateway, and the task that sends them while there are any."""

    def __init__(self, bus: Bus, edge: str) -> None:
        self._bus = bus
        self._edge = edge
        self._waiting: list[EdgeMessage] = []
        self._task: asyncio.Task[None] | None = None
        self._pressing = False
        self._resting: asyncio.Future[None] | None = None

    def put(self, messages: Sequence[EdgeMessage]) -> None:
        room = MAX_WAITING - len(self._waiting)
        self._waiting += messages[:room]
        if not self.busy:
            self._task = asyncio.get_running_loop().create_task(self._send())
        elif any(map(_presses, messages)):
            self._pressing = True
            self._wake()

    @property
    def busy(self) -> bool:
        return self._task is not None and not self._task.done()

    async def flushed(self) -> None:
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    async def _send(self) -> None:
        while self._waiting:
            waiting, self._waiting = self._waiting, []
            self._pressing = False
            for batch in _batches(waiting):
                try:
                    await self._bus.to_edge(self._edge, batch)
                except Unavailable as error:
                    log.debug("to %s: %s", self._edge, error)
            if not self._pressing:
                await self._rest()

    async def _rest(self) -> None:
        """Lets messages gather, until one of them must not wait."""
        loop = asyncio.get_running_loop()
        self._resting = loop.create_future()
        timer = loop.call_later(FLUSH_S, self._wake)
        try:
            await self._resting
        finally:
            timer.cancel()
            self._resting = None

    def _wake(self) -> None:
        if self._resting is not None and not self._resting.done():
            self._resting.set_result(None)


def _presses(message: EdgeMessage) -> bool:
    return isinstance(message, Taken) or (isinstance(message, Text) and message.seq == 0)


def _batches(messages: list[EdgeMessage]) -> list[list[EdgeMessage]]:
    batches: list[list[EdgeMessage]] = [[]]
    size = 0
    for message in messages:
        cost = MESSAGE_BYTES + (4 * len(message.piece.d) if isinstance(message, Text) else 0)
        if size + cost > BATCH_BYTES and batches[-1]:
            batches.append([])
            size = 0
        batches[-1].append(message)
        size += cost
    return batches

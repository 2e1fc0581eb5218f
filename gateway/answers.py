"""Turns for the HTTP resources: the same machinery as the WebSocket's sessions, one viewer for each stream."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Final

from core.history.port import History, Stored
from core.model import Accepted, Continue, EndFrame, Notice, Queued, Regenerate, Send, ServerFrame, end_frame
from gateway.api.shapes import join_parts
from gateway.api.turns_port import GenerationView
from gateway.hub import Answer, Place
from gateway.identity import Identity
from gateway.opening import told
from gateway.turns import Turns

FRAME_BYTES: Final = 32 * 1024
MAX_TOLD: Final = 16


class HttpTurns:
    """`gateway.api.turns_port.Turns` over the process's `Turns`."""

    def __init__(self, turns: Turns, history: History) -> None:
        self._turns = turns
        self._history = history

    async def send(self, identity: Identity, frame: Send) -> Accepted:
        return (await self._turns.open(identity.user_id, frame))[0]

    async def regenerate(self, identity: Identity, frame: Regenerate) -> Accepted:
        return (await self._turns.open(identity.user_id, frame))[0]

    async def continue_(self, identity: Identity, frame: Continue) -> Accepted:
        return (await self._turns.open(identity.user_id, frame))[0]

    async def cancel(self, identity: Identity, generation_id: str) -> EndFrame:
        return await self._turns.cancel(identity.user_id, generation_id)

    async def abandon(self, conversation_id: str) -> None:
        await self._turns.abandon(conversation_id)

    async def generation(self, identity: Identity, generation_id: str) -> GenerationView:
        """As history holds it: of a running answer that is what was stored so far, at most about two seconds old."""
        row = await self._turns.read(identity.user_id, generation_id)
        end = row.end
        epoch, chunks = (end.epoch, end.chunks) if end else (row.epoch, None)
        increments = tuple(await told(self._history.read_text(row.key, epoch, chunks)))
        parts = join_parts(Stored(row, increments))
        last = increments[-1].seq if increments else -1
        return GenerationView(
            id=generation_id,
            status=end.kind if end else "running",
            epoch=epoch,
            seq=end.seq if end else last,
            text="".join(part.d for part in parts if part.k == "text"),
            parts=parts,
            end=end_frame(generation_id, end) if end else None,
        )

    async def watch(self, identity: Identity, generation_id: str, epoch: int, seq: int) -> AsyncIterator[ServerFrame]:
        """See the port. A reader that does not take its frames holds a place in the text and nothing more."""
        live = await self._turns.find(identity.user_id, generation_id)
        place = Place(epoch, seq, resuming=(epoch, seq) != (-1, -1))
        watcher = _Watcher()
        self._turns.watch(live, watcher, spends=False)
        try:
            while True:
                watcher.something.clear()
                while watcher.told:
                    yield watcher.told.popleft()
                for frame in place.frames(live.answer, FRAME_BYTES):
                    yield frame
                if place.done:
                    return
                await watcher.something.wait()
        finally:
            self._turns.leave(generation_id, watcher)


class _Watcher:
    """A viewer that only remembers that there is something; of what it is told beside the text the last few count."""

    def __init__(self) -> None:
        self.something = asyncio.Event()
        self.told: deque[ServerFrame] = deque(maxlen=MAX_TOLD)

    def changed(self, answer: Answer) -> None:
        self.something.set()

    def queued(self, frame: Queued) -> None:
        self._tell(frame)

    def notice(self, frame: Notice) -> None:
        self._tell(frame)

    def _tell(self, frame: ServerFrame) -> None:
        self.told.append(frame)
        self.something.set()

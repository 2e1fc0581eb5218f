"""One client's WebSocket session: drives the protocol, owns its tasks, writes only what the socket can take."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from typing import Final

import msgspec

from core.errors import ParleyError
from core.model import Notice, Queued, ServerFrame
from ext.ws import Connection, Handler
from gateway import protocol as do
from gateway.hub import Answer
from gateway.identity import Identity
from gateway.live import Live
from gateway.protocol import Session
from gateway.turns import Turns

log = logging.getLogger(__name__)

FRAME_BYTES: Final = 32 * 1024
FRAMES_PER_S: Final = 50.0
FRAMES_AT_ONCE: Final = 200.0
OVERRUN_MS: Final = 5_000
CROWDED_MS: Final = 30_000

_encode = msgspec.json.Encoder().encode


class Client(Handler):
    """The handler of one connection and the viewer of what it watches. `identity` owns all that it may see.

    Frames are counted by a token bucket: `FRAMES_AT_ONCE`, refilled by `FRAMES_PER_S`. `crowded`: the user has as many
    connections as may be; this one is only told so.
    """

    __slots__ = (
        "_connection",
        "_counted_at",
        "_crowded",
        "_frames_left",
        "_lives",
        "_on_gone",
        "_paused",
        "_session",
        "_tasks",
        "_turns",
        "_welcome",
        "identity",
    )

    def __init__(
        self,
        identity: Identity,
        turns: Turns,
        welcome: Callable[[], tuple[str, int, float, dict[str, int]]],
        on_gone: Callable[[Client], None],
        crowded: bool = False,
    ) -> None:
        self.identity = identity
        self._crowded = crowded
        self._frames_left = FRAMES_AT_ONCE
        self._counted_at = 0.0
        self._turns = turns
        self._welcome = welcome
        self._on_gone = on_gone
        self._session = Session()
        self._connection: Connection | None = None
        self._lives: dict[str, Live] = {}
        self._paused = False
        self._tasks: set[asyncio.Task[None]] = set()

    # What the socket says.

    def on_open(self, connection: Connection) -> None:
        self._connection = connection
        if self._crowded:
            self._run(self._session.overrun("You have too many connections open; close one first.", CROWDED_MS))
            return
        connection_id, time_ms, heartbeat_s, limits = self._welcome()
        self._run(self._session.open(connection_id, self.identity.user_id, time_ms, heartbeat_s, limits))

    def on_text(self, message: str) -> None:
        if self._overran():
            self._run(self._session.overrun(f"At most {FRAMES_PER_S:.0f} frames a second are taken.", OVERRUN_MS))
            return
        self._run(self._session.on_message(message))

    def _overran(self) -> bool:
        now = asyncio.get_running_loop().time()
        self._frames_left = min(FRAMES_AT_ONCE, self._frames_left + (now - self._counted_at) * FRAMES_PER_S) - 1
        self._counted_at = now
        return self._frames_left < 0

    def on_binary(self, message: bytes) -> None:
        self._run(self._session.on_binary())

    def on_close(self, code: int, reason: str) -> None:
        self._connection = None
        self._run(self._session.gone())
        for task in self._tasks:
            task.cancel()
        self._lives.clear()
        self._on_gone(self)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        for live in list(self._lives.values()):
            if self._paused:
                return
            self.changed(live.answer)

    # What the gateway says.

    def changed(self, answer: Answer) -> None:
        """Writes what the client has not seen, while the socket takes it; the rest waits as a place in the text."""
        connection = self._connection
        if connection is None or self._paused:
            return
        for frame in self._session.frames(answer, FRAME_BYTES):
            connection.send_text(_encode(frame))
            if self._blocked():
                break
        if answer.generation not in self._session.views:
            self._leave(answer.generation)

    def _blocked(self) -> bool:
        # Sending may call `pause_writing` before it returns.
        return self._paused

    def queued(self, frame: Queued) -> None:
        self._run(self._session.queued(frame))

    def notice(self, frame: Notice) -> None:
        self._run(self._session.notice(frame))

    def drain(self, reconnect_after_ms: int) -> None:
        """Tells the client that this gateway goes away."""
        self._run(self._session.drain(reconnect_after_ms))

    def close(self, code: int, reason: str) -> None:
        """Ends the connection."""
        self._run(self._session.close(code, reason))

    # Effects.

    def _run(self, effects: Iterable[do.Effect]) -> None:
        for effect in effects:
            if isinstance(effect, do.Tell):
                self._tell(effect.frame)
            elif isinstance(effect, do.Ask):
                self._spawn(self._open(effect), effect.number)
            elif isinstance(effect, do.View):
                self._spawn(self._resume(effect), effect.number)
            elif isinstance(effect, do.Stop):
                self._spawn(self._cancel(effect), effect.number)
            elif isinstance(effect, do.Leave):
                self._leave(effect.generation)
            elif isinstance(effect, do.Close) and self._connection is not None:
                self._connection.close(effect.code, effect.reason)

    def _tell(self, frame: ServerFrame) -> None:
        if self._connection is not None:
            self._connection.send_text(_encode(frame))

    def _leave(self, generation: str) -> None:
        if self._lives.pop(generation, None) is not None:
            self._turns.leave(generation, self)

    async def _open(self, effect: do.Ask) -> None:
        accepted, live = await self._turns.open(self.identity.user_id, effect.frame)
        self._run(self._session.accepted(effect.number, accepted))
        self._watch(live)

    async def _resume(self, effect: do.View) -> None:
        live = await self._turns.find(self.identity.user_id, effect.frame.generation_id)
        self._run(self._session.watching(effect.number))
        self._watch(live)

    def _watch(self, live: Live) -> None:
        generation = live.answer.generation
        if generation in self._session.views and self._connection is not None:
            self._lives[generation] = live
            self._turns.watch(live, self)

    async def _cancel(self, effect: do.Stop) -> None:
        frame = await self._turns.cancel(self.identity.user_id, effect.frame.generation_id)
        self._run(self._session.ended(effect.number, frame))

    def _spawn(self, action: Coroutine[None, None, None], number: int) -> None:
        task = asyncio.get_running_loop().create_task(self._guard(action, number))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guard(self, action: Coroutine[None, None, None], number: int) -> None:
        try:
            await action
        except ParleyError as error:
            self._run(self._session.refused(number, error))
        except Exception:
            log.exception("a frame could not be carried out")
            message = "Something failed here; it was logged. Send the same id again."
            self._run(self._session.refused(number, ParleyError("internal", message, retry_after_ms=1000)))

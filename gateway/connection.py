"""One client's WebSocket session: drives the protocol, owns its tasks, writes only what the socket can take."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from typing import Final, NamedTuple

import msgspec

from core.errors import ParleyError
from core.model import Delta, Event, Notice, Queued, ServerFrame
from ext.ws import Connection, Handler
from ext.ws_frames import encode_frame
from gateway import protocol as do
from gateway.hub import Answer
from gateway.live import Live
from gateway.protocol import Session
from gateway.turns import Turns

log = logging.getLogger(__name__)

FRAME_BYTES: Final = 32 * 1024
CROWDED_MS: Final = 30_000
TEXT: Final = 1
MAX_KEPT: Final = 2 * do.MAX_VIEWS
MISSED: Final = Event(name="missed", data={})

_encode = msgspec.json.Encoder().encode


def _ready(delta: Delta) -> bytes:
    return encode_frame(TEXT, _encode(delta))


class Shared(NamedTuple):
    """What all connections of a process have in common: the turns, what a welcome says, whom to tell of an end."""

    turns: Turns
    welcome: Callable[[], tuple[str, int, float, dict[str, int]]]
    on_gone: Callable[[Client], None]


class Behind:
    """What a client that does not read is told when it reads on, beside its answers: that there were events, and of
    every answer the last place in the queue and the last notice.
    """

    __slots__ = ("kept", "missed")

    def __init__(self) -> None:
        self.missed = False
        self.kept: dict[tuple[type[ServerFrame], str | None], Queued | Notice] = {}

    def keep(self, frame: Queued | Notice) -> None:
        key = type(frame), frame.generation_id
        if key in self.kept or len(self.kept) < MAX_KEPT:
            self.kept[key] = frame


class Client(Handler):
    """The handler of one connection and the viewer of what it watches. `user_id` owns all that it may see; `subject` is
    the session or key that a revocation names.

    There are hundreds of thousands, nearly all of them idle: what only a busy one needs is made when it gets busy and
    let go afterwards.

    Nothing is queued for a client that does not read, whoever says it: its answers wait as places in their texts, of
    the rest the last is kept (`Behind`), and its own frames are not read, so that there is nothing to reply to.

    `crowded`: the user has as many connections as may be; this one is only told so.
    """

    __slots__ = (
        "_behind",
        "_connection",
        "_crowded",
        "_lives",
        "_session",
        "_shared",
        "_tasks",
        "subject",
        "user_id",
    )

    def __init__(self, user_id: str, subject: str | None, shared: Shared, crowded: bool = False) -> None:
        self.user_id = user_id
        self.subject = subject
        self._shared = shared
        self._crowded = crowded
        self._session = Session()
        self._connection: Connection | None = None
        self._lives: dict[str, Live] | None = None
        self._behind: Behind | None = None
        self._tasks: set[asyncio.Task[None]] | None = None

    # What the socket says.

    def on_open(self, connection: Connection) -> None:
        self._connection = connection
        if self._crowded:
            self._run(self._session.overrun("You have too many connections open; close one first.", CROWDED_MS))
            return
        connection_id, time_ms, heartbeat_s, limits = self._shared.welcome()
        self._run(self._session.open(connection_id, self.user_id, time_ms, heartbeat_s, limits))

    def on_text(self, message: str) -> None:
        if self._behind is not None and self._connection is not None:
            # Until now it was read on: a pong, or an end, tells more than a silence.
            self._connection.pause_reading()
        self._run(self._session.on_message(message))

    def on_overrun(self, what: str, retry_after_ms: int) -> None:
        self._run(self._session.overrun(f"Too many {what} came; send fewer in a second.", retry_after_ms))

    def on_binary(self, message: bytes) -> None:
        self._run(self._session.on_binary())

    def on_close(self, code: int, reason: str) -> None:
        self._connection = None
        self._run(self._session.gone())
        for task in self._tasks or ():
            task.cancel()
        self._lives = None
        self._shared.on_gone(self)

    def pause_writing(self) -> None:
        if self._behind is None:
            self._behind = Behind()

    def resume_writing(self) -> None:
        behind, self._behind = self._behind, None
        if behind is not None:
            self._catch_up(behind)
        for live in list((self._lives or {}).values()):
            if self._blocked():
                return
            self.changed(live.answer)
        if self._connection is not None and not self._blocked():
            self._connection.resume_reading()

    def _catch_up(self, behind: Behind) -> None:
        if behind.missed:
            self.event(MISSED)
        for frame in behind.kept.values():
            if isinstance(frame, Queued):
                self.queued(frame)
            else:
                self.notice(frame)

    # What the gateway says.

    def changed(self, answer: Answer) -> None:
        """Writes what the client has not seen, while the socket takes it; the rest waits as a place in the text."""
        connection = self._connection
        if connection is None or self._behind is not None:
            return
        place = self._session.place(answer.generation)
        while place is not None and (ready := place.ready(answer, _ready)) is not None:
            connection.send_encoded(ready)
            if self._blocked() or place.level(answer):
                return
        for frame in self._session.frames(answer, FRAME_BYTES):
            connection.send_text(_encode(frame))
            if self._blocked():
                break
        if answer.generation not in self._session.views:
            self._leave(answer.generation)

    def _blocked(self) -> bool:
        # Sending may call `pause_writing` before it returns.
        return self._behind is not None

    def queued(self, frame: Queued) -> None:
        if self._behind is not None:
            self._behind.keep(frame)
            return
        self._run(self._session.queued(frame))

    def notice(self, frame: Notice) -> None:
        if self._behind is not None:
            self._behind.keep(frame)
            return
        self._run(self._session.notice(frame))

    def event(self, frame: Event) -> None:
        """Something of the user's has changed elsewhere. Who does not read is only told, later, that there was some."""
        if self._behind is not None:
            self._behind.missed = True
            return
        self._run(self._session.event(frame))

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
        if self._lives is None or self._lives.pop(generation, None) is None:
            return
        if not self._lives:
            self._lives = None
        self._shared.turns.leave(generation, self)

    async def _open(self, effect: do.Ask) -> None:
        accepted, live = await self._shared.turns.open(self.user_id, effect.frame)
        self._run(self._session.accepted(effect.number, accepted))
        self._watch(live)

    async def _resume(self, effect: do.View) -> None:
        live = await self._shared.turns.find(self.user_id, effect.frame.generation_id)
        self._run(self._session.watching(effect.number))
        self._watch(live)

    def _watch(self, live: Live) -> None:
        generation = live.answer.generation
        if generation in self._session.views and self._connection is not None:
            if self._lives is None:
                self._lives = {}
            self._lives[generation] = live
            self._shared.turns.watch(live, self)

    async def _cancel(self, effect: do.Stop) -> None:
        frame = await self._shared.turns.cancel(self.user_id, effect.frame.generation_id)
        self._run(self._session.ended(effect.number, frame))

    def _spawn(self, action: Coroutine[None, None, None], number: int) -> None:
        task = asyncio.get_running_loop().create_task(self._guard(action, number))
        if self._tasks is None:
            self._tasks = set()
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        assert self._tasks is not None
        self._tasks.discard(task)
        if not self._tasks:
            self._tasks = None

    async def _guard(self, action: Coroutine[None, None, None], number: int) -> None:
        try:
            await action
        except ParleyError as error:
            self._run(self._session.refused(number, error))
        except Exception:
            log.exception("a frame could not be carried out")
            message = "Something failed here; it was logged. Send the same id again."
            self._run(self._session.refused(number, ParleyError("internal", message, retry_after_ms=1000)))

"""The shell around a gateway's turns: carries out what supervisors and answers decide, on the bus and in history."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from typing import Any, Final

from core import turn as rules
from core.bus.port import Bus, Subscription
from core.clock import Clock
from core.config import Config
from core.errors import ParleyError, Unavailable, Unknown
from core.events import (
    Attach,
    Beat,
    Detach,
    EdgeMessage,
    Ended,
    Finishing,
    Go,
    Held,
    No,
    Superseded,
    Taken,
    Text,
    UserEvent,
)
from core.history.port import History
from core.ids import generation_id, new_run
from core.limits.port import Limits
from core.model import Accepted, Continue, EndFrame, Notice, Queued, Regenerate, Send, Turn, TurnKey, end_frame
from gateway import dispatch as do
from gateway.buslife import BusLife
from gateway.dispatch import Effect, Supervisor
from gateway.hub import Answer, Need
from gateway.live import Live, Telling, Viewer
from gateway.opening import Opened, Opener, check_owner, told
from gateway.rows import Rows

log = logging.getLogger(__name__)

TICK_S: Final = 0.1
CANCEL_WAIT_S: Final = 10.0
LOAD_RETRY_S: Final = 0.5
LINGER_S: Final = 10.0
MAX_TASKS: Final = 20_000
NEWEST: Final = 100


class Turns:
    """All turns that this gateway supervises. One per process; `edge` is its address on the bus."""

    def __init__(
        self, edge: str, bus: Bus, history: History, limits: Limits, opener: Opener, clock: Clock, config: Config
    ) -> None:
        self.edge = edge
        self._bus = bus
        self._history = history
        self._rows = Rows(history, clock, config.postgres.pool_size)
        self._limits = limits
        self._opener = opener
        self._clock = clock
        self._config = config
        self._live: dict[str, Live] = {}
        self._telling = Telling(clock)
        self._held: dict[str, Subscription] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._life = BusLife(bus, clock)
        self._served: Subscription | None = None
        self.on_user_event: Callable[[UserEvent], None] | None = None
        self._loops: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Joins the bus. Raises `Unavailable` when it cannot be reached."""
        self._served = await self._bus.serve_edge(self.edge, self._on_batch, self._on_no_responders)
        self._life.fresh()
        self._loops = [asyncio.create_task(self._tick_loop()), asyncio.create_task(self._life.run())]

    async def stop(self) -> None:
        """Leaves the bus; what runs goes on elsewhere. Idempotent."""
        for task in [*self._loops, *self._tasks]:
            task.cancel()
        await asyncio.gather(*self._loops, *self._tasks, return_exceptions=True)
        for held in list(self._held.values()):
            await held.stop()
        if self._served is not None:
            await self._served.stop()
        self._live.clear()

    @property
    def bus_ok(self) -> bool:
        """Whether the bus answers."""
        return self._life.ok

    @property
    def counts(self) -> dict[str, int]:
        """For metrics: turns supervised, of which queued."""
        queued = sum(live.supervisor.queued for live in self._live.values())
        return {"supervised": len(self._live), "queued": queued}

    @property
    def _crowded(self) -> bool:
        """Whether as many turns wait for a router as may; counted only where there are enough to be that many."""
        most = self._config.gateway.queue_length
        return len(self._live) >= most and self.counts["queued"] >= most

    # What clients ask for.

    async def open(self, user: str, frame: Send | Regenerate | Continue) -> tuple[Accepted, Live]:
        """Opens a turn (or finds it) and supervises it. Raises `ParleyError`.

        Seen through though the caller is cancelled, as a client that leaves cancels nothing: what may be open by then
        is dispatched by nobody else (rule 3).
        """
        if self._crowded or len(self._tasks) >= MAX_TASKS:
            message = "Too many answers wait for a router here; try again."
            raise ParleyError("overloaded", message, retry_after_ms=2000)
        opening = asyncio.create_task(self._open(user, frame))
        self._tasks.add(opening)
        opening.add_done_callback(self._done)
        return await asyncio.shield(opening)

    async def _open(self, user: str, frame: Send | Regenerate | Continue) -> tuple[Accepted, Live]:
        if isinstance(frame, Send):
            opened = await self._opener.send(user, frame)
        elif isinstance(frame, Regenerate):
            cancel = partial(self._cancel_running, user, frame.generation_id)
            opened = await self._opener.branch(user, frame, cancel)
        else:
            opened = await self._opener.branch(user, frame)
        live = self._supervise(user, opened)
        accepted = Accepted(
            message_id=opened.turn.key.turn_id, generation_id=opened.generation, duplicate=opened.duplicate
        )
        return accepted, live

    async def _cancel_running(self, user: str, generation: str) -> None:
        live = await self.find(user, generation, urgent=True)
        if live.supervisor.end is None:
            await self.cancel(user, generation)

    def _supervise(self, user: str, opened: Opened) -> Live:
        if opened.duplicate:
            live = self._known(user, opened.generation, opened.turn, opened.asked_at)
            live.supervisor.spends = live.supervisor.resent = True
            return live
        live = self._live.get(opened.generation) or self._new(user, opened.generation, opened.turn.key)
        live.degraded = opened.degraded
        live.answer.on_epoch(opened.turn.epoch)
        self._run(live, live.supervisor.opened(self._clock.monotonic(), opened.turn, opened.asked_at))
        return live

    def _known(self, user: str, generation: str, row: Turn, asked_at: float) -> Live:
        """What is supervised of a turn whose row was read; the reading began at `asked_at`."""
        now, now_ms = self._clock.monotonic(), self._clock.wall_ms()
        live = self._live.get(generation)
        if live is None:
            live = self._new(user, generation, row.key)
            live.answer.on_epoch(row.epoch)
            self._run(live, live.supervisor.watch(now, now_ms, row))
            live.lingers_until = 0.0
            return live
        live.answer.on_epoch(row.epoch)
        self._run(live, live.supervisor.on_row(now, now_ms, row, asked_at))
        return live

    def _new(self, owner: str, generation: str, key: TurnKey) -> Live:
        wait_s = self._config.gateway.queue_wait_s
        live = Live(owner, Supervisor(generation, key, self.edge, new_run, wait_s), Answer(generation))
        self._live[generation] = live
        return live

    async def read(self, user: str, generation: str) -> Turn:
        """The row of an answer whose conversation is the user's. Raises `ParleyError` `not_found`."""
        return (await self._read(user, generation))[0]

    async def _read(self, user: str, generation: str, urgent: bool = False) -> tuple[Turn, float]:
        home, row, asked_at = await self._rows.read(user, generation, urgent)
        check_owner(home, user, "generation_id")
        if row is None:
            raise ParleyError("not_found", "There is no such answer.", param="generation_id")
        return row, asked_at

    async def find(self, user: str, generation: str, urgent: bool = False) -> Live:
        """The answer, as history has it now. Raises `ParleyError` `not_found`."""
        row, asked_at = await self._read(user, generation, urgent)
        return self._known(user, generation, row, asked_at)

    async def cancel(self, user: str, generation: str) -> EndFrame:
        """Cancels and waits for the stored end, whichever it is. Raises `ParleyError`."""
        live = await self.find(user, generation, urgent=True)
        self._run(live, live.supervisor.cancel(self._clock.monotonic()))
        live.waiters += 1
        try:
            end = await asyncio.wait_for(asyncio.shield(live.ended), CANCEL_WAIT_S)
        except TimeoutError as error:
            message = "The cancel is on its way and its result is not known yet; ask again."
            raise ParleyError("unknown", message, retry_after_ms=1000) from error
        finally:
            live.waiters -= 1
        return end_frame(generation, end)

    async def abandon(self, conversation: str) -> None:
        """Cancels what runs in a conversation that was deleted: nothing new opens there. Raises `ParleyError`."""
        asked_at = self._clock.monotonic()
        page = await told(self._history.page(conversation, None, NEWEST))
        for row in [stored.turn for stored in page.turns if stored.turn.end is None]:
            live = self._known(row.opened.owner, generation_id(conversation, row.key.turn_id), row, asked_at)
            self._run(live, live.supervisor.cancel(self._clock.monotonic()))

    def watch(self, live: Live, viewer: Viewer, spends: bool = True) -> None:
        """Adds a viewer; it is told at once what there is.

        `spends`: the answer is begun again for this viewer where its router is lost; not so for a GET (rule 13).
        """
        self._live.setdefault(live.answer.generation, live)
        live.supervisor.spends = live.supervisor.spends or spends
        live.viewers[viewer] = None
        if live.degraded:
            text = "Limits are checked by a local share of them for now; the answer comes all the same."
            viewer.notice(Notice(code="degraded", message=text, generation_id=live.answer.generation))
        if live.supervisor.queued and live.waits is not None:
            viewer.queued(live.waits)
        if live.answer.end is not None:
            self._need(live, live.answer.on_end(live.answer.end))
        viewer.changed(live.answer)

    def leave(self, generation: str, viewer: Viewer) -> None:
        """Removes a viewer. The answer goes on."""
        live = self._live.get(generation)
        if live is None:
            return
        live.viewers.pop(viewer, None)
        self._forget_if_idle(live)

    def _forget_if_idle(self, live: Live) -> None:
        generation = live.answer.generation
        if not live.idle or self._live.get(generation) is not live or self._clock.monotonic() < live.lingers_until:
            return
        del self._live[generation]
        if live.supervisor.end is None:
            self._send(self._bus.to_run(generation, Detach(generation, self.edge)))

    # What the bus brings.

    def _on_batch(self, batch: list[EdgeMessage]) -> None:
        now = self._clock.monotonic()
        lives, changed = self._live, dict[Live, None]()
        for message in batch:
            if type(message) is Text:
                live = lives.get(message.generation)
                if live is not None:
                    need = live.answer.on_text(now, message)
                    if need is not None:
                        self._need(live, need)
                    if message.seq:
                        changed[live] = None
                    else:
                        live.tell()  # the first token waits for nothing
            else:
                self._on_message(now, message)
        self._telling.soon(changed)

    def _on_message(self, now: float, message: EdgeMessage) -> None:
        if isinstance(message, Beat):
            self._on_beat(now, message)
            return
        if isinstance(message, UserEvent) and self.on_user_event is not None:
            self.on_user_event(message)
        elif isinstance(message, Taken):
            live = self._live.get(message.generation)
            denied: list[Effect] = [do.Deny(message.router, message.epoch, message.run)]
            effects = live.supervisor.on_taken(now, message) if live else denied
            self._run_for(message.generation, live, effects)
        elif isinstance(message, Ended | Superseded | Finishing | Held):
            live = self._live.get(message.generation)
            if live is not None:
                self._run(live, self._decide(now, live, message))

    def _decide(self, now: float, live: Live, message: Ended | Superseded | Finishing | Held) -> list[Effect]:
        supervisor = live.supervisor
        if isinstance(message, Ended):
            return supervisor.on_ended(message.end)
        if isinstance(message, Superseded):
            return supervisor.on_superseded(now, message.epoch, message.run)
        if isinstance(message, Held):
            return supervisor.on_held(now, message)
        text = "The answer is complete and is kept until it can be stored."
        frame = Notice(code="unavailable_finishing", message=text, generation_id=message.generation)
        for viewer in list(live.viewers):
            viewer.notice(frame)
        return []

    def _on_beat(self, now: float, beat: Beat) -> None:
        for life in beat.lives:
            live = self._live.get(life.generation)
            if live is None:
                continue
            self._run(live, live.supervisor.on_life(now, life))
            if not rules.stale(life.epoch, live.supervisor.epoch):
                known = live.answer.heard, live.answer.version
                self._need(live, live.answer.on_life(now, life.epoch, life.seq))
                if (live.answer.heard, live.answer.version) != known:
                    self._telling.soon([live])

    def _on_no_responders(self, generation: str) -> None:
        live = self._live.get(generation)
        if live is not None:
            self._run(live, live.supervisor.on_no_responders(self._clock.monotonic()))

    def _need(self, live: Live, need: Need | None) -> None:
        if need == "tail":
            self._ask(live)
        elif need == "stored" and not live.loading:
            live.loading = True
            self._spawn(self._load(live))

    def _ask(self, live: Live) -> None:
        answer = live.answer
        attach = Attach(answer.generation, self.edge, answer.epoch, answer.last)
        self._send(self._bus.to_run(answer.generation, attach))

    async def _load(self, live: Live) -> None:
        """History's text of an ended answer; asked again for as long as somebody waits for it."""
        end = live.supervisor.end
        while end is not None:
            try:
                increments = await self._history.read_text(live.supervisor.key, end.epoch, end.chunks)
            except Unavailable:
                if not live.viewers:
                    break
                await asyncio.sleep(LOAD_RETRY_S)
                continue
            live.answer.on_stored(increments)
            break
        live.loading = False
        live.tell()

    # Effects.

    def _run(self, live: Live, effects: Iterable[Effect]) -> None:
        self._run_for(live.answer.generation, live, effects)

    def _run_for(self, generation: str, live: Live | None, effects: Iterable[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, do.Deny):
                self._send(self._bus.to_router(effect.router, No(generation, effect.epoch, effect.run)))
            elif live is None:
                continue
            elif isinstance(effect, do.Grant):
                self._send(self._bus.to_router(effect.router, Go(generation, effect.epoch, effect.run)))
            elif isinstance(effect, do.TellRun):
                self._send(self._bus.to_run(generation, effect.message))
            elif isinstance(effect, do.Publish):
                self._spawn(self._publish(live, effect))
            elif isinstance(effect, do.Ask):
                self._ask(live)
            elif isinstance(effect, do.NewEpoch):
                live.answer.on_epoch(effect.epoch)
                live.tell()
            elif isinstance(effect, do.ShowEnd):
                self._show_end(live, effect)
            elif isinstance(effect, do.Waiting):
                self._tell_queued(live, effect)
            elif isinstance(effect, do.Hold | do.Release | do.TellHeld):
                self._lease(live, effect)
            else:
                self._spawn(self._store(live, effect))

    def _show_end(self, live: Live, effect: do.ShowEnd) -> None:
        self._need(live, live.answer.on_end(effect.end))
        if not live.ended.done():
            live.ended.set_result(effect.end)
            # A row that was read before its last epoch or end may still be on its way here: it must not be believed.
            live.lingers_until = self._clock.monotonic() + LINGER_S
        live.tell()
        self._forget_if_idle(live)

    def _tell_queued(self, live: Live, effect: do.Waiting) -> None:
        waiting = [other for other in self._live.values() if other.supervisor.queued]
        position = waiting.index(live) + 1 if live in waiting else 1
        eta_s = max(1.0, self._config.gateway.queue_wait_s - effect.waited_s)
        live.waits = Queued(generation_id=live.answer.generation, position=position, eta_s=round(eta_s, 1))
        for viewer in list(live.viewers):
            viewer.queued(live.waits)

    def _lease(self, live: Live, effect: do.Hold | do.Release | do.TellHeld) -> None:
        generation = live.answer.generation
        if isinstance(effect, do.TellHeld):
            for edge in effect.edges:
                self._send(self._bus.to_edge(edge, [effect.held]))
        elif isinstance(effect, do.Hold):
            self._spawn(self._hold(live))
        elif generation in self._held:
            self._spawn(self._quietly(self._held.pop(generation).stop()))

    async def _hold(self, live: Live) -> None:
        generation = live.answer.generation
        try:
            served = await self._bus.serve_run(
                generation,
                lambda message: self._run(live, live.supervisor.on_attach(self._clock.monotonic(), message)),
            )
        except Unavailable:
            live.supervisor.on_hold_failed()
            return
        if not live.supervisor.holding or generation in self._held:
            await self._quietly(served.stop())
            return
        self._held[generation] = served

    async def _publish(self, live: Live, effect: do.Publish) -> None:
        try:
            await self._bus.dispatch(self._config.zone, self._config.pool, effect.dispatch)
        except Unavailable:
            self._run(live, live.supervisor.on_no_responders(self._clock.monotonic()))

    async def _store(self, live: Live, effect: Effect) -> None:
        """An effect whose result history gives."""
        supervisor, key = live.supervisor, live.supervisor.key
        try:
            if isinstance(effect, do.ReadRow):
                row = await self._history.read(key)
                now, now_ms = self._clock.monotonic(), self._clock.wall_ms()
                if row is None:
                    raise Unavailable(f"turn {key.turn_id} is not readable")
                effects = supervisor.on_row(now, now_ms, row, effect.asked_at)
            elif isinstance(effect, do.ClaimTurn):
                result = await self._history.claim(key, effect.epoch, effect.run, self._clock.wall_ms())
                now, now_ms = self._clock.monotonic(), self._clock.wall_ms()
                effects = supervisor.on_claimed(now, now_ms, effect.asked_at, result)
            elif isinstance(effect, do.WriteCancel):
                result = await self._history.cancel(key)
                effects = supervisor.on_cancel_stored(self._clock.monotonic(), result)
            elif isinstance(effect, do.EndTurn):
                effects = await self._end(live, effect)
            else:
                raise TypeError(f"no way to carry out {effect!r}")
        except (Unavailable, Unknown) as error:
            log.warning("history is away while supervising %s: %s", live.answer.generation, error)
            now = self._clock.monotonic()
            if isinstance(effect, do.WriteCancel):
                return  # written again at a tick
            read = isinstance(effect, do.ReadRow)
            effects = supervisor.on_row_failed(now) if read else supervisor.on_write_failed(now)
        self._run(live, effects)

    async def _end(self, live: Live, effect: do.EndTurn) -> list[Effect]:
        row: Turn = effect.row
        increments = await self._history.read_text(row.key, row.epoch)
        end = rules.ended_without_router(row, effect.kind, self.edge, increments, effect.code, effect.message)
        result = await self._history.end(row.key, end)
        if result.turn is not None and result.turn.end is not None and result.turn.end.writer == self.edge:
            reservation = generation_id(row.key.conversation_id, row.key.turn_id)
            self._spawn(self._quietly(self._limits.settle(row.opened.owner, reservation, 0)))
        now, now_ms = self._clock.monotonic(), self._clock.wall_ms()
        return live.supervisor.on_end_stored(now, now_ms, result)

    def _send(self, sending: Coroutine[Any, Any, None]) -> None:
        if len(self._tasks) >= MAX_TASKS:
            sending.close()  # whatever is told on the bus is told again
            return
        self._spawn(self._quietly(sending))

    async def _quietly(self, action: Coroutine[Any, Any, None]) -> None:
        """Messages that are repeated, or lapse, by themselves need no answer."""
        try:
            await action
        except Unavailable as error:
            log.debug("not sent: %s", error)

    def _spawn(self, action: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(action)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, ParleyError):
            log.error("an operation on a turn failed", exc_info=error)

    # Time.

    async def _tick_loop(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            now = self._clock.monotonic()
            bus_ok = self.bus_ok
            for live in list(self._live.values()):
                try:
                    if live.supervisor.end is None:
                        self._run(live, live.supervisor.tick(now, bus_ok))
                    if now >= live.lingers_until:
                        self._forget_if_idle(live)
                except Exception:
                    log.exception("the tick of %s failed", live.answer.generation)

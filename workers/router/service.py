"""The router's shell: takes turns from the bus and carries out what each of them decides."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import aclosing
from typing import Any, Final, Protocol

from core.bus.port import Bus, Subscription
from core.clock import Clock
from core.config import Config
from core.errors import ParleyError, Unavailable, Unknown
from core.events import Beat, Dispatch, EdgeMessage, GrantMessage, Life, No, RunMessage, Stop
from core.history.port import History
from core.ids import generation_id, new_run
from core.ledger.port import Entry
from core.limits.port import Limits, UserLimits
from core.metering import reservation
from core.model import Turn, TurnKey
from core.providers.port import Provider, ProviderError, ProviderRequest
from core.turn import HEARTBEAT_S, HISTORY_AWAY_S
from workers.router import effects as do
from workers.router.effects import Effect
from workers.router.kept import Kept, Running
from workers.router.outbox import Outbox
from workers.router.planner import NotAnswerable, Planner, Prepared
from workers.router.turn import RouterTurn

log = logging.getLogger(__name__)

TICK_S: Final = 0.1
RENEW_EVERY_S: Final = 30.0
ENDED_BEATS_S: Final = 3.0
SERVE_EVERY_S: Final = 0.5
LAST_WORDS_S: Final = 2.0
KEEP_EVERY_S: Final = 1.0
MAX_STARTED: Final = 100_000
FINAL_KINDS: Final = frozenset({"bad_request", "auth"})


class Recorder(Protocol):
    """Puts usage records where they survive: the stream, or within 50 ms the local spool."""

    async def record(self, entry: Entry) -> bool:
        """Whether the stream has acknowledged it. `Unavailable` where neither took it for a while."""
        ...

    async def keep_end(self, key: TurnKey, effect: do.SpoolEnd) -> None:
        """Keeps an end that history could not take. `Unavailable` or `Unknown`: repeat it."""
        ...


class RouterService:
    """All turns of one router process."""

    def __init__(
        self,
        router: str,
        bus: Bus,
        history: History,
        limits: Limits,
        planner: Planner,
        providers: dict[str, Provider],
        recorder: Recorder,
        clock: Clock,
        config: Config,
    ) -> None:
        self.router = router
        self._bus = bus
        self._history = history
        self._limits = limits
        self._planner = planner
        self._providers = providers
        self._recorder = recorder
        self._clock = clock
        self._config = config
        self._outbox = Outbox(bus)
        self._kept = Kept()
        self._started: OrderedDict[tuple[str, int, str], None] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()
        self._ahead: set[asyncio.Task[Prepared]] = set()
        self._loops: list[asyncio.Task[None]] = []
        self._subscriptions: list[Subscription] = []
        self._taking: Subscription | None = None
        self._draining = False
        self._idle = asyncio.Event()

    async def start(self) -> None:
        """Joins the bus and takes turns."""
        self._subscriptions.append(await self._bus.serve_router(self.router, self._on_grant))
        self._taking = await self._bus.serve_turns(self._config.zone, self._config.pool, self._on_dispatch)
        loops = (self._beat_loop, self._tick_loop, self._renew_loop, self._room_loop)
        self._loops = [asyncio.create_task(loop()) for loop in loops]

    async def drain(self, deadline_s: float) -> None:
        """Takes nothing new, lets what runs end, then leaves. What is cut off is claimed by its gateways."""
        self._draining = True
        if self._taking is not None:
            await self._taking.stop()
            self._taking = None
        if self.busy:
            try:
                await asyncio.wait_for(self._idle.wait(), deadline_s)
            except TimeoutError:
                self._give_up()
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=LAST_WORDS_S)  # records, and ends on their way to the spool
        await self._outbox.close()
        left = [*self._loops, *self._tasks, *self._ahead]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        for subscription in self._subscriptions:
            await subscription.stop()

    def gauges(self) -> dict[str, float]:
        """For metrics."""
        return {"turns_running": self.busy, "turns_kept": len(self._kept), "text_bytes": self.text_bytes}

    def _give_up(self) -> None:
        for running in self._kept.live:
            self._run(running, running.turn.give_up())

    @property
    def busy(self) -> int:
        """Turns that have not ended."""
        return self._kept.busy

    @property
    def text_bytes(self) -> int:
        """Text kept for resume and for history."""
        return self._kept.text_bytes

    # The bus.

    def _on_dispatch(self, dispatch: Dispatch) -> None:
        now = self._clock.monotonic()
        running = self._kept.get(dispatch.generation)
        if running is not None:
            turn = running.turn
            if (turn.epoch, turn.run) == (dispatch.epoch, dispatch.run):
                if turn.state == "offered":
                    self._run(running, turn.offer(now))
                return
            if dispatch.epoch <= turn.epoch:
                return
            self._run(running, turn.on_run_message(now, Stop(dispatch.generation, dispatch.epoch)))
            self._forget(running)
        if (dispatch.generation, dispatch.epoch, dispatch.run) in self._started:
            return
        running = Running(RouterTurn(dispatch, self.router, new_run))
        self._kept.add(running)
        self._run(running, running.turn.offer(now))
        if dispatch.epoch == 0:  # a later one may have to reserve again, which is not for whom is only offering
            self._read_ahead(running, now)

    def _on_grant(self, grant: GrantMessage) -> None:
        running = self._kept.get(grant.generation)
        if running is None or (running.turn.epoch, running.turn.run) != (grant.epoch, grant.run):
            return
        if isinstance(grant, No):
            self._run(running, running.turn.on_no())
            return
        self._started[(grant.generation, grant.epoch, grant.run)] = None
        if len(self._started) > MAX_STARTED:
            self._started.popitem(last=False)
        self._run(running, running.turn.on_go(self._clock.monotonic()))

    # Effects.

    def _run(self, running: Running, effects: Iterable[Effect]) -> None:
        turn = running.turn
        for effect in effects:
            if isinstance(effect, do.Tell):
                for edge in turn.edges:
                    self._outbox.put(edge, effect.messages)
            elif isinstance(effect, do.TellOne):
                self._outbox.put(effect.edge, effect.messages)
            elif isinstance(effect, do.HangUp):
                self._hang_up(running)
            elif isinstance(effect, do.Call):
                self._hang_up(running)
                running.call = self._spawn(self._call(running, effect))
            elif isinstance(effect, do.Forget):
                self._forget(running)
            else:
                self._spawn(self._carry_out(running, effect))
        if turn.state == "ended":
            self._kept.end(running)
        if self._draining and not self.busy:
            self._idle.set()

    async def _carry_out(self, running: Running, effect: Effect) -> None:
        turn = running.turn
        if isinstance(effect, do.Serve):
            await self._serve(running)
        elif isinstance(effect, do.ReadPath):
            await self._read_path(running)
        elif isinstance(effect, do.Record):
            await self._record(running, effect.entry)
        elif isinstance(effect, do.CloseListing):
            await self._attempt(self._close(running))
        elif isinstance(effect, do.SpoolEnd):
            await self._keep_end(turn.key, effect)
        else:
            await self._store(running, effect)

    async def _record(self, running: Running, entry: Entry) -> None:
        turn = running.turn
        try:
            acknowledged = await self._recorder.record(entry)
        except (Unavailable, Unknown) as error:
            log.error("%s:%d (%s) is not on record: %s", entry.attempt, entry.revision, entry.outcome, error)
            self._run(running, turn.on_unrecorded(self._now(), entry))
            return
        self._run(running, turn.on_recorded(self._now(), self._now_ms(), entry, acknowledged))

    async def _keep_end(self, key: TurnKey, effect: do.SpoolEnd) -> None:
        """Tried for as long as history was; what the disk does not take then is answered again, at our cost."""
        deadline = self._now() + HISTORY_AWAY_S
        while True:
            try:
                await self._recorder.keep_end(key, effect)
                return
            except (Unavailable, Unknown) as error:
                log.error("the end of %s is not kept: %s", key.turn_id, error)
                if self._now() >= deadline:
                    return
            await asyncio.sleep(KEEP_EVERY_S)

    async def _store(self, running: Running, effect: Effect) -> None:
        """An effect whose result history gives."""
        turn = running.turn
        failed: Callable[[float], list[Effect]] = turn.on_row_failed
        try:
            if isinstance(effect, do.Reread):
                row = await self._history.read(turn.key)
                done = turn.on_row(self._now(), self._now_ms(), row, effect.asked_at)
            elif isinstance(effect, do.Append):
                failed = turn.on_append_failed
                await self._history.append(turn.key, effect.epoch, effect.increment)
                done = turn.on_appended(self._now(), effect.epoch)
            elif isinstance(effect, do.ClaimNext):
                failed = turn.on_claim_failed
                result = await self._history.claim(turn.key, effect.epoch, effect.run, self._now_ms())
                done = turn.on_claimed(self._now(), self._now_ms(), effect, result)
            elif isinstance(effect, do.WriteEnd):
                failed = turn.on_end_failed
                done = turn.on_end_stored(self._now(), await self._history.end(turn.key, effect.end))
            else:
                raise TypeError(f"no way to carry out {effect!r}")
        except (Unavailable, Unknown) as error:
            log.warning("history is away for %s: %s", turn.generation, error)
            done = failed(self._now())
        except Exception:
            log.exception("history cannot take what %s asks of it", turn.generation)
            done = failed(self._now())
        self._run(running, done)

    async def _close(self, running: Running) -> None:
        """The ledger worker settles what is charged; what is not frees its reservation here."""
        turn = running.turn
        if turn.end is not None and turn.end.attempt is None and running.account:
            await self._limits.settle(running.account, turn.generation, 0)
        await self._history.close_listing([turn.key])  # last, as what is not listed is nobody's any more

    async def _serve(self, running: Running) -> None:
        turn = running.turn

        def on_message(message: RunMessage) -> None:
            self._run(running, turn.on_run_message(self._now(), message))

        while running.serving is None:
            try:
                running.serving = await self._bus.serve_run(turn.generation, on_message)
            except Unavailable as error:
                log.warning("run.%s is not served yet: %s", turn.generation, error)
                await asyncio.sleep(SERVE_EVERY_S)
                if self._kept.get(turn.generation) is not running:
                    return
        if self._kept.get(turn.generation) is not running:
            await running.serving.stop()

    def _read_ahead(self, running: Running, now: float) -> None:
        """Row and context are read while the offer is on its way: whatever is known after `taken` is fresh (rule 4)."""
        task = asyncio.get_running_loop().create_task(self._planner.prepare(running.turn.key))
        running.ahead = (now, task)
        self._ahead.add(task)
        task.add_done_callback(self._read)

    def _read(self, task: asyncio.Task[Prepared]) -> None:
        self._ahead.discard(task)
        if not task.cancelled():
            task.exception()  # whoever is granted the turn hears of it

    async def _read_path(self, running: Running) -> None:
        turn = running.turn
        asked_at, ahead = running.ahead or (0.0, None)
        running.ahead = None
        try:
            if ahead is not None and asked_at >= turn.granted:
                prepared = await ahead
            else:
                prepared = await self._planner.prepare(turn.key)
        except (Unavailable, Unknown) as error:
            log.warning("no context for %s: %s", turn.generation, error)
            self._run(running, turn.on_unread())
            return
        except NotAnswerable as error:
            running.account = error.row.opened.owner if error.row else ""
            self._run(running, turn.on_unready(self._now(), error.row, error.code, error.message))
            return
        if not await self._reserved(prepared.row):
            message = "The tokens that this answer may cost are not left for today; nothing was charged."
            self._run(running, turn.on_unready(self._now(), prepared.row, "quota", message))
            return
        running.prepared = prepared
        running.account = prepared.row.opened.owner
        self._run(running, turn.on_ready(self._now(), self._now_ms(), prepared.row, prepared.plan))

    async def _reserved(self, row: Turn) -> bool:
        """A new epoch reserves again, as the reservation may have lapsed; one that stands is taken as it is."""
        if row.epoch == 0:
            return True
        opened, bounds = row.opened, self._config.limits
        limits = UserLimits(bounds.requests_per_minute, bounds.turns_at_once, bounds.tokens_per_day)
        name = generation_id(row.key.conversation_id, row.key.turn_id)
        try:
            await self._limits.admit(opened.owner, name, reservation(opened), limits)
        except ParleyError as error:
            return error.code != "quota"
        return True

    async def _call(self, running: Running, effect: do.Call) -> None:
        """Streams one attempt into its turn."""
        turn, prepared = running.turn, running.prepared
        assert prepared is not None
        route = prepared.plan.routes[effect.route]
        provider = self._providers.get(route.provider)
        if provider is None:
            message = f"provider {route.provider!r} is not configured here"
            self._run(running, turn.on_failed(self._now(), self._now_ms(), effect.attempt, message, True, 0.0))
            return
        request = self._request(prepared, effect, route.model)
        mine = asyncio.current_task()
        try:
            async with aclosing(provider.stream(request)) as stream:
                async for events in stream:
                    self._run(running, turn.on_events(self._now(), effect.attempt, events))
                    if running.call is not mine:
                        return
        except ProviderError as error:
            # What the provider said may repeat what it was asked: it stays out of the log.
            log.info("attempt %s at %s failed: %s (HTTP %s)", effect.attempt, route.provider, error.kind, error.status)
            final = error.kind in FINAL_KINDS
            retry_s = (error.retry_after_ms or 0) / 1000
            done = turn.on_failed(self._now(), self._now_ms(), effect.attempt, error.kind, final, retry_s)
            self._run(running, done)
            return
        except Exception:
            log.exception("attempt %s failed for a reason of ours", effect.attempt)
            done = turn.on_failed(self._now(), self._now_ms(), effect.attempt, "internal", False, 0.0)
            self._run(running, done)
            return
        self._run(running, turn.on_finished(self._now(), self._now_ms(), effect.attempt))

    def _request(self, prepared: Prepared, effect: do.Call, model: str) -> ProviderRequest:
        opened = prepared.row.opened
        settings = prepared.settings[effect.route]
        return ProviderRequest(
            model=model,
            messages=prepared.context.messages,
            max_tokens=opened.max_tokens,
            params={name: value for name, value in opened.params.items() if name != "max_tokens"},
            deadline_first_token_s=settings.first_token_s,
            deadline_idle_s=settings.idle_s,
            continue_from=prepared.context.continue_from,
            tags={"attempt": effect.attempt},
        )

    def _hang_up(self, running: Running) -> None:
        if running.call is not None and running.call is not asyncio.current_task():
            running.call.cancel()
        running.call = None

    def _forget(self, running: Running) -> None:
        self._kept.remove(running)
        self._hang_up(running)
        if running.ahead is not None:
            running.ahead[1].cancel()
        if running.serving is not None:
            self._spawn(self._attempt(running.serving.stop()))

    async def _attempt(self, action: Awaitable[Any]) -> None:
        """What the janitor, or time, does otherwise."""
        try:
            await action
        except (Unavailable, Unknown) as error:
            log.info("left for later: %s", error)

    def _spawn(self, action: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(action)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("an operation on a turn failed", exc_info=task.exception())

    def _now(self) -> float:
        return self._clock.monotonic()

    def _now_ms(self) -> int:
        return self._clock.wall_ms()

    # Time.

    async def _beat_loop(self) -> None:
        while True:
            now = self._now()
            lives: dict[str, list[Life]] = {}
            for running in [*self._kept.live, *self._kept.lately_ended(now - ENDED_BEATS_S)]:
                if running.turn.alive:
                    for edge in running.turn.edges:
                        lives.setdefault(edge, []).append(running.turn.life())
            for edge, found in lives.items():
                beat: list[EdgeMessage] = [Beat(self.router, found)]
                self._outbox.put(edge, beat)
            await asyncio.sleep(HEARTBEAT_S)

    async def _tick_loop(self) -> None:
        while True:
            now = self._now()
            for running in self._kept.live:
                self._tick(running, now)
            while (oldest := self._kept.oldest) is not None and self._tick(oldest, now):
                self._forget(oldest)
            await asyncio.sleep(TICK_S)

    def _tick(self, running: Running, now: float) -> bool:
        """Whether there was something to do."""
        try:
            effects = running.turn.tick(now)
            self._run(running, effects)
        except Exception:
            log.exception("the tick of %s failed", running.turn.generation)
            return False
        return bool(effects)

    async def _renew_loop(self) -> None:
        while True:
            await asyncio.sleep(RENEW_EVERY_S)
            await self._attempt(self._limits.renew(self._reservations()))

    def _reservations(self) -> Sequence[tuple[str, str]]:
        return [(running.account, running.turn.generation) for running in self._kept.live if running.account]

    async def _room_loop(self) -> None:
        """Leaves the queue group while there is no room, and joins it again when there is (rule 11)."""
        while True:
            await asyncio.sleep(TICK_S)
            self._forget_ended()
            room = self.busy < self._config.router.max_turns and self.text_bytes < self._config.router.text_bytes
            if not room and self._taking is not None:
                await self._taking.stop()
                self._taking = None
            elif room and self._taking is None and not self._draining:
                await self._attempt(self._join())

    def _forget_ended(self) -> None:
        """Over the byte budget texts of ended answers go, the oldest first: who asks for one reads history."""
        while self.text_bytes >= self._config.router.text_bytes and (oldest := self._kept.oldest) is not None:
            self._forget(oldest)

    async def _join(self) -> None:
        self._taking = await self._bus.serve_turns(self._config.zone, self._config.pool, self._on_dispatch)

"""Each rule of docs/turns.md, or a separable part of one, switched off in the real code."""

from __future__ import annotations

import asyncio
import copy
import itertools
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

import gateway.dispatch
import gateway.opening
import gateway.turns
import workers.janitor
import workers.router.attempts
import workers.router.turn
from core import turn as rules
from core.history.port import Applied, Look, PathTurn, Refused
from core.ledger.port import REVISION_OPENED, Entry
from core.model import Cancelled, End, NewTurn, Send, Turn, TurnKey
from gateway import dispatch as do
from gateway.dispatch import Supervisor
from gateway.hub import Answer
from gateway.live import Live
from gateway.opening import Opened, Opener
from gateway.turns import Turns
from tests.simulation.hosts import SpoolingRecorder
from tests.simulation.stores import SimHistory
from workers.janitor import Janitor
from workers.router.effects import CloseListing, ReadPath, Serve
from workers.router.turn import RouterTurn

Patch = pytest.MonkeyPatch
Switch = Callable[[Patch], None]


def _always(value: Any) -> Callable[..., Any]:
    return lambda *_args, **_kwargs: value


# Rule 1.


def own_write_is_refused(patch: Patch) -> None:
    patch.setattr(rules, "_confirmed", lambda row, _epoch, _run: Refused(row))


def own_end_is_refused(patch: Patch) -> None:
    usual = rules.end
    patch.setattr(rules, "end", lambda row, ending: Refused(row) if row and row.end else usual(row, ending))


def silence_denies(patch: Patch) -> None:
    usual = SimHistory.__init__

    def begin(self: SimHistory, *args: Any) -> None:
        usual(self, *args)
        self.denies = True

    patch.setattr(SimHistory, "__init__", begin)


# Rule 2.


def row_is_not_looked_up(patch: Patch) -> None:
    usual = Opener.send

    class Blind:
        def __init__(self, history: Any, hidden: TurnKey) -> None:
            self._history, self._hidden = history, hidden

        def __getattr__(self, name: str) -> Any:
            return getattr(self._history, name)

        async def read(self, key: TurnKey) -> Turn | None:
            return None if key == self._hidden else await self._history.read(key)

        async def look(self, *args: Any) -> Look:
            return msgspec.structs.replace(await self._history.look(*args), turn=None)

    async def send(self: Opener, user: str, frame: Send) -> Opened:
        blind = copy.copy(self)
        blind._history = Blind(self._history, TurnKey(frame.conversation_id, frame.message_id or ""))  # type: ignore[assignment]
        return await usual(blind, user, frame)

    patch.setattr(Opener, "send", send)


def body_does_not_matter(patch: Patch) -> None:
    patch.setattr(Opener, "_duplicate", lambda _self, row, _digest, asked_at: Opened(row, True, asked_at))


def hash_is_not_of_the_frame_as_sent(patch: Patch) -> None:
    number = itertools.count()
    usual = gateway.opening.body_hash
    patch.setattr(gateway.opening, "body_hash", lambda frame: f"{usual(frame)} at {next(number)}")


def reservation_is_the_requests(patch: Patch) -> None:
    number = itertools.count()
    usual = Opener._open

    class Named:
        def __init__(self, limits: Any) -> None:
            self._limits = limits

        async def admit(self, account: str, turn: str, tokens: int, limits: Any) -> Any:
            return await self._limits.admit(account, f"{turn}#{next(number)}", tokens, limits)

        async def settle(self, account: str, turn: str, tokens: int) -> None:
            await self._limits.settle(account, turn, tokens)

    async def open_(self: Opener, turn: NewTurn, before: Callable[[], Awaitable[None]]) -> Opened:
        other = copy.copy(self)
        other._limits = Named(self._limits)  # type: ignore[assignment]
        return await usual(other, turn, before)

    patch.setattr(Opener, "_open", open_)


# Rule 3.


def who_finds_it_dispatches(patch: Patch) -> None:
    def known(self: Turns, user: str, generation: str, row: Turn, asked_at: float) -> Live:
        live = self._live.get(generation) or self._new(user, generation, row.key)
        live.answer.on_epoch(row.epoch)
        now = self._clock.monotonic()
        self._run(live, live.supervisor._finish(row.end) if row.end else live.supervisor.opened(now, row, asked_at))
        return live

    patch.setattr(Turns, "_known", known)


def what_is_owned_is_claimed(patch: Patch) -> None:
    patch.setattr(rules, "unowned", _always(True))


# Rule 4.


def every_taken_gets_go(patch: Patch) -> None:
    patch.setattr(Supervisor, "on_taken", lambda self, now, taken: [do.Grant(taken.router, taken.epoch, taken.run)])


def lost_go_is_not_repeated(patch: Patch) -> None:
    usual = Supervisor.on_taken

    def on_taken(self: Supervisor, now: float, taken: Any) -> list[do.Effect]:
        return [] if self._granted == taken.router else usual(self, now, taken)

    patch.setattr(Supervisor, "on_taken", on_taken)


def run_starts_again(patch: Patch) -> None:
    def on_go(self: RouterTurn, now: float) -> list[Any]:
        self.state = "reading"
        return [Serve(), ReadPath(now)]

    patch.setattr(RouterTurn, "on_go", on_go)


def go_is_never_preceded_by_a_read(patch: Patch) -> None:
    patch.setattr(rules, "may_go_unread", _always(True))


def row_is_not_checked(patch: Patch) -> None:
    patch.setattr(rules, "answers", lambda row, _epoch, _run: row is not None)


def last_check_is_left_out(patch: Patch) -> None:
    patch.setattr(rules, "may_call", _always(True))


# Rule 5.


def only_the_arbiter_supervises(patch: Patch) -> None:
    # What a client asks again is judged by the row, too; only the arbiter draws a conclusion here.
    tick, judge = Supervisor.tick, Supervisor._judge
    patch.setattr(Supervisor, "tick", lambda self, now, ok: tick(self, now, ok) if self.arbiter else [])
    patch.setattr(Supervisor, "_judge", lambda self, now, row: judge(self, now, row) if self.arbiter else [])


def nobody_supervises_without_a_client(patch: Patch) -> None:
    patch.setattr(Live, "idle", property(lambda self: not (self.viewers or self.waiters)))


def older_epoch_is_life(patch: Patch) -> None:
    usual = Supervisor.on_life

    def on_life(self: Supervisor, now: float, life: Any) -> list[do.Effect]:
        if self.end is None and life.epoch < self.epoch:
            self._life = now
            return []
        return usual(self, now, life)

    patch.setattr(Supervisor, "on_life", on_life)


def older_epoch_is_not_stopped(patch: Patch) -> None:
    usual = Supervisor.on_life
    patch.setattr(
        Supervisor, "on_life", lambda self, now, life: [] if life.epoch < self.epoch else usual(self, now, life)
    )


def clock_runs_without_the_bus(patch: Patch) -> None:
    usual = Supervisor.tick
    patch.setattr(Supervisor, "tick", lambda self, now, _ok: usual(self, now, True))


def claims_before_it_asks(patch: Patch) -> None:
    usual = Supervisor.tick

    def tick(self: Supervisor, now: float, bus_ok: bool) -> list[do.Effect]:
        if bus_ok:
            self._suspended = False
        return usual(self, now, bus_ok)

    patch.setattr(Supervisor, "tick", tick)


# Rule 6.


def end_on_any_text(patch: Patch) -> None:
    patch.setattr(rules, "complete", _always(True))


def any_delta_is_the_next(patch: Patch) -> None:
    patch.setattr(rules, "next_delta", _always(True))


def gap_is_not_asked_for(patch: Patch) -> None:
    patch.setattr(Answer, "_ask", _always(None))


# Rule 7.


def refused_goes_on(patch: Patch) -> None:
    patch.setattr(RouterTurn, "_supersede", _always([]))


# Rule 8.


def claims_have_no_end(patch: Patch) -> None:
    patch.setattr(rules, "may_claim", _always(True))


# Rule 9.


def cancel_is_said_once(patch: Patch) -> None:
    patch.setattr(Supervisor, "_tick_cancel", _always([]))


def cancelled_and_unowned_is_left(patch: Patch) -> None:
    usual = Supervisor._judge
    patch.setattr(Supervisor, "_judge", lambda self, now, row: [] if self.cancelled else usual(self, now, row))


def reply_is_always_cancelled(patch: Patch) -> None:
    usual = gateway.turns.end_frame

    def frame(generation: str, end: End) -> Any:
        told = usual(generation, end)
        return Cancelled(**{name: getattr(told, name) for name in told.__struct_fields__})

    patch.setattr(gateway.turns, "end_frame", frame)


def cancelled_is_never_done(patch: Patch) -> None:
    usual = rules.end

    def end(row: Turn | None, ending: End) -> Applied | Refused:
        return Refused(row) if row and row.cancelled and ending.kind == "done" else usual(row, ending)

    patch.setattr(rules, "end", end)


# Rule 10.


def open_turns_are_not_listed(patch: Patch) -> None:
    patch.setattr(SimHistory, "_list", _always(None))


def listing_goes_with_the_end(patch: Patch) -> None:
    usual = RouterTurn.on_end_stored

    def on_end_stored(self: RouterTurn, now: float, result: Applied | Refused) -> list[Any]:
        effects = usual(self, now, result)
        return [CloseListing(), *effects] if self.state == "recording" else effects

    patch.setattr(RouterTurn, "on_end_stored", on_end_stored)


def janitor_does_not_record(patch: Patch) -> None:
    async def recorded(_self: Janitor, _turn: Turn) -> bool:
        return True

    patch.setattr(Janitor, "_recorded", recorded)


def janitor_does_not_ask(patch: Patch) -> None:
    async def silent(_self: Janitor, turns: list[Turn]) -> list[Turn]:
        return turns

    patch.setattr(Janitor, "_silent", silent)


def age_is_by_the_callers_clock(patch: Patch) -> None:
    """The janitor's clock is an hour ahead."""
    usual = SimHistory._idle
    patch.setattr(SimHistory, "_idle", lambda self, idle_ms, limit: usual(self, idle_ms - 3_600_000, limit))


# Rule 11.


def end_is_tried_once(patch: Patch) -> None:
    patch.setattr(RouterTurn, "_go_away", lambda self, _now: self._drop())


def end_is_not_spooled(patch: Patch) -> None:
    async def keep_end(_self: SpoolingRecorder, _key: TurnKey, _effect: Any) -> None:
        return

    patch.setattr(SpoolingRecorder, "keep_end", keep_end)


# Rule 12.


def user_pays_for_every_attempt(patch: Patch) -> None:
    usual = workers.router.attempts.Attempts.closed
    patch.setattr(
        workers.router.attempts.Attempts,
        "closed",
        lambda self, outcome, _payer, text: usual(self, outcome, "user", text),
    )


def gateway_charges(patch: Patch) -> None:
    usual = rules.ended_without_router

    def ended(row: Turn, *args: Any) -> End:
        return msgspec.structs.replace(usual(row, *args), attempt=f"{row.run}.1")

    patch.setattr(rules, "ended_without_router", ended)


def revisions_have_no_roles(patch: Patch) -> None:
    usual = workers.router.attempts.Attempts._entry

    def entry(self: Any, _revision: int, *args: Any) -> Entry:
        return usual(self, REVISION_OPENED, *args)

    patch.setattr(workers.router.attempts.Attempts, "_entry", entry)


# Rule 13.


def unopened_is_answered(patch: Patch) -> None:
    """The gateway does not wait for the open, and the router takes what was meant for what is stored."""
    meant: dict[TurnKey, Turn] = {}
    usual_open, usual_path = SimHistory.open, SimHistory.path

    async def open_(self: SimHistory, turn: NewTurn) -> Applied | Refused:
        row = meant[turn.key] = Turn(opened=turn, epoch=0, run=turn.run, since_ms=turn.since_ms)
        writing = asyncio.ensure_future(usual_open(self, turn))
        writing.add_done_callback(lambda task: task.exception())
        return Applied(row)

    async def path(self: SimHistory, key: TurnKey, max_chars: int) -> tuple[Turn, list[PathTurn]] | None:
        row = meant.get(key)
        return await usual_path(self, key, max_chars) or (row and (row, [PathTurn(row, row.opened.content, "")]))

    patch.setattr(SimHistory, "open", open_)
    patch.setattr(SimHistory, "path", path)


def a_look_spends(patch: Patch) -> None:
    patch.setattr(Supervisor, "spends", property(lambda _self: True, lambda _self, _value: None), raising=False)

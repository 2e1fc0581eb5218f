"""One turn as a gateway supervises it, rule by rule of docs/turns.md."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from core import turn as rules
from core.events import Attach, CancelRun, Detach, Dispatch, Held, Life, Stop, Taken
from core.history.port import Applied, Refused
from core.model import End, NewTurn, Turn
from gateway import dispatch as do
from gateway.dispatch import (
    BUS_GRACE_S,
    CANCEL_EVERY_S,
    HOLD_AFTER_S,
    PUBLISH_EVERY_S,
    PUBLISH_MAX_S,
    READ_EVERY_S,
    Effect,
    Supervisor,
)
from tests.support.turns import new_end, new_id, new_turn

OPENED: NewTurn = new_turn(new_id(), run="run-0", since_ms=1_000_000)
ROW = Turn(opened=OPENED, epoch=0, run="run-0", since_ms=1_000_000)
WAIT_S = 30.0
START = 1000.0
PUBLISH = do.Publish(Dispatch("g", OPENED.key, 0, "run-0", "gw-1"))


def row(**changes: Any) -> Turn:
    values: dict[str, Any] = {"opened": OPENED, "epoch": 0, "run": "run-0", "since_ms": 1_000_000}
    return Turn(**(values | changes))


def ended(**changes: Any) -> Turn:
    stands = row(**changes)
    return row(**changes, end=new_end(stands, epoch=stands.epoch))


END: End = new_end(ROW)
ENDED = row(end=END)


def supervisor() -> Supervisor:
    names = (f"claimed-{n}" for n in itertools.count(1))
    return Supervisor("g", OPENED.key, "gw-1", names.__next__, WAIT_S)


def arbiter() -> Supervisor:
    """One that opened the turn at START."""
    found = supervisor()
    assert found.opened(START, ROW, START) == [PUBLISH]
    return found


def granted() -> Supervisor:
    """One that opened the turn and told router-1 to go, at START."""
    found = arbiter()
    assert found.on_taken(START, taken()) == [do.Grant("router-1", 0, "run-0")]
    return found


def watcher(stands: Turn = ROW, age_ms: int = 0) -> Supervisor:
    """One whose viewer sent for a turn that another gateway opened, `age_ms` before START."""
    found = supervisor()
    found.spends = True
    assert found.watch(START, stands.since_ms + age_ms, stands) == [do.NewEpoch(stands.epoch), do.Ask()]
    return found


def taken(router: str = "router-1", epoch: int = 0, run: str = "run-0") -> Taken:
    return Taken("g", epoch, run, router)


def life(epoch: int = 0, run: str = "run-0", seq: int = 3, has_ended: bool = False) -> Life:
    return Life("g", epoch, run, seq, has_ended)


def deny(router: str = "router-1", epoch: int = 0, run: str = "run-0") -> Effect:
    return do.Deny(router, epoch, run)


def tick(found: Supervisor, at: float, bus_ok: bool = True) -> list[Effect]:
    """What time brings, but for `Ask`: a turn that is silent may be asked after as often as one likes."""
    return [effect for effect in found.tick(at, bus_ok) if not isinstance(effect, do.Ask)]


# --- rule 3: who opened or claimed it dispatches it ---------------------------------------------------------------


def test_an_opened_turn_is_dispatched_until_somebody_takes_it() -> None:
    found, times, at = arbiter(), [], START
    while at < START + 12:
        at = round(at + 0.125, 3)
        if PUBLISH in tick(found, at):
            times.append(at)
    gaps = [late - early for early, late in itertools.pairwise([START, *times])]
    assert gaps[:3] == [PUBLISH_EVERY_S, 2 * PUBLISH_EVERY_S, 4 * PUBLISH_EVERY_S]
    assert gaps == sorted(gaps)
    assert max(gaps) == PUBLISH_MAX_S


def test_once_granted_it_is_dispatched_no_more() -> None:
    found = granted()
    assert [tick(found, START + n / 10) for n in range(10)] == [[]] * 10


def test_a_turn_of_another_is_watched_and_never_dispatched() -> None:
    found = watcher()
    assert not found.arbiter
    assert found.on_taken(START, taken()) == [deny()]
    effects = [effect for n in range(10) for effect in tick(found, START + n / 10)]
    assert effects == []


def test_an_ended_turn_is_shown_and_nothing_else() -> None:
    assert supervisor().watch(START, 0, ENDED) == [do.ShowEnd(END)]


# --- rule 4: taken, then go ---------------------------------------------------------------------------------------


def test_the_first_router_gets_go_and_the_others_no_and_either_again_when_lost() -> None:
    found = granted()
    assert found.on_taken(START, taken("router-2")) == [deny("router-2")]
    assert found.on_taken(START, taken("router-1")) == [do.Grant("router-1", 0, "run-0")]
    assert found.on_taken(START, taken("router-2")) == [deny("router-2")]


@pytest.mark.parametrize("other", [taken(epoch=1), taken(epoch=-1), taken(run="another")])
def test_a_router_that_took_something_else_gets_no(other: Taken) -> None:
    assert arbiter().on_taken(START, other) == [deny(epoch=other.epoch, run=other.run)]


def test_after_the_end_or_a_cancel_nobody_gets_go() -> None:
    found = arbiter()
    found.on_ended(END)
    assert found.on_taken(START, taken()) == [deny()]
    found = arbiter()
    found.on_cancel_stored(START, Applied(row(cancelled=True)))
    assert found.on_taken(START, taken()) == [deny()]


def test_a_late_go_is_preceded_by_a_serial_read() -> None:
    found, at = arbiter(), START + rules.GO_FRESH_S
    assert found.on_taken(at, taken()) == [do.Grant("router-1", 0, "run-0")]
    found, at = arbiter(), START + rules.GO_FRESH_S + 0.01
    assert found.on_taken(at, taken()) == [do.ReadRow(at)]
    assert found.on_row(at + 0.1, 0, ROW, at) == [do.Grant("router-1", 0, "run-0")]


@pytest.mark.parametrize(
    ("stands", "effects"),
    [
        (row(epoch=1, run="another"), [do.NewEpoch(1), do.Ask()]),
        (ENDED, [do.ShowEnd(END)]),
        (row(cancelled=True), [do.EndTurn(row(cancelled=True), "cancelled", None, None)]),
    ],
    ids=["claimed by another", "ended", "cancelled"],
)
def test_a_late_go_is_not_given_where_the_row_says_otherwise(stands: Turn, effects: list[Effect]) -> None:
    found, at = arbiter(), START + 2
    found.on_taken(at, taken())
    assert found.on_row(at, 1_000_000, stands, at) == effects
    assert found.on_taken(at, taken()) == [deny()]


def test_a_read_that_took_longer_than_a_second_grants_nothing() -> None:
    found, at = arbiter(), START + 2
    found.on_taken(at, taken())
    assert found.on_row(at + 1.1, 0, ROW, at) == []
    assert found.on_taken(at + 1.2, taken()) == [do.ReadRow(at + 1.2)]


def test_a_read_that_failed_grants_nothing_and_is_made_again() -> None:
    found, at = arbiter(), START + 2
    found.on_taken(at, taken())
    assert found.on_row_failed(at) == []
    assert found.on_taken(at + 0.25, taken()) == [do.ReadRow(at + 0.25)]


# --- rule 5: life and its loss ------------------------------------------------------------------------------------


def test_an_older_epoch_is_no_sign_of_life_and_is_told_to_stop() -> None:
    found = watcher(row(epoch=2, run="run-2"))
    assert found.on_life(START + 1, life(1, "run-1")) == [do.TellRun(Stop("g", 2))]
    assert tick(found, START + rules.LIFE_LOST_S) == [do.ReadRow(START + rules.LIFE_LOST_S)]


@pytest.mark.parametrize("heard", [life(1, "run-1"), life(has_ended=True)], ids=["newer epoch", "ended"])
def test_what_a_heartbeat_says_is_read_from_the_row(heard: Life) -> None:
    assert watcher().on_life(START, heard) == [do.ReadRow(START)]


@pytest.mark.parametrize("found", [watcher(), granted()], ids=["watcher", "arbiter"])
def test_heartbeats_keep_a_turn_and_another_runs_do_not(found: Supervisor) -> None:
    at = START
    for _ in range(20):
        at += rules.HEARTBEAT_S
        assert found.on_life(at, life()) == []
        assert tick(found, at) == []
    found.on_life(at + 1, life(run="another"))
    assert tick(found, at + rules.LIFE_LOST_S) == [do.ReadRow(at + rules.LIFE_LOST_S)]


def test_another_gateways_lease_is_a_sign_of_life() -> None:
    found = watcher()
    found.on_held(START + 1, Held("g", 0, "another"))
    assert tick(found, START + 1.3) == [do.ReadRow(START + 1.3)]
    found = watcher()
    found.on_held(START + 1, Held("g", 0, "run-0"))
    assert tick(found, START + 1.3) == []


def test_a_silent_turn_is_attached_to_while_it_is_young_and_claimed_when_it_is_unowned() -> None:
    found, at = watcher(), START + 1.3
    assert tick(found, at) == [do.ReadRow(at)]
    assert found.on_row(at, 0, ROW, at) == [do.Ask()]
    assert tick(found, at + READ_EVERY_S / 2) == []
    at = START + rules.UNOWNED_S
    assert tick(found, at) == [do.ReadRow(at)]
    assert found.on_row(at, 0, ROW, at) == [do.ClaimTurn(0, "claimed-1", at)]
    assert tick(found, at + 10) == []


def test_the_arbiter_need_not_wait_three_seconds() -> None:
    found, at = granted(), START + rules.LIFE_LOST_S
    assert tick(found, at) == [do.ReadRow(at)]
    assert found.on_row(at, 0, ROW, at) == [do.ClaimTurn(0, "claimed-1", at)]


def test_the_age_of_an_epoch_is_read_from_the_row() -> None:
    found = watcher(age_ms=5_000)
    at = START + rules.LIFE_LOST_S
    tick(found, at)
    assert found.on_row(at, 0, ROW, at) == [do.ClaimTurn(0, "claimed-1", at)]


def test_a_life_heard_while_the_row_was_read_saves_the_turn() -> None:
    found, at = granted(), START + 2
    tick(found, at)
    found.on_life(at, life())
    assert [effect for effect in found.on_row(at, 0, ROW, at) if isinstance(effect, do.ClaimTurn)] == []


def test_the_clock_stands_still_while_the_bus_is_bad_and_it_asks_before_it_claims() -> None:
    found = granted()
    assert [tick(found, START + n, False) for n in range(60)] == [[]] * 60
    back = START + 60
    assert do.Ask() in found.tick(back, True)
    assert tick(found, back + BUS_GRACE_S) == []
    at = back + BUS_GRACE_S + rules.LIFE_LOST_S
    assert tick(found, at) == [do.ReadRow(at)]


def test_a_turn_that_the_bus_does_not_carry_is_told_to_wait_once() -> None:
    found = arbiter()
    (waiting,) = found.tick(START + 0.5, False)
    assert waiting == do.Waiting(0.5)
    assert found.queued
    assert found.tick(START + 0.6, False) == []
    assert granted().tick(START + 0.5, False) == []


def test_who_only_watches_never_claims_and_ends_what_was_cancelled() -> None:
    """Rule 13: a GET never spends; rule 9: the gateway ends a cancelled turn that nobody has."""
    flagged = row(cancelled=True)
    for stands, effect in ((ROW, do.Ask()), (flagged, do.EndTurn(flagged, "cancelled", None, None))):
        found, at = watcher(stands, age_ms=60_000), START + 2
        found.spends = False
        found.on_superseded(START, 0, "run-0")
        assert found.on_row(at, 0, stands, at) == [effect]


# --- claims -------------------------------------------------------------------------------------------------------


def claiming() -> tuple[Supervisor, float]:
    found, at = granted(), START + 2
    tick(found, at)
    found.on_row(at, 0, ROW, at)
    return found, at


CLAIMED = row(epoch=1, run="claimed-1")
DISPATCHED = do.Publish(Dispatch("g", OPENED.key, 1, "claimed-1", "gw-1"))


def test_a_claimed_epoch_stops_the_older_one_and_is_dispatched() -> None:
    found, at = claiming()
    effects = found.on_claimed(at, 0, at, Applied(CLAIMED))
    assert effects == [do.TellRun(Stop("g", 1)), do.NewEpoch(1), DISPATCHED]
    assert (found.arbiter, found.epoch, found.run) == (True, 1, "claimed-1")
    assert found.on_taken(at, taken(epoch=0)) == [deny(epoch=0)]
    assert found.on_taken(at, taken(epoch=1, run="claimed-1")) == [do.Grant("router-1", 1, "claimed-1")]


def test_a_claim_that_another_won_is_attached_to() -> None:
    found, at = claiming()
    assert found.on_claimed(at, 0, at, Refused(row(epoch=1, run="another"))) == [do.NewEpoch(1), do.Ask()]
    assert not found.arbiter
    found, at = claiming()
    assert found.on_claimed(at, 0, at, Refused(ENDED)) == [do.ShowEnd(END)]


def test_a_claim_whose_result_is_unknown_is_found_in_the_row() -> None:
    found, at = claiming()
    assert found.on_write_failed(at) == []
    assert tick(found, at + READ_EVERY_S) == [do.ReadRow(at + READ_EVERY_S)]
    assert found.on_row(at + 0.3, 0, CLAIMED, at) == [do.NewEpoch(1), DISPATCHED]
    assert found.arbiter


def test_while_a_claim_is_on_its_way_nobody_gets_go_and_nothing_is_read() -> None:
    found, at = claiming()
    assert found.on_taken(at, taken()) == [deny()]
    assert found.on_life(at, life(1, "another")) == []


def test_an_old_row_changes_nothing() -> None:
    found, at = claiming()
    found.on_claimed(at, 0, at, Applied(CLAIMED))
    assert found.on_row(at, 0, ROW, at) == []
    assert found.epoch == 1


def test_nobody_makes_the_fifth_claim() -> None:
    """Rule 8."""
    for epoch in (3, 4):
        stands = row(epoch=epoch, run="run-n")
        found, at = watcher(stands, age_ms=60_000), START + 2
        tick(found, at)
        (effect,) = found.on_row(at, 0, stands, at)
        if epoch == 3:
            assert effect == do.ClaimTurn(3, "claimed-1", at)
        else:
            assert isinstance(effect, do.EndTurn)
            assert (effect.row, effect.kind, effect.code) == (stands, "interrupted", "unavailable")


def test_the_end_that_is_stored_is_shown_whoever_wrote_it() -> None:
    stands = row(epoch=4, run="run-n")
    other = ended(epoch=4, run="run-n")
    for result in (Applied(other), Refused(other)):
        found, at = watcher(stands, age_ms=60_000), START + 2
        tick(found, at)
        found.on_row(at, 0, stands, at)
        assert other.end is not None
        assert found.on_end_stored(at, 0, result) == [do.ShowEnd(other.end)]


# --- rule 7: refused means stop -----------------------------------------------------------------------------------


def test_a_run_that_stopped_by_itself_is_claimed_at_once() -> None:
    found = watcher()
    assert found.on_superseded(START, 0, "another") == []
    assert found.on_superseded(START, 1, "run-0") == []
    assert found.on_superseded(START, 0, "run-0") == [do.ReadRow(START)]
    assert found.on_row(START, 0, ROW, START) == [do.ClaimTurn(0, "claimed-1", START)]


# --- rule 9: cancel -----------------------------------------------------------------------------------------------


def test_a_cancel_sets_the_flag_tells_the_run_and_is_repeated_until_an_end() -> None:
    found = granted()
    assert found.cancel(START) == [do.WriteCancel()]
    tell = do.TellRun(CancelRun("g"))
    assert found.on_cancel_stored(START, Applied(row(cancelled=True))) == [tell]
    at = START
    for _ in range(3):
        assert tick(found, at + CANCEL_EVERY_S / 2) == []
        at += CANCEL_EVERY_S
        found.on_life(at, life())
        assert tick(found, at) == [tell]
    assert found.on_ended(END) == [do.ShowEnd(END)]
    assert tick(found, at + CANCEL_EVERY_S) == []


def test_a_cancel_of_what_has_ended_shows_the_end_that_is_stored() -> None:
    found = granted()
    found.cancel(START)
    assert found.on_cancel_stored(START, Refused(ENDED)) == [do.ShowEnd(END)]
    assert found.cancel(START) == [do.ShowEnd(END)]


def test_a_cancel_that_could_not_be_written_is_written_again() -> None:
    found = granted()
    found.cancel(START)
    assert found.cancel(START) == []
    found.on_write_failed(START)
    assert tick(found, START + CANCEL_EVERY_S) == [do.WriteCancel()]


def test_a_turn_that_nobody_has_is_ended_by_the_gateway() -> None:
    found = arbiter()
    found.cancel(START)
    flagged = row(cancelled=True)
    effects = found.on_cancel_stored(START, Applied(flagged))
    assert effects == [do.TellRun(CancelRun("g")), do.ReadRow(START)]
    assert found.on_row(START, 0, flagged, START) == [do.EndTurn(flagged, "cancelled", None, None)]


def test_a_cancelled_turn_whose_router_died_is_ended_not_claimed() -> None:
    found, flagged, at = granted(), row(cancelled=True), START + 2
    found.on_cancel_stored(START, Applied(flagged))
    assert do.ReadRow(at) in tick(found, at)
    assert found.on_row(at, 0, flagged, at) == [do.EndTurn(flagged, "cancelled", None, None)]


def test_a_cancelled_turn_whose_router_lives_is_left_to_it() -> None:
    found, flagged = granted(), row(cancelled=True)
    found.on_cancel_stored(START, Applied(flagged))
    assert found.on_row(START, 0, flagged, START) == []


# --- waiting for room ---------------------------------------------------------------------------------------------


def test_a_turn_without_a_router_waits_here_and_is_held() -> None:
    found = arbiter()
    assert found.on_no_responders(START + 1) == [do.Waiting(1.0), do.Hold()]
    assert (found.queued, found.holding) == (True, True)
    assert found.on_no_responders(START + 2) == [do.Waiting(2.0)]
    effects = found.on_taken(START + 1, taken())
    assert effects == [do.Grant("router-1", 0, "run-0"), do.Release()]
    assert (found.queued, found.holding) == (False, False)
    assert found.on_no_responders(START + 2) == []


def test_a_dispatch_that_nobody_answers_is_held_too() -> None:
    found = arbiter()
    assert do.Hold() in tick(found, START + HOLD_AFTER_S)


def test_who_asks_about_a_held_turn_is_told_the_lease_and_kept_told() -> None:
    found = arbiter()
    ask = Attach("g", "gw-2", -1, -1)
    assert found.on_attach(START, ask) == []
    found.on_no_responders(START)
    tell = do.TellHeld(("gw-2",), Held("g", 0, "run-0"))
    assert found.on_attach(START, ask) == [tell]
    assert found.on_attach(START, Attach("g", "gw-1", -1, -1)) == []
    assert found.on_attach(START, Detach("g", "gw-2")) == []
    times = [n / 10 for n in range(20) if tell in tick(found, START + n / 10)]
    assert len(times) >= 3
    assert max(late - early for early, late in itertools.pairwise(times)) < rules.LIFE_LOST_S / 2


def test_a_cancel_by_another_gateway_is_seen_while_the_turn_is_held() -> None:
    found = arbiter()
    found.on_no_responders(START)
    assert found.on_attach(START, CancelRun("g")) == [do.ReadRow(START)]


@pytest.mark.parametrize("bus_ok", [True, False])
def test_the_wait_is_bounded_and_then_the_turn_fails(bus_ok: bool) -> None:
    found = arbiter()
    found.on_no_responders(START)
    assert not [e for e in tick(found, START + WAIT_S - 0.1, bus_ok) if isinstance(e, do.EndTurn)]
    (effect,) = tick(found, START + WAIT_S, bus_ok)
    assert isinstance(effect, do.EndTurn)
    assert (effect.row, effect.kind, effect.code) == (ROW, "failed", "no_capacity")
    assert found.on_end_stored(START + WAIT_S, 0, Applied(ENDED)) == [do.Release(), do.ShowEnd(END)]
    assert not found.queued

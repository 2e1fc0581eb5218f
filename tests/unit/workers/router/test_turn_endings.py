"""One turn in a router: a cancel in each state, refusals, history away at the end, watchers, and what comes late."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from core import turn as rules
from core.events import Attach, Beat, CancelRun, Detach, Ended, Finishing, Life, Stop, Superseded, Text
from core.history.port import Applied, Refused
from core.ledger.port import Entry
from core.model import Turn, Usage
from core.providers.port import TextDelta
from tests.support.router_turn import (
    MS,
    OPENED,
    ROW,
    START,
    STATES,
    TEXT,
    Bench,
    in_state,
    kinds,
    one,
    plan,
)
from workers.router import effects as do
from workers.router.effects import Effect
from workers.router.turn import RETRY_EVERY_S

# --- cancel in each state -----------------------------------------------------------------------------------------


def test_a_cancel_hangs_up_and_keeps_the_text() -> None:
    bench = Bench().streaming()
    effects = bench.turn.on_run_message(START, CancelRun("g"))
    assert effects[0] == do.HangUp("run-0.1")
    end, told = bench.stored_end(effects)
    assert (end.kind, end.finish_reason, end.seq, end.attempt) == ("cancelled", "cancelled", 0, "run-0.1")
    assert end.usage == Usage(7, 5, estimated=True)
    assert one(told, do.Tell).messages == [Ended("g", end)]


@pytest.mark.parametrize("state", ["calling", "waiting"])
def test_a_cancel_before_any_text_charges_nobody(state: str) -> None:
    bench = in_state(state)
    effects = bench.turn.on_run_message(START, CancelRun("g"))
    assert [kind for kind in kinds(effects) if kind is do.HangUp] == [do.HangUp] * (state == "calling")
    end = one(effects, do.WriteEnd).end
    assert (end.kind, end.seq, end.attempt, end.usage) == ("cancelled", -1, None, None)
    assert bench.turn.on_events(START, "run-0.1", TEXT) == []


@pytest.mark.parametrize("state", ["offered", "reading", "claiming", "ending", "away", "recording", "dropped"])
def test_a_cancel_where_nothing_can_be_stopped_waits_for_what_history_says(state: str) -> None:
    bench = in_state(state)
    assert bench.turn.on_run_message(START, CancelRun("g")) == []
    assert bench.turn.state == state


def test_a_cancel_after_the_end_is_told_the_end() -> None:
    bench = Bench().ended()
    assert bench.turn.end is not None
    assert bench.turn.on_run_message(START, CancelRun("g")) == [do.Tell([Ended("g", bench.turn.end)])]


def test_a_cancel_that_lost_against_the_end_tells_what_is_stored() -> None:
    """Rule 9: whichever it is."""
    bench = Bench().ending()
    end = one(bench.effects, do.WriteEnd).end
    bench.turn.on_run_message(START, CancelRun("g"))
    row = Turn(opened=OPENED, epoch=0, run="run-0", since_ms=0, cancelled=True, end=end)
    told = bench.record(bench.turn.on_end_stored(START, Applied(row)))
    assert one(told, do.Tell).messages == [Ended("g", end)]


def test_an_attempt_is_closed_in_one_way_only() -> None:
    """Two records of one (attempt, revision) have the same content."""
    bench = Bench().calling()
    bench.record(bench.effects)
    entries = [one(bench.fail(retry_after_s=1.0), do.Record).entry]
    end = one(bench.turn.on_run_message(START, CancelRun("g")), do.WriteEnd).end
    row = Turn(opened=OPENED, epoch=0, run="run-0", since_ms=0, end=end)
    effects = bench.turn.on_end_stored(START, Applied(row))
    entries += [effect.entry for effect in effects if isinstance(effect, do.Record)]
    assert len({(entry.attempt, entry.revision) for entry in entries}) == len(entries)


# --- refused means stop -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["calling", "streaming", "ending", "away"])
def test_a_newer_epoch_stops_the_run_whose_cost_is_the_platforms(state: str) -> None:
    """Rules 5 and 7."""
    bench = in_state(state)
    assert bench.turn.on_run_message(START, Stop("g", 0)) == []
    effects = bench.turn.on_run_message(START, Stop("g", 1))
    assert (do.HangUp("run-0.1") in effects) is (state in ("calling", "streaming"))
    entry = one(effects, do.Record).entry
    assert (entry.outcome, entry.charged_to, entry.revision) == ("superseded", "platform", 2)
    assert effects[-2:] == [do.Tell([Superseded("g", 0, "run-0")]), do.Forget()]


@pytest.mark.parametrize("state", ["recording", "ended"])
def test_what_has_ended_is_not_stopped(state: str) -> None:
    assert in_state(state).turn.on_run_message(START, Stop("g", 1)) == []


def test_an_end_that_is_refused_is_told_as_superseded() -> None:
    other = Turn(opened=OPENED, epoch=1, run="run-x", since_ms=0)
    bench = Bench().ending()
    record, tell, forget = bench.turn.on_end_stored(START, Refused(other))
    assert isinstance(record, do.Record)
    assert (record.entry.charged_to, record.entry.outcome) == ("platform", "superseded")
    assert (tell, forget) == (do.Tell([Superseded("g", 0, "run-0")]), do.Forget())


# --- history away at the end --------------------------------------------------------------------------------------


def test_an_end_that_history_cannot_take_is_told_as_finishing_and_written_again() -> None:
    """Rule 11."""
    bench = Bench().ending()
    first = one(bench.effects, do.WriteEnd)
    assert bench.turn.on_end_failed(START) == [do.Tell([Finishing("g", 0, "run-0")])]
    assert bench.turn.alive
    assert bench.turn.life() == Life("g", 0, "run-0", 0, False)
    assert bench.turn.tick(START + RETRY_EVERY_S / 2) == []
    assert bench.turn.tick(START + RETRY_EVERY_S) == [first]
    assert bench.turn.tick(START + 2) == []
    assert bench.turn.on_end_failed(START + 2) == []
    assert bench.turn.tick(START + 3) == [first]
    row = Turn(opened=OPENED, epoch=0, run="run-0", since_ms=0, end=first.end)
    told = bench.record(bench.turn.on_end_stored(START + 4, Applied(row)))
    assert told == [do.Tell([Ended("g", first.end)]), do.CloseListing()]


def drive_away(bench: Bench, fail: Callable[[float], list[Effect]]) -> list[Effect]:
    """History stays away for two minutes; what the turn does at last."""
    for n in range(1_200):
        at = START + n / 10
        for effect in bench.turn.tick(at):
            if isinstance(effect, do.Append | do.WriteEnd):
                effects = fail(at)
                if effects:
                    assert at - START >= rules.HISTORY_AWAY_S
                    return effects
    return []


def test_after_a_minute_the_end_goes_to_the_spool() -> None:
    bench = Bench().away()
    end = one(bench.store(bench.turn.tick(START + RETRY_EVERY_S)), do.WriteEnd).end
    bench.turn.on_end_failed(START + RETRY_EVERY_S)
    spool = one(drive_away(bench, bench.turn.on_end_failed), do.SpoolEnd)
    assert (spool.end, spool.increments) == (end, ())
    assert spool.entry is not None
    assert (spool.entry.charged_to, spool.entry.outcome) == ("user", "done")
    assert bench.turn.alive, "no watcher may have it begun again"


def test_a_spooled_end_is_still_tried_and_left_to_the_spool_to_record() -> None:
    bench = Bench().away()
    end = one(bench.store(bench.turn.tick(START + RETRY_EVERY_S)), do.WriteEnd).end
    bench.turn.on_end_failed(START + RETRY_EVERY_S)
    drive_away(bench, bench.turn.on_end_failed)
    later = START + 90
    assert one(bench.turn.tick(later), do.WriteEnd).end == end
    assert bench.turn.on_end_failed(later) == [], "it is spooled once"
    assert one(bench.turn.tick(later + 1), do.WriteEnd).end == end
    row = msgspec.structs.replace(bench.row, end=end)
    told = bench.turn.on_end_stored(later + 1, Applied(row))
    assert told == [do.Tell([Ended("g", end)])], "recorded, and unlisted, by who replays the spool"


def test_after_a_minute_the_text_that_history_misses_goes_to_the_spool_too() -> None:
    bench = Bench().streaming()
    increment = one(bench.finish(), do.Append).increment
    assert bench.turn.on_append_failed(START) == [do.Tell([Finishing("g", 0, "run-0")])]
    spool = one(drive_away(bench, bench.turn.on_append_failed), do.SpoolEnd)
    assert spool.increments == (increment,)
    assert spool.end.chunks == 1


def test_an_increment_that_could_not_be_stored_is_written_again_the_same() -> None:
    bench = Bench().streaming()
    first = bench.turn.tick(START + 2)
    assert bench.turn.on_append_failed(START + 2) == []
    assert bench.turn.tick(START + 2.6) == first
    assert bench.turn.state == "streaming"


def test_history_away_between_two_attempts_is_waited_for_as_long_as_an_end() -> None:
    bench = Bench().waiting()
    assert bench.turn.on_row_failed(START + 1) == []
    assert bench.turn.tick(START + 1 + RETRY_EVERY_S) == [do.Reread(START + 1 + RETRY_EVERY_S)]
    assert bench.turn.on_row_failed(START + rules.HISTORY_AWAY_S + 1) == [do.Forget()]


# --- watchers -----------------------------------------------------------------------------------------------------


def pieces(effect: Effect) -> list[tuple[int, str]]:
    assert isinstance(effect, do.TellOne)
    return [(message.seq, message.piece.d) for message in effect.messages if isinstance(message, Text)]


def test_who_attaches_gets_the_tail_then_a_sign_of_life_then_live_text() -> None:
    bench = Bench().streaming()
    bench.turn.on_events(START, "run-0.1", [TextDelta("a")])
    bench.turn.on_events(START, "run-0.1", [TextDelta("b")])
    (effect,) = bench.turn.on_run_message(START, Attach("g", "gw-2", 0, 0))
    assert isinstance(effect, do.TellOne)
    assert effect.edge == "gw-2"
    assert pieces(effect) == [(1, "a"), (2, "b")]
    assert effect.messages[-1] == Beat("router-1", [Life("g", 0, "run-0", 2, False)])
    assert list(bench.turn.edges) == ["gw-1", "gw-2"]
    bench.turn.on_run_message(START, Detach("g", "gw-1"))
    assert list(bench.turn.edges) == ["gw-2"]


@pytest.mark.parametrize(("epoch", "seq", "tail"), [(-1, -1, 1), (7, 0, 1), (0, -1, 1), (0, 0, 0), (0, 2**62, 0)])
def test_an_address_of_another_epoch_gets_everything(epoch: int, seq: int, tail: int) -> None:
    bench = Bench().streaming()
    (effect,) = bench.turn.on_run_message(START, Attach("g", "gw-2", epoch, seq))
    assert len(pieces(effect)) == tail


@pytest.mark.parametrize("state", STATES)
def test_every_run_from_its_grant_on_answers_who_attaches(state: str) -> None:
    bench = in_state(state)
    effects = bench.turn.on_run_message(START, Attach("g", "gw-2", -1, -1))
    if state in ("offered", "dropped"):
        assert effects == []
        assert not bench.turn.alive
        return
    assert bench.turn.alive
    messages = one(effects, do.TellOne).messages
    assert Beat("router-1", [bench.turn.life()]) in messages
    assert bench.turn.life().ended is (state == "ended")
    assert any(isinstance(message, Ended) for message in messages) is (state == "ended")
    assert any(isinstance(message, Finishing) for message in messages) is (state == "away")


def test_the_tail_is_kept_for_ten_minutes_after_the_end() -> None:
    bench = Bench().ended()
    assert bench.turn.tick(START + rules.TAIL_LIFE_S - 1) == []
    (effect,) = bench.turn.on_run_message(START, Attach("g", "gw-2", -1, -1))
    assert pieces(effect) == [(0, "hello")]
    assert bench.turn.tick(START + rules.TAIL_LIFE_S) == [do.Forget()]


# --- late answers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["ended", "dropped"])
def test_what_comes_late_changes_nothing(state: str) -> None:
    bench = in_state(state)
    turn, entry = bench.turn, _entry()
    late: list[tuple[Any, ...]] = [
        (turn.on_go, START),
        (turn.on_ready, START, MS, ROW, plan()),
        (turn.on_row, START, MS, ROW, START),
        (turn.on_row_failed, START),
        (turn.on_events, START, "run-0.1", TEXT),
        (turn.on_finished, START, MS, "run-0.1"),
        (turn.on_failed, START, MS, "run-0.1", "cut", False, 0.0),
        (turn.on_recorded, START, MS, entry),
        (turn.on_claimed, START, MS, do.ClaimNext(0, "run-1", START), Applied(ROW)),
        (turn.on_appended, START, 0),
        (turn.on_append_failed, START),
        (turn.on_end_stored, START, Refused(ROW)),
        (turn.on_end_failed, START),
        (turn.tick, START),
    ]
    for act, *arguments in late:
        assert act(*arguments) == [], act.__name__
        assert turn.state == state


def _entry() -> Entry:
    bench = Bench().calling()
    return one(bench.effects, do.Record).entry

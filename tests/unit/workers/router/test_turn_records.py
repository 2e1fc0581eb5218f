"""One turn in a router whose usage records wait: in the spool, or nowhere."""

from __future__ import annotations

from core.events import Ended, Superseded
from tests.support.router_turn import MS, START, TEXT, Bench, kinds, one
from workers.router import effects as do


def test_an_end_whose_record_is_only_spooled_is_told_and_stays_listed() -> None:
    bench = Bench().recording()
    record = one(bench.effects, do.Record)
    told = bench.turn.on_recorded(START, MS, record.entry, acknowledged=False)
    assert kinds(told) == [do.Tell]
    assert bench.turn.state == "ended"


def test_without_the_opening_record_nothing_is_shown_and_another_router_answers() -> None:
    bench = Bench().calling()
    opening = one(bench.effects, do.Record)
    assert bench.turn.on_events(START, "run-0.1", TEXT) == []
    effects = bench.turn.on_unrecorded(START, opening.entry)
    assert effects[0] == do.HangUp("run-0.1")
    closing = one(effects, do.Record).entry
    assert (closing.revision, closing.outcome, closing.charged_to) == (2, "superseded", "platform")
    assert one(effects, do.Tell).messages == [Superseded("g", 0, "run-0")]
    assert effects[-1] == do.Forget()
    assert bench.turn.on_recorded(START, MS, opening.entry) == []
    assert bench.turn.on_unrecorded(START, closing) == []


def test_a_stored_end_is_told_though_nothing_takes_its_record() -> None:
    bench = Bench().recording()
    record = one(bench.effects, do.Record)
    told = bench.turn.on_unrecorded(START, record.entry)
    assert kinds(told) == [do.Tell]
    assert isinstance(one(told, do.Tell).messages[0], Ended)
    assert bench.turn.on_unrecorded(START, record.entry) == []


def test_a_late_failure_of_an_earlier_record_changes_nothing() -> None:
    bench = Bench().calling()
    opening = one(bench.effects, do.Record)
    bench.record([opening])
    bench.turn.on_events(START, "run-0.1", TEXT)
    assert bench.turn.on_unrecorded(START, opening.entry) == []
    assert bench.turn.state == "streaming"

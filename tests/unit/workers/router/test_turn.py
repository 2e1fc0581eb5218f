"""One turn in a router: the happy path, the grant, each failure of a provider, and the bounds of an answer."""

from __future__ import annotations

import pytest

from core import turn as rules
from core.events import Beat, Ended, Life, Superseded, Text
from core.history.port import Applied, Refused
from core.model import Piece, Turn, Usage
from core.providers.port import Finished, TextDelta
from tests.support.router_turn import (
    FAR,
    MS,
    NEAR,
    OPENED,
    ROW,
    START,
    TAKEN,
    TEXT,
    Bench,
    kinds,
    one,
    plan,
)
from tests.support.turns import new_end
from workers.router import effects as do
from workers.router.turn import MAX_ATTEMPTS, MAX_TURN_S, OFFER_EVERY_S

# --- the happy path -----------------------------------------------------------------------------------------------


def test_a_turn_from_its_dispatch_to_its_end() -> None:
    bench = Bench()
    turn = bench.turn
    assert bench.effects == [TAKEN]
    assert turn.on_go(START) == [do.Serve(), do.ReadPath(START)]
    record, call = turn.on_ready(START, MS, ROW, plan())
    assert call == do.Call("run-0.1", 0)
    assert isinstance(record, do.Record)
    assert (record.entry.attempt, record.entry.revision, record.entry.outcome) == ("run-0.1", 0, "opened")
    assert bench.record([record]) == []
    told = turn.on_events(START, "run-0.1", [TextDelta("one "), TextDelta("two")])
    assert told == [do.Tell([Text("g", 0, "run-0", 0, Piece("text", 0, "one two"))])]
    turn.on_events(START, "run-0.1", [Finished("stop"), Usage(11, 3)])
    (append,) = turn.on_finished(START, MS, "run-0.1")
    assert isinstance(append, do.Append)
    assert (append.increment.i, append.increment.seq) == (0, 0)
    end = one(turn.on_appended(START, 0), do.WriteEnd).end
    assert (end.kind, end.epoch, end.run, end.writer, end.chunks, end.seq) == ("done", 0, "run-0", "router-1", 1, 0)
    assert (end.finish_reason, end.model, end.provider) == ("stop", OPENED.model, "near")
    assert (end.usage, end.cost, end.attempt) == (Usage(11, 3), 41, "run-0.1")
    assert end.hash == rules.text_hash([append.increment])
    (record,) = turn.on_end_stored(START, Applied(Turn(opened=OPENED, epoch=0, run="run-0", since_ms=0, end=end)))
    assert isinstance(record, do.Record)
    assert (record.entry.revision, record.entry.charged_to, record.entry.outcome) == (2, "user", "done")
    assert bench.record([record]) == [do.Tell([Ended("g", end)]), do.CloseListing()]


def test_no_text_is_told_before_the_attempt_is_on_record() -> None:
    bench = Bench().calling()
    assert bench.turn.on_events(START, "run-0.1", TEXT) == []
    assert bench.turn.on_finished(START, MS, "run-0.1") == []
    told, append = bench.record(bench.effects)
    assert told == do.Tell([Text("g", 0, "run-0", 0, Piece("text", 0, "hello"))])
    assert isinstance(append, do.Append)


def test_the_end_is_told_only_after_its_record() -> None:
    bench = Bench().recording()
    assert kinds(bench.effects) == [do.Record]
    assert kinds(bench.record(bench.effects)) == [do.Tell, do.CloseListing]


def test_increments_are_stored_one_at_a_time_and_before_the_end() -> None:
    bench = Bench().streaming()
    bench.now += 2.5
    first = bench.turn.tick(bench.now)
    assert kinds(first) == [do.Append]
    bench.turn.on_events(bench.now, "run-0.1", [TextDelta(" again")])
    assert bench.finish() == []
    second = bench.turn.on_appended(bench.now, 0)
    assert kinds(second) == [do.Append]
    assert [one(effects, do.Append).increment.i for effects in (first, second)] == [0, 1]
    assert one(bench.turn.on_appended(bench.now, 0), do.WriteEnd).end.chunks == 2


def test_text_is_stored_two_seconds_after_it_came() -> None:
    bench = Bench().streaming()
    assert bench.turn.tick(START + 1.9) == []
    assert kinds(bench.turn.tick(START + 2.0)) == [do.Append]


# --- taken, then go -----------------------------------------------------------------------------------------------


def test_taken_is_repeated_and_given_up_after_a_second() -> None:
    bench = Bench()
    assert bench.turn.tick(START + OFFER_EVERY_S / 2) == []
    assert bench.turn.tick(START + OFFER_EVERY_S) == [TAKEN]
    assert bench.turn.tick(START + rules.CALL_FRESH_S + 0.01) == [do.Forget()]
    assert bench.turn.on_go(START + 1.1) == []


def test_a_second_go_changes_nothing_and_no_is_heard_only_before_it() -> None:
    bench = Bench().reading()
    assert bench.turn.on_go(START) == []
    assert bench.turn.on_no() == []
    assert bench.turn.state == "reading"
    assert Bench().turn.on_no() == [do.Forget()]


def test_a_provider_is_called_within_a_second_of_taken_or_not_at_all() -> None:
    for late, called in ((1.0, True), (1.01, False)):
        bench = Bench().reading()
        effects = bench.turn.on_ready(START + late, MS, ROW, plan())
        assert kinds(effects) == ([do.Record, do.Call] if called else [do.Forget])


@pytest.mark.parametrize(
    "row",
    [
        None,
        Turn(opened=OPENED, epoch=1, run="run-x", since_ms=0),
        Turn(opened=OPENED, epoch=0, run="run-x", since_ms=0),
        Turn(opened=OPENED, epoch=0, run="run-0", since_ms=0, cancelled=True),
        Turn(opened=OPENED, epoch=0, run="run-0", since_ms=0, end=new_end(OPENED)),
    ],
)
def test_what_the_row_does_not_want_is_never_called(row: Turn | None) -> None:
    """Rules 4 and 7."""
    expected = [do.Tell([Superseded("g", 0, "run-0")]), do.Forget()]
    assert Bench().reading().turn.on_ready(START, MS, row, plan()) == expected
    assert Bench().reading().turn.on_unready(START, row, "invalid", "no") == expected
    assert Bench().waiting().turn.on_row(START, MS, row, START) == expected


def test_without_a_row_nothing_is_called() -> None:
    assert Bench().reading().turn.on_unread() == [do.Forget()]


def test_what_cannot_be_answered_fails_and_charges_nobody() -> None:
    bench = Bench().reading()
    effects = bench.turn.on_unready(START, ROW, "context_too_long", "too long")
    end, told = bench.stored_end(effects)
    assert (end.kind, end.code, end.message) == ("failed", "context_too_long", "too long")
    assert (end.attempt, end.usage, end.cost, end.seq, end.chunks) == (None, None, 0, -1, 0)
    assert told == [do.Tell([Ended("g", end)]), do.CloseListing()]


# --- failures of a provider ---------------------------------------------------------------------------------------


def test_before_the_first_token_the_next_route_takes_over_in_the_same_epoch() -> None:
    bench = Bench().calling(NEAR, FAR)
    bench.record(bench.effects)
    closed, reread = bench.fail()
    assert isinstance(closed, do.Record)
    assert (closed.entry.revision, closed.entry.outcome, closed.entry.charged_to) == (2, "error", "platform")
    assert reread == do.Reread(START)
    opened, call = bench.turn.on_row(START + 0.1, MS, ROW, START)
    assert call == do.Call("run-0.2", 1)
    assert isinstance(opened, do.Record)
    assert (opened.entry.provider, opened.entry.epoch) == ("far", 0)


def test_another_attempt_too_is_made_only_within_a_second_of_its_read() -> None:
    bench = Bench().calling(NEAR, FAR)
    bench.record(bench.effects)
    bench.fail()
    assert bench.turn.on_row(START + 1.1, MS, ROW, START) == [do.Forget()]


def test_a_single_route_is_tried_again_after_the_wish_of_the_provider_but_within_two_seconds() -> None:
    for wish, wait in ((1.0, 1.0), (60.0, 2.0)):
        bench = Bench().calling()
        bench.record(bench.effects)
        assert kinds(bench.fail(retry_after_s=wish)) == [do.Record]
        assert bench.turn.tick(START + wait - 0.1) == []
        assert bench.turn.tick(START + wait) == [do.Reread(START + wait)]
        assert bench.turn.tick(START + wait + 0.1) == []


def test_an_attempt_that_cannot_succeed_is_not_repeated() -> None:
    bench = Bench().calling()
    bench.record(bench.effects)
    end, _ = bench.stored_end(bench.fail(final=True))
    assert (end.kind, end.code, end.attempt, end.cost) == ("failed", "provider_error", None, 0)


def test_attempts_are_bounded() -> None:
    bench = Bench().calling()
    for n in range(1, MAX_ATTEMPTS + 1):
        assert bench.turn.attempt == f"run-0.{n}"
        bench.record(bench.effects)
        bench.fail()
        if n < MAX_ATTEMPTS:
            bench.effects = bench.turn.on_row(START, MS, ROW, START)
    end, told = bench.stored_end(bench.effects)
    assert (end.kind, end.code) == ("failed", "provider_error")
    assert one(told, do.Tell).messages == [Ended("g", end)]


def test_what_a_dead_attempt_still_says_is_nothing() -> None:
    bench = Bench().calling(NEAR, FAR)
    bench.record(bench.effects)
    bench.fail()
    bench.record(bench.turn.on_row(START, MS, ROW, START))
    assert bench.turn.on_events(START, "run-0.1", TEXT) == []
    assert bench.turn.on_finished(START, MS, "run-0.1") == []
    assert bench.turn.on_failed(START, MS, "run-0.1", "cut", False, 0.0) == []
    assert bench.turn.text.pieces == []


def test_mid_stream_without_another_route_the_text_is_kept() -> None:
    bench = Bench().streaming()
    end, told = bench.stored_end(bench.fail())
    assert (end.kind, end.code, end.seq, end.chunks) == ("interrupted", "provider_error", 0, 1)
    assert end.usage == Usage(7, 5, estimated=True)
    assert (end.attempt, end.cost) == ("run-0.1", 57)
    assert kinds(told) == [do.Tell, do.CloseListing]


def test_mid_stream_with_another_route_the_next_epoch_is_claimed() -> None:
    bench = Bench().streaming(NEAR, FAR)
    closed, claim = bench.fail()
    assert isinstance(closed, do.Record)
    assert (closed.entry.outcome, closed.entry.charged_to, closed.entry.epoch) == ("error", "platform", 0)
    assert claim == do.ClaimNext(0, "run-1", START)
    row = Turn(opened=OPENED, epoch=1, run="run-1", since_ms=0)
    tell, record, call = bench.turn.on_claimed(START + 0.5, MS, do.ClaimNext(0, "run-1", START), Applied(row))
    assert tell == do.Tell([Beat("router-1", [Life("g", 1, "run-1", -1, False)])])
    assert call == do.Call("run-1.1", 1)
    bench.record([record])
    told = bench.turn.on_events(START, "run-1.1", TEXT)
    assert told == [do.Tell([Text("g", 1, "run-1", 0, Piece("text", 0, "hello"))])]
    end, _ = bench.stored_end(bench.finish())
    assert (end.epoch, end.run, end.attempt, end.seq, end.chunks) == (1, "run-1", "run-1.1", 0, 1)


def test_a_claim_that_is_refused_failed_or_took_too_long_stops_the_run() -> None:
    asked = do.ClaimNext(0, "run-1", START)
    row = Turn(opened=OPENED, epoch=1, run="run-1", since_ms=0)
    stop = [do.Tell([Superseded("g", 0, "run-0")]), do.Forget()]
    assert Bench().claiming().turn.on_claimed(START, MS, asked, Refused(row)) == stop
    assert Bench().claiming().turn.on_claimed(START + 1.1, MS, asked, Applied(row)) == stop
    assert Bench().claiming().turn.on_claim_failed(START) == stop


def test_a_router_does_not_make_the_fifth_claim_either() -> None:
    """Rule 8."""
    bench = Bench().streaming(NEAR, FAR)
    bench.turn.epoch = rules.MAX_EPOCH
    assert one(bench.store(bench.fail()), do.WriteEnd).end.kind == "interrupted"


def test_an_append_of_a_dead_epoch_does_not_disturb_the_next() -> None:
    bench = Bench().streaming(NEAR, FAR)
    bench.turn.tick(START + 2.5)
    bench.fail()
    row = Turn(opened=OPENED, epoch=1, run="run-1", since_ms=0)
    bench.record(bench.turn.on_claimed(START, MS, do.ClaimNext(0, "run-1", START), Applied(row)))
    bench.turn.on_events(START, "run-1.1", [TextDelta("anew")])
    assert bench.finish() == []
    append = one(bench.turn.on_appended(START, 0), do.Append)
    assert (append.epoch, append.increment.i, append.increment.pieces[0].d) == (1, 0, "anew")


def test_text_of_a_dead_epoch_that_could_not_be_stored_is_not_stored_as_the_nexts() -> None:
    bench = Bench().streaming(NEAR, FAR)
    bench.turn.tick(START + 2.5)
    assert bench.turn.on_append_failed(START) == []
    bench.fail()
    row = Turn(opened=OPENED, epoch=1, run="run-1", since_ms=0)
    bench.record(bench.turn.on_claimed(START, MS, do.ClaimNext(0, "run-1", START), Applied(row)))
    assert kinds(bench.turn.on_events(START, "run-1.1", [TextDelta("anew")])) == [do.Tell]
    assert bench.turn.tick(START + 0.5) == []
    (append,) = bench.finish()
    assert isinstance(append, do.Append)
    assert (append.epoch, append.increment.i, append.increment.pieces[0].d) == (1, 0, "anew")
    assert kinds(bench.turn.on_appended(START, 1)) == [do.WriteEnd]


# --- bounds -------------------------------------------------------------------------------------------------------


def test_an_answer_that_grows_without_end_is_cut_as_too_long() -> None:
    bench = Bench().streaming()
    effects = bench.turn.on_events(START, "run-0.1", [TextDelta("x" * (1 << 20))])
    assert one(effects, do.HangUp).attempt == "run-0.1"
    end = one(bench.store(effects), do.WriteEnd).end
    assert (end.kind, end.finish_reason) == ("done", "length")


def test_an_answer_that_takes_too_long_is_interrupted() -> None:
    bench = Bench().streaming()
    bench.now = START + MAX_TURN_S + 1
    effects = bench.turn.tick(bench.now)
    assert kinds(effects)[0] is do.HangUp
    assert one(bench.store(effects), do.WriteEnd).end.kind == "interrupted"

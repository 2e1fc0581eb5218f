"""The state machine of a turn: each transition, each predicate at its boundary, and what no order of writes can do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from core import turn as rules
from core.history.port import Applied, Refused
from core.model import End, EndKind, Increment, Piece, Turn
from tests.support.turns import new_end, new_id, new_turn, text

CONVERSATION = new_id()
OPENED = new_turn(CONVERSATION, run="run-0", since_ms=5)
ROW = Turn(opened=OPENED, epoch=0, run="run-0", since_ms=5)


def row(**changes: Any) -> Turn:
    values: dict[str, Any] = {"opened": OPENED, "epoch": 2, "run": "run-2", "since_ms": 7}
    return Turn(**(values | changes))


ENDING = new_end(row(), writer="router")
ENDED = row(end=ENDING)


# --- open ---------------------------------------------------------------------------------------------------------


def test_open_makes_the_row_of_epoch_0() -> None:
    assert rules.open_turn(None, False, OPENED) == Applied(ROW)


def test_open_is_refused_without_a_row_in_a_deleted_conversation() -> None:
    assert rules.open_turn(None, True, OPENED) == Refused(None)


@pytest.mark.parametrize("deleted", [False, True])
def test_an_open_repeated_finds_its_own_run(deleted: bool) -> None:
    assert rules.open_turn(ROW, deleted, OPENED) == Applied(ROW)


@pytest.mark.parametrize(
    "stands",
    [
        Turn(opened=OPENED, epoch=0, run="another", since_ms=5),
        Turn(opened=OPENED, epoch=1, run="run-0", since_ms=5),
        Turn(opened=OPENED, epoch=0, run="run-0", since_ms=5, cancelled=True),
        Turn(opened=OPENED, epoch=0, run="run-0", since_ms=5, end=new_end(OPENED)),
    ],
    ids=["another's run", "claimed since", "cancelled since", "ended since"],
)
def test_an_open_is_refused_with_the_row_as_it_stands(stands: Turn) -> None:
    assert rules.open_turn(stands, False, OPENED) == Refused(stands)


# --- claim --------------------------------------------------------------------------------------------------------


def test_a_claim_makes_the_next_epoch_with_a_run_and_a_since_of_its_own() -> None:
    assert rules.claim(row(), 2, "mine", 99) == Applied(row(epoch=3, run="mine", since_ms=99))


def test_a_claim_repeated_finds_its_own_run_and_keeps_the_first_since() -> None:
    first = rules.claim(row(), 2, "mine", 99)
    assert rules.claim(first.turn, 2, "mine", 100) == first


@pytest.mark.parametrize(
    "stands",
    [
        row(epoch=1),
        row(epoch=3, run="another"),
        row(epoch=4, run="mine"),
        row(cancelled=True),
        ENDED,
        row(epoch=3, run="mine", cancelled=True),
        row(epoch=3, run="mine", end=new_end(row(epoch=3))),
    ],
    ids=["older", "another's", "newer", "cancelled", "ended", "mine, cancelled since", "mine, ended since"],
)
def test_a_claim_is_refused_with_the_row_as_it_stands(stands: Turn) -> None:
    assert rules.claim(stands, 2, "mine", 99) == Refused(stands)


def test_nothing_can_be_done_to_a_turn_that_is_not_there() -> None:
    assert rules.claim(None, 0, "mine", 99) == Refused(None)
    assert rules.cancel(None) == Refused(None)
    assert rules.end(None, ENDING) == Refused(None)


# --- cancel and end -----------------------------------------------------------------------------------------------


def test_a_cancel_sets_the_flag_and_nothing_else() -> None:
    flagged = row(cancelled=True)
    assert rules.cancel(row()) == Applied(flagged)
    assert rules.cancel(flagged) == Applied(flagged)


@pytest.mark.parametrize("stands", [ENDED, row(end=ENDING, cancelled=True)])
def test_a_cancel_after_the_end_is_told_the_end(stands: Turn) -> None:
    assert rules.cancel(stands) == Refused(stands)


@pytest.mark.parametrize("cancelled", [False, True])
@pytest.mark.parametrize("kind", ["done", "cancelled", "interrupted", "failed"])
def test_an_end_of_the_current_epoch_is_taken_cancelled_or_not(cancelled: bool, kind: EndKind) -> None:
    """Rule 9: the flag does not forbid `done`."""
    ending = new_end(row(), kind=kind)
    assert rules.end(row(cancelled=cancelled), ending) == Applied(row(cancelled=cancelled, end=ending))


@pytest.mark.parametrize("epoch", [1, 3])
def test_an_end_of_another_epoch_is_refused(epoch: int) -> None:
    assert rules.end(row(), new_end(row(), epoch=epoch)) == Refused(row())


def test_the_first_end_stays() -> None:
    assert rules.end(ENDED, new_end(row(), writer="router", kind="failed")) == Applied(ENDED)
    for other in ({"writer": "gateway"}, {"run": "another"}, {"epoch": 3}):
        assert rules.end(ENDED, new_end(row(), **({"writer": "router"} | other))) == Refused(ENDED)


# --- every order of writes ----------------------------------------------------------------------------------------

RUNS = st.sampled_from(["a", "b", "c"])
EPOCHS = st.integers(0, 5)


class AnyOrder(RuleBasedStateMachine):
    """Writers who know little, in any order: what the row has been stays a history of one turn."""

    @initialize()
    def begin(self) -> None:
        self.row: Turn | None = None
        self.deleted = False

    def move(self, verdict: Applied | Refused, confirms: Callable[[Turn], bool]) -> None:
        """Applied: the new row; or, unchanged, the writer's own earlier work. Refused: the row as it stands."""
        before = self.row
        if isinstance(verdict, Refused):
            assert verdict.turn == before
            return
        after = verdict.turn
        if before is not None:
            assert after.opened == before.opened
            assert after.epoch - before.epoch in (0, 1)
            assert after.cancelled or not before.cancelled
            assert before.end is None or after == before
            assert after.epoch == before.epoch or not (before.cancelled or before.end)
        if after == before:
            assert confirms(after)
        self.row = after

    @rule(run=RUNS, deleted=st.booleans())
    def open(self, run: str, deleted: bool) -> None:
        verdict = rules.open_turn(self.row, deleted, new_turn(CONVERSATION, turn_id=OPENED.key.turn_id, run=run))
        assert not (self.row is None and deleted and isinstance(verdict, Applied))
        self.move(verdict, lambda row: row.epoch == 0 and row.run == run and not row.cancelled and row.end is None)

    @rule(epoch=EPOCHS, run=RUNS, current=st.booleans())
    def claim(self, epoch: int, run: str, current: bool) -> None:
        if current and self.row is not None:
            epoch = self.row.epoch
        named = f"{run}-{epoch + 1}"
        verdict = rules.claim(self.row, epoch, named, epoch)
        if isinstance(verdict, Applied):
            assert (verdict.turn.epoch, verdict.turn.run) == (epoch + 1, named)
        self.move(verdict, lambda row: row.run == named and not row.cancelled and row.end is None)

    @rule()
    def cancel(self) -> None:
        self.move(rules.cancel(self.row), lambda row: row.cancelled and row.end is None)

    @rule(epoch=EPOCHS, writer=RUNS, kind=st.sampled_from(["done", "failed"]))
    def end(self, epoch: int, writer: str, kind: EndKind) -> None:
        ending = new_end(OPENED, epoch=epoch, writer=writer, kind=kind)
        verdict = rules.end(self.row, ending)

        def mine(row: Turn) -> bool:
            return row.end is not None and (row.end.writer, row.end.epoch) == (writer, epoch)

        assert isinstance(verdict, Refused) or mine(verdict.turn)
        self.move(verdict, mine)

    @invariant()
    def an_ended_row_is_final(self) -> None:
        if self.row is None or self.row.end is None:
            return
        assert self.row.end.epoch == self.row.epoch
        assert not rules.answers(self.row, self.row.epoch, self.row.run)
        assert isinstance(rules.cancel(self.row), Refused)
        assert isinstance(rules.claim(self.row, self.row.epoch, "late", 0), Refused)


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)


# --- predicates ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stands", "good"),
    [
        (row(), True),
        (None, False),
        (row(epoch=3), False),
        (row(run="another"), False),
        (row(cancelled=True), False),
        (ENDED, False),
    ],
)
def test_a_run_answers_only_while_the_row_names_it(stands: Turn | None, good: bool) -> None:
    assert rules.answers(stands, 2, "run-2") is good


@pytest.mark.parametrize("fresh", [rules.may_go_unread, rules.may_call])
def test_one_second_is_fresh_and_no_more(fresh: Callable[[float, float], bool]) -> None:
    assert fresh(10.0, 10.0)
    assert fresh(11.0, 10.0)
    assert not fresh(11.001, 10.0)


@pytest.mark.parametrize(
    ("life", "since", "arbiter", "good"),
    [
        (rules.LIFE_LOST_S, rules.UNOWNED_S, False, True),
        (rules.LIFE_LOST_S - 0.01, rules.UNOWNED_S, False, False),
        (rules.LIFE_LOST_S, rules.UNOWNED_S - 0.01, False, False),
        (rules.LIFE_LOST_S, 0.0, True, True),
        (rules.LIFE_LOST_S - 0.01, rules.UNOWNED_S, True, False),
    ],
)
def test_an_epoch_is_unowned_after_lost_heartbeats_and_for_strangers_three_seconds(
    life: float, since: float, arbiter: bool, good: bool
) -> None:
    now = 1024.0
    assert rules.unowned(now, now - life, now - since, arbiter) is good


def test_two_heartbeats_are_missed_before_a_life_is_lost() -> None:
    assert rules.LIFE_LOST_S > 2 * rules.HEARTBEAT_S


def test_four_claims_and_no_fifth() -> None:
    """Rule 8."""
    stands, claims = ROW, 0
    while rules.may_claim(stands):
        claims += 1
        verdict = rules.claim(stands, stands.epoch, f"run-{claims}", 0)
        assert isinstance(verdict, Applied)
        stands = verdict.turn
    assert claims == 4


def test_older_epochs_are_stale() -> None:
    assert [rules.stale(epoch, 2) for epoch in (1, 2, 3)] == [True, False, False]


def test_only_the_next_delta_is_taken() -> None:
    assert [rules.next_delta(seq, 4) for seq in (3, 4, 5, 6)] == [False, False, True, False]
    assert rules.next_delta(0, -1)


def test_text_is_complete_only_at_the_ends_own_address() -> None:
    ending = new_end(row(), seq=7)
    addresses = [(2, 7), (2, 6), (2, 8), (1, 7), (3, 7)]
    assert [rules.complete(epoch, seq, ending) for epoch, seq in addresses] == [True, False, False, False, False]


def test_a_turn_is_abandoned_after_ten_minutes() -> None:
    assert not rules.abandoned(10_599_999, 10_000_000)
    assert rules.abandoned(10_600_000, 10_000_000)


def test_the_user_pays_for_the_attempt_that_the_end_names() -> None:
    """Rule 12."""
    assert not rules.charged(row(), "run-2.1")
    ended = row(end=new_end(row(), attempt="run-2.1"))
    assert rules.charged(ended, "run-2.1")
    assert not rules.charged(ended, "run-2.2")
    assert not rules.charged(row(end=new_end(row(), attempt=None)), "run-2.1")


# --- ends without a router ----------------------------------------------------------------------------------------


def without_router(*increments: Increment) -> End:
    return rules.ended_without_router(row(), "interrupted", "gw-1", increments, "unavailable", "lost")


def test_an_end_without_a_router_ends_the_stored_text_and_charges_nobody() -> None:
    stored = (text(0, "one ", seq=3), text(1, "two", seq=9))
    ending = without_router(*stored)
    assert (ending.kind, ending.epoch, ending.run, ending.writer) == ("interrupted", 2, "run-2", "gw-1")
    assert (ending.chunks, ending.seq, ending.hash) == (2, 9, rules.text_hash(stored))
    assert (ending.attempt, ending.usage, ending.cost) == (None, None, 0)
    assert (ending.code, ending.message, ending.model) == ("unavailable", "lost", OPENED.model)


def test_an_end_without_text_has_no_seq() -> None:
    ending = without_router()
    assert (ending.chunks, ending.seq) == (0, -1)


def test_the_hash_shows_any_other_text() -> None:
    one = [Increment(0, 1, (Piece("text", 0, "ab"),))]
    others = [
        [],
        [Increment(0, 1, (Piece("text", 0, "abc"),))],
        [Increment(0, 1, (Piece("text", 1, "ab"),))],
        [Increment(0, 1, (Piece("reasoning", 0, "ab"),))],
        [Increment(0, 1, (Piece("text", 0, "ab"), Piece("text", 1, "c")))],
    ]
    hashes = {rules.text_hash(increments) for increments in [one, *others]}
    assert len(hashes) == len(others) + 1
    assert rules.text_hash(iter(one)) == rules.text_hash(tuple(one))

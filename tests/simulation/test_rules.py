"""Each of the thirteen rules of docs/turns.md is needed: switched off, the simulation finds what breaks.

The same seeds of the same scenarios pass with the rules on. Of the rules that are marked (R) there a fault was found
for all but one: that a router at its byte budget takes no new turn (rule 11). It bounds memory, which nothing measures
here: the usual scenario passed 2,000 times, too, with routers that had room for one turn and 60 bytes and took all.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec
import pytest

from core.config import Router
from tests.simulation import hosts
from tests.simulation import switches as off
from tests.simulation import targeted as when
from tests.simulation.runs import Scenario, first_failure
from tests.simulation.scenario import anything

SEEDS: Final = range(250)
CONTROLS: Final = range(25)


class Case(NamedTuple):
    """`switch` breaks a promise in `scenario`; `promise` is part of what the simulation says of it."""

    switch: off.Switch
    scenario: Scenario
    promise: str


CASES: Final[dict[str, list[Case]]] = {
    "1 a read confirms, it never denies": [
        Case(off.own_write_is_refused, when.lost_replies, "though nothing failed"),
        Case(off.own_end_is_refused, when.lost_end_replies, ""),
        Case(off.silence_denies, when.lost_replies, "though nothing failed"),
    ],
    "2 the row is looked up first": [
        Case(off.row_is_not_looked_up, anything, "what is stored was refused"),
        Case(off.body_does_not_matter, anything, "accepted was"),
        Case(off.hash_is_not_of_the_frame_as_sent, anything, "the stored body is the same"),
        Case(off.reservation_is_the_requests, when.resent, "leaked"),
    ],
    "3 only who opened or claimed may dispatch": [
        Case(off.who_finds_it_dispatches, when.resent, ""),
        Case(off.what_is_owned_is_claimed, when.calm, "though nothing failed"),
    ],
    "4 taken, then go": [
        Case(off.every_taken_gets_go, anything, ""),
        Case(off.lost_go_is_not_repeated, when.lost_go, "though nothing failed"),
        Case(off.run_starts_again, when.doubled, ""),
        Case(off.row_is_not_checked, when.late_routers, "after its run had ceased to answer"),
        Case(off.last_check_is_left_out, when.stopped_routers, "after its run had ceased to answer"),
    ],
    "5 every gateway with a watcher supervises": [
        Case(off.only_the_arbiter_supervises, when.lost_gateway, "after the faults"),
        Case(off.nobody_supervises_without_a_client, when.lonely, "should have tended"),
        Case(off.older_epoch_is_life, when.back_from_the_dead, "still runs epoch 0"),
        Case(off.older_epoch_is_not_stopped, when.back_from_the_dead, "still runs epoch 0"),
        Case(off.clock_runs_without_the_bus, when.bus_outage, "though nothing failed"),
        Case(off.clock_runs_without_the_bus, when.cut_off, "though nothing failed"),
        Case(off.claims_before_it_asks, when.bus_outage, "though nothing failed"),
    ],
    "6 an end is shown only on complete text": [
        Case(off.end_on_any_text, anything, "an end on incomplete text"),
        Case(off.any_delta_is_the_next, anything, "a hole or a repeat"),
        Case(off.gap_is_not_asked_for, when.gap, "is left at"),
    ],
    "7 refused means stop": [
        Case(off.refused_goes_on, when.back_from_the_dead, "still runs epoch"),
    ],
    "8 at most four claims": [
        Case(off.claims_have_no_end, when.poison, "epoch 5 was begun"),
    ],
    "9 cancel": [
        Case(off.cancel_is_said_once, when.lost_cancel, "never ended"),
        Case(off.cancelled_and_unowned_is_left, when.cancelled_and_lost, "should have tended"),
        Case(off.reply_is_always_cancelled, anything, "told ('cancelled'"),
        Case(off.cancelled_is_never_done, when.cancel_races_done, "though nothing failed"),
    ],
    "10 open turns are listed before they are opened": [
        Case(off.open_turns_are_not_listed, anything, "opened and not listed"),
        Case(off.listing_goes_with_the_end, when.unrecorded, "the user pays for []"),
        Case(off.janitor_does_not_record, when.unrecorded, "the user pays for []"),
        Case(off.janitor_does_not_ask, when.silent_provider, "the janitor ended what"),
        Case(off.age_is_by_the_callers_clock, when.janitor_from_the_future, "should have tended"),
    ],
    "11 history away at the end": [
        Case(off.end_is_tried_once, when.history_away_at_the_end, "though nothing failed"),
        Case(off.end_is_not_spooled, when.history_away_for_long, "should have tended"),
    ],
    "12 who pays": [
        Case(off.user_pays_for_every_attempt, anything, "the user pays for"),
        Case(off.gateway_charges, when.cancelled_and_lost, "and charged"),
        Case(off.revisions_have_no_roles, anything, "was told twice"),
    ],
    "13 spending": [
        Case(off.unopened_is_answered, when.write_that_never_came, "history knows no such run"),
        Case(off.a_look_spends, when.only_looked_at, "a GET led to"),
    ],
}


@pytest.fixture
def little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each router has room for one turn, and for about six deltas of text."""
    monkeypatch.setattr(
        hosts, "CONFIG", msgspec.structs.replace(hosts.CONFIG, router=Router(max_turns=1, text_bytes=60))
    )


def _name(value: object) -> str:
    return value.switch.__name__ if isinstance(value, Case) else str(value)


@pytest.mark.parametrize(("rule", "case"), [(rule, case) for rule, cases in CASES.items() for case in cases], ids=_name)
def test_without_it_something_breaks(rule: str, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    case.switch(monkeypatch)
    found = first_failure(SEEDS, case.scenario)
    assert found is not None, f"rule {rule}: {len(SEEDS)} runs of {case.scenario.__name__} pass without it"
    assert case.promise in "\n".join(found.violations), f"rule {rule}: {found}"


SCENARIOS: Final = sorted(
    {case.scenario for cases in CASES.values() for case in cases} - {anything}, key=lambda scenario: scenario.__name__
)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_with_all_of_them_nothing_does(scenario: Scenario) -> None:
    found = first_failure(CONTROLS, scenario)
    assert found is None, str(found)


@pytest.mark.usefixtures("little_room")
def test_turns_wait_for_routers_that_have_little_room() -> None:
    found = first_failure(range(100), anything)
    assert found is None, str(found)


def test_every_rule_is_here() -> None:
    assert [int(rule.split()[0]) for rule in CASES] == list(range(1, 14))


def test_the_read_before_go_and_the_routers_own_cover_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule 4 asks for a serial read before a late `go`, and for the router's read of the row. For late grants either
    alone was enough in every run; without both, a router answers a turn that was cancelled long before.
    """
    with monkeypatch.context() as patch:
        off.go_is_never_preceded_by_a_read(patch)
        assert first_failure(CONTROLS, when.later_routers) is None
    off.row_is_not_checked(monkeypatch)
    assert first_failure(CONTROLS, when.later_routers) is None
    off.go_is_never_preceded_by_a_read(monkeypatch)
    found = first_failure(SEEDS, when.later_routers)
    assert found is not None
    assert "after its run had ceased to answer" in str(found)

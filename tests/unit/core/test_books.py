from __future__ import annotations

from typing import Any

import msgspec
import pytest

from core.books import Served, TurnFacts, compare
from core.ledger.port import Entry
from core.model import TurnKey, Usage
from tests.support.entries import new_entry
from tests.support.turns import new_end, new_id, new_turn

USAGE = Usage(prompt_tokens=3, completion_tokens=5)


def books(**changes: Any) -> tuple[TurnFacts, Entry]:
    """A turn that ended well and the entry that agrees with it; `changes` are the entry's."""
    turn = new_turn(new_id())
    end = new_end(turn)
    facts = TurnFacts(key=turn.key, owner=turn.owner, max_tokens=turn.max_tokens, run=turn.run, end=end, listed=False)
    entry = new_entry(
        attempt=end.attempt,
        revision=2,
        key=turn.key,
        account=turn.owner,
        charged_to="user",
        outcome="done",
        usage=end.usage,
        cost=end.cost,
    )
    return facts, msgspec.structs.replace(entry, **changes)


def served(entry: Entry, **changes: Any) -> Served:
    line = Served(attempt=entry.attempt, prompt_tokens=3, completion_tokens=5, ended=True)
    return msgspec.structs.replace(line, **changes)


def test_books_that_agree_are_balanced() -> None:
    pairs = [books() for _ in range(3)]
    platform = new_entry(key=pairs[0][0].key, revision=2, outcome="error", cost=7, usage=Usage(1, 0))
    entries = [entry for _, entry in pairs]
    log = [*map(served, entries), served(platform, prompt_tokens=1, completion_tokens=0)]
    report = compare([turn for turn, _ in pairs], [*entries, platform], log)
    assert report.balanced
    assert (report.turns, report.attempts) == (3, 4)
    assert report.users_by_ledger == report.users_by_history == 3 * 1234
    assert report.platform == 7
    assert (report.cut, report.pending, report.running, report.unstored, report.unnamed) == ((), (), (), 0, 0)


@pytest.mark.parametrize(
    ("changes", "finding"),
    [
        ({"usage": Usage(3, 6)}, "miscounted"),
        ({"usage": None}, "miscounted"),
        ({"cost": 1233}, "mispriced"),
        ({"charged_to": "platform"}, "wrong_payer"),
        ({"account": "another"}, "wrong_payer"),
        ({"revision": 0, "charged_to": "platform", "usage": None, "cost": 0, "outcome": "opened"}, "missing"),
    ],
)
def test_what_differs_from_the_end_is_found(changes: dict[str, Any], finding: str) -> None:
    turn, entry = books(**changes)
    report = compare([turn], [entry])
    assert [(problem.finding, problem.attempt, problem.key) for problem in report.problems] == [
        (finding, entry.attempt, turn.key)
    ]
    assert not report.balanced


def test_a_charge_that_the_end_does_not_name_is_found() -> None:
    turn, entry = books()
    second = msgspec.structs.replace(entry, attempt="another.1")
    report = compare([turn], [entry, second])
    assert [(problem.finding, problem.attempt) for problem in report.problems] == [("wrong_payer", "another.1")]
    for end in (None, new_end(new_turn(new_id()), attempt=None)):
        unnamed = msgspec.structs.replace(turn, end=end)
        assert [problem.finding for problem in compare([unnamed], [entry]).problems] == ["wrong_payer"]


def test_a_charge_on_its_way_is_pending_while_the_turn_is_listed() -> None:
    turn, _ = books()
    assert [problem.finding for problem in compare([turn], []).problems] == ["missing"]
    listed = msgspec.structs.replace(turn, listed=True)
    report = compare([listed], [])
    assert report.balanced
    assert report.pending == (turn.key,)


def test_a_served_attempt_on_its_way_is_no_problem_while_its_turn_is_listed() -> None:
    turn, entry = books()
    listed = msgspec.structs.replace(turn, listed=True)
    log = [served(entry), served(entry, attempt=f"{turn.run}.2")]
    report = compare([listed], [], log)
    assert report.balanced
    assert report.pending == (turn.key,)
    running = msgspec.structs.replace(listed, end=None)
    report = compare([running], [], log)
    assert report.balanced
    assert (report.pending, report.running) == ((), (turn.key,))
    report = compare([turn], [entry], log)
    assert [(problem.finding, problem.attempt, problem.key) for problem in report.problems] == [
        ("missing", f"{turn.run}.2", turn.key)
    ]


def test_a_running_turn_and_an_end_that_charges_nobody_need_no_entry() -> None:
    turn, _ = books()
    running = msgspec.structs.replace(turn, end=None, listed=True)
    free = TurnFacts(
        key=TurnKey(new_id(), new_id()),
        owner="owner",
        max_tokens=1,
        run="run",
        end=new_end(new_turn(new_id()), kind="interrupted", attempt=None, cost=0),
        listed=False,
    )
    report = compare([running, free], [])
    assert report.balanced
    assert report.running == (turn.key,)


def test_calls_without_history_are_counted_apart() -> None:
    _, entry = books()
    report = compare([], [entry])
    assert report.balanced
    assert (report.unstored, report.users_unstored, report.users_by_ledger) == (1, 1234, 0)


def test_cut_attempts_are_listed_with_a_bound() -> None:
    turn, entry = books()
    estimated = new_entry(
        key=turn.key,
        revision=2,
        outcome="interrupted",
        usage=Usage(3, 4, estimated=True),
        cost=9,
        attempt="estimated.1",
    )
    never_closed = new_entry(key=turn.key, attempt="opened.1")
    failed = new_entry(key=turn.key, revision=2, outcome="error", attempt="failed.1")
    lost = new_entry(key=turn.key, revision=3, outcome="lost", attempt="lost.1")
    entries = [entry, estimated, never_closed, failed, lost]
    report = compare([turn], entries)
    assert report.balanced
    assert [(cut.attempt, cut.counted, cut.bound, cut.cost) for cut in report.cut] == [
        ("estimated.1", 4, 100, 9),
        ("opened.1", None, 100, 0),
        ("lost.1", None, 100, 0),
    ]
    log = [served(entry), served(estimated, completion_tokens=11, ended=False), served(never_closed, ended=False)]
    report = compare([turn], entries, log)
    assert report.balanced
    assert [(cut.attempt, cut.bound) for cut in report.cut] == [("estimated.1", 11), ("opened.1", 5), ("lost.1", 100)]


def test_what_differs_from_the_providers_log_is_found() -> None:
    turn, entry = books()

    def findings(*log: Served) -> list[tuple[str, str]]:
        return [(problem.finding, problem.attempt) for problem in compare([turn], [entry], log).problems]

    assert findings(served(entry, completion_tokens=6)) == [("miscounted", entry.attempt)]
    assert findings(served(entry), served(entry, attempt="unheard.1")) == [("missing", "unheard.1")]
    assert findings(served(entry), served(entry)) == [("served_twice", entry.attempt)]
    assert findings() == [("not_served", entry.attempt)]
    assert findings(served(entry, completion_tokens=1, ended=False)) == []


def test_log_lines_without_an_attempt_are_counted() -> None:
    turn, entry = books()
    report = compare([turn], [entry], [served(entry), served(entry, attempt=None)])
    assert report.balanced
    assert report.unnamed == 1

"""The ledger worker: which entries settle what, and what happens to one that the ledger refuses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from core.errors import Unavailable, Unknown
from core.ids import generation_id
from core.ledger.port import Entry, Total
from core.limits.port import Admission, UserLimits
from core.model import TurnKey, Usage
from tests.support.entries import new_entry
from tests.support.turns import new_id
from workers.ledger import BURIED_WITHIN_S, MAX_BURIED, LedgerWorker, settlements
from workers.runner import Postponed


class MemoryLedger:
    """Refuses a batch that holds a poisoned attempt, whole."""

    def __init__(self) -> None:
        self.entries: dict[tuple[str, int], Entry] = {}
        self.poisoned: set[str] = set()
        self.fails: Exception | None = None

    async def append(self, entries: Sequence[Entry]) -> int:
        if self.fails:
            raise self.fails
        for entry in entries:
            if entry.attempt in self.poisoned:
                raise ValueError(f"{entry.attempt} cannot be stored")
        new = {(entry.attempt, entry.revision): entry for entry in entries}
        count = len(new.keys() - self.entries.keys())
        self.entries = new | self.entries
        return count

    async def attempts_of(self, key: TurnKey) -> list[Entry]:
        return [entry for entry in self.entries.values() if entry.key == key]

    async def totals(self, account: str | None, since_ms: int, until_ms: int) -> list[Total]:
        return []

    async def open_attempts(self, before_ms: int, limit: int) -> list[Entry]:
        return []


class MemoryLimits:
    def __init__(self) -> None:
        self.settled: dict[tuple[str, str], int] = {}
        self.away = False

    async def admit(self, account: str, turn: str, tokens: int, limits: UserLimits) -> Admission:
        raise AssertionError("the ledger worker admits nothing")

    async def renew(self, reservations: Sequence[tuple[str, str]]) -> None:
        raise AssertionError("the ledger worker renews nothing")

    async def settle(self, account: str, turn: str, tokens: int) -> None:
        if self.away:
            raise Unavailable("away")
        self.settled[account, turn] = tokens


class Source:
    def __init__(self) -> None:
        self.buried: list[str] = []

    async def pull(self, limit: int, wait_s: float) -> None:
        return None

    async def bury(self, entry: Entry, reason: str) -> None:
        self.buried.append(entry.attempt)


class Bench:
    """A worker with everything around it in memory, and a clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self.source, self.ledger, self.limits = Source(), MemoryLedger(), MemoryLimits()
        self.worker = LedgerWorker(self.source, self.ledger, self.limits, lambda: self.now)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def closed(**changes: Any) -> Entry:
    usual = {"revision": 2, "outcome": "done", "charged_to": "user", "usage": Usage(10, 20, cached_tokens=5)}
    return new_entry(**(usual | changes))


def reservation(entry: Entry) -> tuple[str, str]:
    return entry.account, generation_id(entry.key.conversation_id, entry.key.turn_id)


@pytest.mark.parametrize(
    ("changes", "tokens"),
    [
        ({}, 30),
        ({"revision": 1}, 30),
        ({"revision": 3, "usage": Usage(1, 1)}, 2),
        ({"purpose": "title"}, 30),
        ({"outcome": "cancelled"}, 30),
        ({"usage": None}, 0),
        ({"charged_to": "platform", "outcome": "failed"}, 0),
        ({"charged_to": "platform", "outcome": "interrupted"}, 0),
        ({"charged_to": "platform", "outcome": "error"}, None),
        ({"charged_to": "platform", "outcome": "superseded"}, None),
        ({"charged_to": "platform", "outcome": "lost"}, None),
        ({"charged_to": "platform", "outcome": "done", "purpose": "title"}, None),
        ({"revision": 0, "outcome": "opened", "charged_to": "platform"}, None),
    ],
)
def test_what_an_entry_says_of_its_reservation(changes: dict[str, Any], tokens: int | None) -> None:
    entry = closed(**changes)
    assert settlements([entry]) == ({} if tokens is None else {reservation(entry): tokens})


def test_a_turn_in_a_batch_is_settled_once_with_the_most() -> None:
    key = TurnKey(new_id(), new_id())
    estimate = closed(key=key, attempt="a.1", revision=1, usage=Usage(10, 5))
    final = closed(key=key, attempt="a.1", usage=Usage(10, 20))
    other_attempt = closed(key=key, attempt="b.1", charged_to="platform", outcome="failed")
    for batch in ([estimate, final, other_attempt], [other_attempt, final, estimate]):
        assert settlements(batch) == {reservation(final): 30}


def test_an_entry_that_names_no_turn_settles_nothing() -> None:
    assert settlements([closed(key=TurnKey("no-uuid", "either"))]) == {}


async def test_a_batch_is_stored_and_settled(bench: Bench) -> None:
    entries = [closed(), new_entry(), closed(usage=Usage(1, 2))]
    await bench.worker.handle(entries)
    await bench.worker.handle(entries)
    assert list(bench.ledger.entries.values()) == entries
    assert bench.limits.settled == {reservation(entries[0]): 30, reservation(entries[2]): 3}
    assert bench.worker.stored == 3


@pytest.mark.parametrize("error", [Unavailable("away"), Unknown("who knows")])
async def test_a_ledger_that_is_away_settles_and_buries_nothing(bench: Bench, error: Exception) -> None:
    bench.ledger.fails = error
    with pytest.raises(type(error)):
        await bench.worker.handle([closed(), closed()])
    assert bench.limits.settled == {}
    assert bench.source.buried == []


async def test_limits_that_are_away_postpone_what_is_stored(bench: Bench) -> None:
    bench.limits.away = True
    entries = [closed() for _ in range(5)]
    with pytest.raises(Postponed, match="5 turns"):
        await bench.worker.handle(entries)
    assert len(bench.ledger.entries) == 5
    bench.limits.away = False
    await bench.worker.handle(entries)
    assert len(bench.limits.settled) == 5


async def test_poison_is_found_and_the_rest_is_stored(bench: Bench) -> None:
    entries = [closed() for _ in range(100)]
    bench.ledger.poisoned = {entries[i].attempt for i in (0, 41, 42, 99)}
    await bench.worker.handle(entries)
    assert set(bench.source.buried) == bench.ledger.poisoned
    assert len(bench.ledger.entries) == 96
    assert len(bench.limits.settled) == 96


async def test_a_ledger_that_refuses_everything_is_no_poison(bench: Bench) -> None:
    bench.ledger.fails = RuntimeError("relation ledger does not exist")
    entries = [closed() for _ in range(3 * MAX_BURIED)]
    with pytest.raises(Unavailable, match="too much"):
        await bench.worker.handle(entries)
    assert len(bench.source.buried) == MAX_BURIED
    with pytest.raises(Unavailable):
        await bench.worker.handle(entries[-1:])
    assert len(bench.source.buried) == MAX_BURIED
    bench.now += BURIED_WITHIN_S
    await bench.worker.handle(entries[-1:])
    assert len(bench.source.buried) == MAX_BURIED + 1

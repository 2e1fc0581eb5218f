"""The janitor: what it records again, what it ends, what it leaves alone. Rule 10 of docs/turns.md."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import cast

import pytest

from core import turn as rules
from core.accounts.port import Accounts
from core.bus.port import Bus, UsageStream
from core.errors import Unavailable
from core.events import Attach, Beat, EdgeMessage, Held, Life, RunMessage
from core.history.port import Applied, History, Refused
from core.ids import generation_id
from core.ledger.port import Entry
from core.limits.port import Limits
from core.model import End, Increment, Turn, TurnKey, Usage
from tests.support.clock import ManualClock
from tests.support.polling import eventually
from tests.support.turns import new_end, new_id, new_turn, text
from workers import janitor
from workers.janitor import GRACE_MS, Janitor

FRESH, QUIET, ABANDONED = GRACE_MS - 1, GRACE_MS, rules.ABANDONED_MS


class MemoryHistory:
    """Rows moved by `core.turn`, each with its age since anything was written, in milliseconds."""

    def __init__(self) -> None:
        self.rows: dict[TurnKey, Turn] = {}
        self.ages: dict[TurnKey, int] = {}
        self.texts: dict[tuple[TurnKey, int], list[Increment]] = {}
        self.closed: list[TurnKey] = []
        self.away = False
        self.refused = 0

    async def open_turns(self, idle_ms: int, limit: int) -> list[Turn]:
        if self.away:
            self.refused += 1
            raise Unavailable("history is away")
        return [self.rows[key] for key, age in self.ages.items() if age >= idle_ms][:limit]

    async def close_listing(self, keys: Sequence[TurnKey]) -> None:
        for key in keys:
            del self.ages[key]
        self.closed += keys

    async def read_text(self, key: TurnKey, epoch: int, limit: int | None = None) -> list[Increment]:
        return self.texts.get((key, epoch), [])

    async def end(self, key: TurnKey, end: End) -> Applied | Refused:
        result = rules.end(self.rows[key], end)
        if isinstance(result, Applied):
            self.rows[key] = result.turn
        return result


class Subscription:
    def __init__(self) -> None:
        self.stopped = False

    async def stop(self) -> None:
        self.stopped = True


class MemoryBus:
    """Whoever `answers` for a generation says so when asked."""

    def __init__(self) -> None:
        self.answers: dict[str, EdgeMessage] = {}
        self.asked: list[Attach] = []
        self.away = False
        self.inbox = Subscription()
        self.on_batch: Callable[[list[EdgeMessage]], None] = lambda _: None

    async def serve_edge(
        self, edge: str, on_batch: Callable[[list[EdgeMessage]], None], on_no_responders: Callable[[str], None]
    ) -> Subscription:
        self.on_batch = on_batch
        return self.inbox

    async def to_run(self, generation: str, message: RunMessage) -> None:
        if self.away:
            raise Unavailable("the bus is away")
        if isinstance(message, Attach):
            self.asked.append(message)
            if generation in self.answers:
                self.on_batch([self.answers[generation]])


class MemoryStream:
    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.away = False

    async def publish(self, entry: Entry, timeout_s: float) -> None:
        if self.away:
            raise Unavailable("the stream is away")
        self.entries.append(entry)


class MemoryLimits:
    def __init__(self) -> None:
        self.settled: list[tuple[str, str, int]] = []

    async def settle(self, account: str, turn: str, tokens: int) -> None:
        self.settled.append((account, turn, tokens))


class MemoryAccounts:
    def __init__(self) -> None:
        self.purged = 0

    async def purge(self) -> None:
        self.purged += 1


class Bench:
    def __init__(self) -> None:
        self.history, self.bus, self.usage = MemoryHistory(), MemoryBus(), MemoryStream()
        self.limits, self.accounts, self.clock = MemoryLimits(), MemoryAccounts(), ManualClock()
        self.janitor = Janitor(
            "janitor-1",
            cast(Bus, self.bus),
            cast(History, self.history),
            cast(UsageStream, self.usage),
            cast(Limits, self.limits),
            cast(Accounts, self.accounts),
            self.clock,
        )

    def listed(self, age_ms: int, end: End | None = None, *, epoch: int = 0, cancelled: bool = False) -> Turn:
        """A turn on the list of open ones, nothing of which was written for `age_ms`."""
        opened = new_turn(new_id(), owner="u", price_version=3)
        run = opened.run if epoch == 0 else f"run-{epoch}"
        turn = Turn(opened=opened, epoch=epoch, run=run, since_ms=5, end=end, cancelled=cancelled)
        self.history.rows[turn.key], self.history.ages[turn.key] = turn, age_ms
        return turn

    def end_of(self, turn: Turn) -> End | None:
        return self.history.rows[turn.key].end


def name(turn: Turn) -> str:
    return generation_id(turn.key.conversation_id, turn.key.turn_id)


@asynccontextmanager
async def running(bench: Bench) -> AsyncIterator[asyncio.Task[None]]:
    """The janitor as its process runs it."""
    stop = asyncio.Event()
    task = asyncio.create_task(bench.janitor.run(stop))
    yield task
    stop.set()
    await task


async def first_sweep(bench: Bench) -> None:
    """The purge follows the first sweep."""
    async with running(bench):
        await eventually(lambda: bench.accounts.purged)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(janitor, "ASK_S", 0.0)
    return Bench()


CHARGED = new_end(
    new_turn(new_id()), epoch=2, kind="cancelled", attempt="run-2.1", usage=Usage(3, 5, 1), cost=77, provider="near"
)
UNCHARGED = new_end(new_turn(new_id()), kind="failed", attempt=None, usage=None, cost=0)


async def test_the_record_of_a_stored_end_is_published_again_as_the_router_would_have(bench: Bench) -> None:
    turn = bench.listed(QUIET, CHARGED, epoch=2)
    assert await bench.janitor.sweep() == 1
    (entry,) = bench.usage.entries
    assert (entry.attempt, entry.revision, entry.charged_to, entry.outcome) == ("run-2.1", 2, "user", "cancelled")
    assert (entry.usage, entry.cost, entry.price_version, entry.provider) == (Usage(3, 5, 1), 77, 3, "near")
    assert (entry.key, entry.account, entry.epoch, entry.purpose) == (turn.key, "u", 2, "answer")
    assert bench.history.closed == [turn.key]
    assert bench.limits.settled == [], "the ledger worker settles what is charged"


async def test_an_end_that_charges_nobody_frees_its_reservation(bench: Bench) -> None:
    turn = bench.listed(QUIET, UNCHARGED)
    assert await bench.janitor.sweep() == 1
    assert bench.limits.settled == [("u", name(turn), 0)]
    assert bench.usage.entries == []
    assert bench.history.closed == [turn.key]


async def test_what_is_not_acknowledged_stays_listed(bench: Bench) -> None:
    turn, other = bench.listed(QUIET, CHARGED), bench.listed(QUIET, UNCHARGED)
    bench.usage.away = True
    assert await bench.janitor.sweep() == 1
    assert bench.history.closed == [other.key]
    bench.usage.away = False
    assert await bench.janitor.sweep() == 1
    assert bench.history.closed == [other.key, turn.key]


async def test_a_router_has_time_to_do_it_itself(bench: Bench) -> None:
    bench.listed(FRESH, CHARGED)
    assert await bench.janitor.sweep() == 0
    assert (bench.usage.entries, bench.history.closed) == ([], [])


async def test_what_nobody_answers_for_is_ended_after_ten_minutes_with_its_text(bench: Bench) -> None:
    young, old = bench.listed(ABANDONED - 1), bench.listed(ABANDONED, epoch=1)
    stored = [text(0, "so ", seq=3), text(1, "far", seq=8)]
    bench.history.texts[old.key, 1] = stored
    bench.history.texts[old.key, 0] = [text(0, "dead")]
    await first_sweep(bench)
    assert bench.end_of(young) is None
    end = bench.end_of(old)
    assert end is not None
    assert (end.kind, end.epoch, end.run, end.writer) == ("interrupted", 1, "run-1", "janitor-1")
    assert (end.chunks, end.seq, end.hash) == (2, 8, rules.text_hash(stored))
    assert (end.attempt, end.cost, end.code) == (None, 0, "unavailable")
    assert bench.history.closed == [], "it leaves the list when its reservation is freed, at the next sweep"
    assert await bench.janitor.sweep() == 1
    assert bench.history.closed == [old.key]


async def test_an_abandoned_turn_that_was_cancelled_ends_so(bench: Bench) -> None:
    turn = bench.listed(ABANDONED, cancelled=True)
    await first_sweep(bench)
    end = bench.end_of(turn)
    assert end is not None
    assert end.kind == "cancelled"


@pytest.mark.parametrize("by", ["router", "gateway"])
async def test_what_somebody_answers_for_is_left_alone(bench: Bench, by: str) -> None:
    turn, other = bench.listed(ABANDONED), bench.listed(ABANDONED)
    life = Life(name(turn), 0, turn.run, 0, False)
    bench.bus.answers[name(turn)] = Beat("r", [life]) if by == "router" else Held(name(turn), 0, turn.run)
    await first_sweep(bench)
    assert bench.end_of(turn) is None
    assert bench.end_of(other) is not None
    assert {attach.edge for attach in bench.bus.asked} == {"janitor-1"}


async def test_while_the_bus_is_away_nobody_can_answer_and_nothing_is_ended(bench: Bench) -> None:
    turn = bench.listed(ABANDONED)
    bench.bus.away = True
    with pytest.raises(Unavailable):
        await bench.janitor.sweep()
    assert bench.end_of(turn) is None


async def test_a_turn_that_moved_on_meanwhile_is_not_ended(bench: Bench) -> None:
    """The end is conditional on the epoch that was read."""
    turn = bench.listed(ABANDONED)
    read_text = bench.history.read_text

    async def claimed_meanwhile(key: TurnKey, epoch: int, limit: int | None = None) -> list[Increment]:
        claimed = rules.claim(bench.history.rows[key], 0, "another", 9)
        assert isinstance(claimed, Applied)
        bench.history.rows[key] = claimed.turn
        return await read_text(key, epoch, limit)

    bench.history.read_text = claimed_meanwhile  # type: ignore[method-assign]
    await first_sweep(bench)
    assert bench.end_of(turn) is None


async def test_it_goes_on_when_history_was_away_and_leaves_the_bus_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(janitor, "SWEEP_EVERY_S", 0.01)
    bench = Bench()
    bench.history.away = True
    turn = bench.listed(QUIET, UNCHARGED)
    async with running(bench):
        await eventually(lambda: bench.history.refused)
        bench.history.away = False
        await eventually(lambda: bench.history.closed == [turn.key])
        await eventually(lambda: bench.accounts.purged == 1)
        bench.clock.advance(janitor.PURGE_EVERY_S)
        await eventually(lambda: bench.accounts.purged == 2)
        assert not bench.bus.inbox.stopped
    assert bench.bus.inbox.stopped

"""The router's shell: what it does on the bus, in history and at providers, with all of them in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar, cast

import pytest

from core import turn as rules
from core.bus.port import Bus
from core.clock import SystemClock
from core.config import Config, Router
from core.config import Provider as Settings
from core.context import Context
from core.errors import ParleyError, Unavailable
from core.events import (
    Attach,
    Beat,
    CancelRun,
    Dispatch,
    EdgeMessage,
    Ended,
    Finishing,
    Go,
    GrantMessage,
    No,
    RunMessage,
    Superseded,
    Taken,
    Text,
)
from core.history.port import Applied, History, Refused
from core.ids import generation_id
from core.ledger.port import Entry
from core.limits.port import Admission, Limits, UserLimits
from core.model import End, Increment, NewTurn, Turn, TurnKey, Usage
from core.providers.port import (
    ErrorKind,
    Finished,
    Provider,
    ProviderError,
    ProviderEvent,
    ProviderMessage,
    ProviderRequest,
    TextDelta,
)
from tests.support.polling import eventually
from tests.support.turns import new_id, new_turn
from workers.router import service as shell
from workers.router.attempts import Plan, RouteRef
from workers.router.effects import SpoolEnd
from workers.router.planner import NotAnswerable, Planner, Prepared
from workers.router.service import RouterService

EDGE = "gw-1"
M = TypeVar("M", bound=EdgeMessage)


class Subscription:
    """Calls `on_stop` once."""

    def __init__(self, on_stop: Callable[[], object]) -> None:
        self._on_stop = on_stop
        self.stopped = False

    async def stop(self) -> None:
        if not self.stopped:
            self.stopped = True
            self._on_stop()


class MemoryBus:
    """One router's end of the bus, and a gateway that says `go` unless told otherwise."""

    def __init__(self) -> None:
        self.told: list[tuple[str, EdgeMessage]] = []
        self.takers: list[Callable[[Dispatch], None]] = []
        self.runs: dict[str, Callable[[RunMessage], None]] = {}
        self.grants = True
        self.grant: Callable[[GrantMessage], None] = lambda _: None

    async def serve_router(self, router: str, on_grant: Callable[[GrantMessage], None]) -> Subscription:
        self.grant = on_grant
        return Subscription(lambda: None)

    async def serve_turns(self, zone: str, pool: str, on_dispatch: Callable[[Dispatch], None]) -> Subscription:
        self.takers.append(on_dispatch)
        return Subscription(lambda: self.takers.remove(on_dispatch))

    async def serve_run(self, generation: str, on_message: Callable[[RunMessage], None]) -> Subscription:
        self.runs[generation] = on_message
        return Subscription(lambda: self.runs.pop(generation))

    async def to_edge(self, edge: str, batch: Sequence[EdgeMessage]) -> None:
        for message in batch:
            self.told.append((edge, message))
            if isinstance(message, Taken) and self.grants:
                self.grant(Go(message.generation, message.epoch, message.run))

    def heard(self, kind: type[M], edge: str = EDGE) -> list[M]:
        return [message for to, message in self.told if to == edge and isinstance(message, kind)]


class MemoryHistory:
    """Rows moved by `core.turn`."""

    def __init__(self) -> None:
        self.rows: dict[TurnKey, Turn] = {}
        self.increments: list[Increment] = []
        self.closed: list[TurnKey] = []
        self.away = False

    def _put(self, key: TurnKey, result: Applied | Refused) -> Applied | Refused:
        if self.away:
            raise Unavailable("history is away")
        if isinstance(result, Applied):
            self.rows[key] = result.turn
        return result

    async def read(self, key: TurnKey) -> Turn | None:
        return self.rows.get(key)

    async def claim(self, key: TurnKey, epoch: int, run: str, since_ms: int) -> Applied | Refused:
        return self._put(key, rules.claim(self.rows.get(key), epoch, run, since_ms))

    async def end(self, key: TurnKey, end: End) -> Applied | Refused:
        return self._put(key, rules.end(self.rows.get(key), end))

    async def append(self, key: TurnKey, epoch: int, increment: Increment) -> None:
        self.increments.append(increment)

    async def close_listing(self, keys: Sequence[TurnKey]) -> None:
        self.closed += keys


class MemoryLimits:
    def __init__(self) -> None:
        self.settled: list[tuple[str, str, int]] = []
        self.renewed: list[tuple[str, str]] = []
        self.admitted: list[tuple[str, str, int]] = []
        self.refuses: ParleyError | None = None

    async def admit(self, account: str, turn: str, tokens: int, limits: UserLimits) -> Admission:
        self.admitted.append((account, turn, tokens))
        if self.refuses is not None:
            raise self.refuses
        return Admission(False, 1, 1, 0)

    async def renew(self, reservations: Sequence[tuple[str, str]]) -> None:
        self.renewed += reservations

    async def settle(self, account: str, turn: str, tokens: int) -> None:
        self.settled.append((account, turn, tokens))


class MemoryRecorder:
    """Every record is acknowledged by the stream, or all of them wait in the spool."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.ends: list[SpoolEnd] = []
        self.streams = True

    async def record(self, entry: Entry) -> bool:
        self.entries.append(entry)
        return self.streams

    async def keep_end(self, key: TurnKey, effect: SpoolEnd) -> None:
        self.ends.append(effect)


class Scripted:
    """A provider that says "hello", then waits for `gate`, then finishes or fails."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.requests: list[ProviderRequest] = []
        self.gate = asyncio.Event()
        self.fails: ErrorKind | None = None
        self.silent = False
        self.open = 0

    async def stream(self, request: ProviderRequest) -> AsyncIterator[list[ProviderEvent]]:
        self.requests.append(request)
        self.open += 1
        try:
            if not self.silent:
                yield [TextDelta("hello")]
            await self.gate.wait()
            if self.fails is not None:
                raise ProviderError(self.fails, "scripted", before_text=self.silent)
            yield [Finished("stop"), Usage(3, 5)]
        finally:
            self.open -= 1

    async def close(self) -> None:
        return


class ScriptedPlanner:
    """Answers every turn with two routes, or refuses."""

    def __init__(self, history: MemoryHistory) -> None:
        self._history = history
        self.fails: Exception | None = None
        self.routes: tuple[RouteRef, ...] = (RouteRef("near", "tiny"), RouteRef("far", "huge"))

    async def prepare(self, key: TurnKey) -> Prepared:
        if self.fails is not None:
            raise self.fails
        context = Context((ProviderMessage("user", "hi"),), "so far", 7, 0)
        plan = Plan(self.routes, 7, len, lambda usage: usage.completion_tokens)
        settings = tuple(Settings(name=r.provider, base_url="", first_token_s=3.0, idle_s=4.0) for r in self.routes)
        return Prepared(self._history.rows[key], context, plan, settings)


class Bench:
    """A started router with everything around it in memory."""

    def __init__(self, **settings: Any) -> None:
        self.bus, self.history, self.limits = MemoryBus(), MemoryHistory(), MemoryLimits()
        self.planner, self.recorder = ScriptedPlanner(self.history), MemoryRecorder()
        self.near, self.far = Scripted("near"), Scripted("far")
        self.service = RouterService(
            "router-1",
            cast(Bus, self.bus),
            cast(History, self.history),
            cast(Limits, self.limits),
            cast(Planner, self.planner),
            {"near": cast(Provider, self.near), "far": cast(Provider, self.far)},
            self.recorder,
            SystemClock(),
            Config(router=Router(**settings)),
        )

    def open(self) -> NewTurn:
        """A turn that a gateway has opened."""
        turn = new_turn(new_id(), owner="u", params={"temperature": 0.5, "max_tokens": 64}, max_tokens=64)
        self.history.rows[turn.key] = Turn(opened=turn, epoch=0, run=turn.run, since_ms=turn.since_ms)
        return turn

    def dispatch(self, turn: NewTurn, epoch: int = 0, run: str = "") -> None:
        (take,) = self.bus.takers
        take(Dispatch(name(turn), turn.key, epoch, run or turn.run, EDGE))

    async def streaming(self) -> NewTurn:
        """A turn of which the first text was told."""
        turn = self.open()
        self.dispatch(turn)
        await eventually(lambda: self.bus.heard(Text))
        return turn

    async def end(self) -> End:
        """The one end that was told."""
        await eventually(lambda: self.bus.heard(Ended))
        (message,) = self.bus.heard(Ended)
        return message.end


def name(turn: NewTurn) -> str:
    return generation_id(turn.key.conversation_id, turn.key.turn_id)


@asynccontextmanager
async def started(bench: Bench) -> AsyncIterator[Bench]:
    await bench.service.start()
    yield bench
    for provider in (bench.near, bench.far):
        provider.gate.set()
    await bench.service.drain(5.0)
    assert bench.near.open == bench.far.open == 0


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with started(Bench()) as found:
        yield found


# --- one turn -----------------------------------------------------------------------------------------------------


async def test_a_turn_from_its_dispatch_to_its_end(bench: Bench) -> None:
    turn = await bench.streaming()
    bench.near.gate.set()
    end = await bench.end()
    assert (end.kind, end.attempt, end.usage, end.cost) == ("done", f"{turn.run}.1", Usage(3, 5), 5)
    assert bench.history.rows[turn.key].end == end
    assert [piece.d for increment in bench.history.increments for piece in increment.pieces] == ["hello"]
    assert [(entry.revision, entry.outcome) for entry in bench.recorder.entries] == [(0, "opened"), (2, "done")]
    await eventually(lambda: bench.history.closed == [turn.key])
    assert bench.limits.settled == [], "what is charged is settled by the ledger worker"


async def test_a_turn_whose_record_waits_in_the_spool_stays_listed(bench: Bench) -> None:
    """Rule 10: the entry goes when the record is acknowledged by the stream; till then the janitor looks after it."""
    bench.recorder.streams = False
    await bench.streaming()
    bench.near.gate.set()
    await bench.end()
    await bench.service.drain(5.0)
    assert bench.history.closed == []


async def test_what_the_provider_is_asked(bench: Bench) -> None:
    turn = await bench.streaming()
    (request,) = bench.near.requests
    assert request == ProviderRequest(
        model="tiny",
        messages=(ProviderMessage("user", "hi"),),
        max_tokens=64,
        params={"temperature": 0.5},
        deadline_first_token_s=3.0,
        deadline_idle_s=4.0,
        continue_from="so far",
        tags={"attempt": f"{turn.run}.1"},
    )


async def test_a_dispatch_and_a_go_that_come_twice_start_one_run(bench: Bench) -> None:
    """Rule 4."""
    bench.bus.grants = False
    turn = bench.open()
    bench.dispatch(turn)
    bench.dispatch(turn)
    await eventually(lambda: len(bench.bus.heard(Taken)) == 2)
    for _ in range(2):
        bench.bus.grant(Go(name(turn), 0, turn.run))
    await eventually(lambda: bench.bus.heard(Text))
    bench.dispatch(turn)
    bench.near.gate.set()
    await bench.end()
    bench.dispatch(turn)
    assert len(bench.near.requests) == 1
    assert len(bench.bus.heard(Taken)) == 2


async def test_who_is_told_no_does_nothing_and_may_be_asked_again(bench: Bench) -> None:
    bench.bus.grants = False
    turn = bench.open()
    bench.dispatch(turn)
    for grant in (No(name(turn), 0, turn.run), Go(name(turn), 0, turn.run)):
        bench.bus.grant(grant)
        assert bench.service.busy == 0
    bench.dispatch(turn)
    assert bench.service.busy == 1
    bench.bus.grant(No(name(turn), 0, turn.run))
    assert bench.near.requests == []


async def test_a_newer_epoch_ends_the_older_run(bench: Bench) -> None:
    turn = await bench.streaming()
    result = await bench.history.claim(turn.key, 0, "run-1", 0)
    assert isinstance(result, Applied)
    bench.dispatch(turn, 1, "run-1")
    await eventually(lambda: bench.bus.heard(Superseded) and len(bench.near.requests) == 2)
    bench.dispatch(turn)
    bench.near.gate.set()
    end = await bench.end()
    assert (end.epoch, end.run, end.attempt) == (1, "run-1", "run-1.1")


# --- failures -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["connect", "timeout_first", "rate_limited", "server", "bad_request", "auth"])
async def test_the_next_route_takes_over_before_the_first_text(bench: Bench, kind: ErrorKind) -> None:
    bench.near.silent, bench.near.fails = True, kind
    bench.near.gate.set()
    bench.far.gate.set()
    bench.dispatch(bench.open())
    end = await bench.end()
    assert (end.kind, end.epoch, end.provider) == ("done", 0, "far")
    assert bench.far.requests[0].model == "huge"


@pytest.mark.parametrize("kind", ["bad_request", "auth"])
async def test_what_will_be_refused_again_is_not_asked_again(bench: Bench, kind: ErrorKind) -> None:
    bench.planner.routes = bench.planner.routes[:1]
    bench.near.silent, bench.near.fails = True, kind
    bench.near.gate.set()
    turn = bench.open()
    bench.dispatch(turn)
    end = await bench.end()
    assert (end.kind, end.code, end.attempt) == ("failed", "provider_error", None)
    assert len(bench.near.requests) == 1
    await eventually(lambda: bench.limits.settled == [("u", name(turn), 0)])


async def test_a_provider_that_dies_under_its_text_is_followed_by_the_next_epoch(bench: Bench) -> None:
    turn = await bench.streaming()
    bench.near.fails = "cut"
    bench.near.gate.set()
    bench.far.gate.set()
    end = await bench.end()
    assert (end.epoch, end.provider) == (1, "far")
    assert bench.history.rows[turn.key].run == end.run != turn.run


async def test_a_route_without_a_provider_fails_like_a_provider(bench: Bench) -> None:
    bench.planner.routes = (RouteRef("unknown", "x"),)
    bench.dispatch(bench.open())
    assert (await bench.end()).kind == "failed"


async def test_a_turn_that_cannot_be_answered_fails_and_frees_its_reservation(bench: Bench) -> None:
    turn = bench.open()
    bench.planner.fails = NotAnswerable(bench.history.rows[turn.key], "context_too_long", "too long")
    bench.dispatch(turn)
    end = await bench.end()
    assert (end.kind, end.code, end.message) == ("failed", "context_too_long", "too long")
    await eventually(lambda: bench.limits.settled == [("u", name(turn), 0)])


async def test_without_a_context_the_turn_is_left_to_its_gateways(bench: Bench) -> None:
    bench.planner.fails = Unavailable("history is away")
    turn = bench.open()
    bench.dispatch(turn)
    await eventually(lambda: bench.bus.heard(Taken) and bench.service.busy == 0)
    assert bench.near.requests == []
    assert bench.bus.heard(Ended) == []
    bench.planner.fails = None
    bench.dispatch(turn)
    assert bench.service.busy == 0, "a router starts a run once"


async def test_an_end_that_history_cannot_take_is_written_when_it_is_back(bench: Bench) -> None:
    await bench.streaming()
    bench.history.away = True
    bench.near.gate.set()
    await eventually(lambda: bench.bus.heard(Finishing))
    bench.history.away = False
    assert (await bench.end()).kind == "done"


# --- watchers and cancel ------------------------------------------------------------------------------------------


async def test_a_cancel_closes_the_providers_connection_and_keeps_the_text(bench: Bench) -> None:
    turn = await bench.streaming()
    bench.bus.runs[name(turn)](CancelRun(name(turn)))
    await eventually(lambda: bench.near.open == 0)
    end = await bench.end()
    assert (end.kind, end.seq, end.usage) == ("cancelled", 0, Usage(7, 5, estimated=True))


async def test_who_attaches_gets_the_tail_heartbeats_and_the_end(bench: Bench) -> None:
    turn = await bench.streaming()
    bench.bus.runs[name(turn)](Attach(name(turn), "gw-2", -1, -1))
    await eventually(lambda: bench.bus.heard(Text, "gw-2"))
    beats = len(bench.bus.heard(Beat, "gw-2"))
    await eventually(lambda: len(bench.bus.heard(Beat, "gw-2")) > beats)
    assert bench.bus.heard(Beat, "gw-2")[-1].lives[0].generation == name(turn)
    bench.near.gate.set()
    await eventually(lambda: bench.bus.heard(Ended, "gw-2") and bench.bus.heard(Ended))


# --- the process --------------------------------------------------------------------------------------------------


async def test_reservations_of_running_turns_are_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shell, "RENEW_EVERY_S", 0.02)
    async with started(Bench()) as bench:
        turn = await bench.streaming()
        await eventually(lambda: ("u", name(turn)) in bench.limits.renewed)
        bench.near.gate.set()
        await bench.end()
        bench.limits.renewed.clear()
        assert bench.service.busy == 0
        await asyncio.sleep(0.1)  # several periods of the renewal: an ended turn is not among them
        assert bench.limits.renewed == []


@pytest.mark.parametrize("settings", [{"max_turns": 1}, {"text_bytes": 5}])
async def test_a_full_router_leaves_the_queue_group_until_there_is_room(settings: dict[str, int]) -> None:
    """Rule 11: it takes no new turn, and drops no text."""
    async with started(Bench(**settings)) as bench:
        await bench.streaming()
        await eventually(lambda: bench.bus.takers == [])
        if "max_turns" in settings:
            bench.near.gate.set()
            await eventually(lambda: bench.bus.takers)


async def test_a_drain_lets_what_runs_end() -> None:
    bench = Bench()
    await bench.service.start()
    await bench.streaming()
    draining = asyncio.create_task(bench.service.drain(30.0))
    await eventually(lambda: bench.bus.takers == [])
    bench.near.gate.set()
    await draining
    assert (await bench.end()).kind == "done"
    assert bench.recorder.entries[-1].outcome == "done"


async def test_what_a_drain_cuts_off_is_told_to_its_gateways() -> None:
    bench = Bench()
    await bench.service.start()
    turn = await bench.streaming()
    await bench.service.drain(0.05)
    assert bench.bus.heard(Superseded) == [Superseded(name(turn), 0, turn.run)]
    assert (bench.near.open, bench.service.busy) == (0, 0)
    assert bench.history.rows[turn.key].end is None
    assert bench.recorder.entries[-1].charged_to == "platform"

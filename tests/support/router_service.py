"""A router's shell over ports in memory, and what a test asks of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar, cast

from core import turn as rules
from core.bus.port import Bus
from core.clock import SystemClock
from core.config import Config, Router
from core.config import Provider as Settings
from core.context import Context
from core.errors import ParleyError, Unavailable
from core.events import (
    Dispatch,
    EdgeMessage,
    Ended,
    Go,
    GrantMessage,
    RunMessage,
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
from workers.router.attempts import Plan, RouteRef
from workers.router.effects import SpoolEnd
from workers.router.planner import Planner, Prepared
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
        self.asked = 0
        self.fails: Exception | None = None
        self.routes: tuple[RouteRef, ...] = (RouteRef("near", "tiny"), RouteRef("far", "huge"))

    async def prepare(self, key: TurnKey) -> Prepared:
        self.asked += 1
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

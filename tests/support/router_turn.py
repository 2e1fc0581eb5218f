"""A router's turn in any of its states, for tests of what it does there."""

from __future__ import annotations

import itertools
from typing import Final, TypeVar

from core.events import Dispatch, Taken
from core.history.port import Applied
from core.model import End, Turn, Usage
from core.providers.port import Finished, TextDelta
from tests.support.turns import new_id, new_turn
from workers.router import effects as do
from workers.router.attempts import Plan, RouteRef
from workers.router.effects import Effect
from workers.router.turn import RouterTurn

OPENED = new_turn(new_id(), run="run-0", owner="u", max_tokens=64)
ROW = Turn(opened=OPENED, epoch=0, run="run-0", since_ms=0)
START = 100.0
MS = 5_000
DISPATCH = Dispatch("g", OPENED.key, 0, "run-0", "gw-1")
NEAR, FAR = RouteRef("near", "tiny"), RouteRef("far", "huge")
TAKEN = do.TellOne("gw-1", [Taken("g", 0, "run-0", "router-1")])
TEXT = [TextDelta("hello")]

E = TypeVar("E", bound=Effect)


def price(usage: Usage) -> int:
    return usage.prompt_tokens + 10 * usage.completion_tokens


def plan(*routes: RouteRef) -> Plan:
    return Plan(routes=routes or (NEAR,), prompt_tokens=7, count=len, price=price)


def one(effects: list[Effect], kind: type[E]) -> E:
    (found,) = (effect for effect in effects if isinstance(effect, kind))
    return found


def kinds(effects: list[Effect]) -> list[type[Effect]]:
    return [type(effect) for effect in effects]


class Bench:
    """A turn in some state, and the time it has there."""

    def __init__(self) -> None:
        names = (f"run-{n}" for n in itertools.count(1))
        self.turn = RouterTurn(DISPATCH, "router-1", names.__next__)
        self.now = START
        self.row = ROW
        self.effects: list[Effect] = self.turn.offer(START)

    def reading(self) -> Bench:
        self.effects = self.turn.on_go(self.now)
        return self

    def calling(self, *routes: RouteRef) -> Bench:
        self.reading()
        self.effects = self.turn.on_ready(self.now, MS, ROW, plan(*routes))
        return self

    def record(self, effects: list[Effect]) -> list[Effect]:
        """Every record among the effects is acknowledged."""
        entries = [effect.entry for effect in effects if isinstance(effect, do.Record)]
        return [e for entry in entries for e in self.turn.on_recorded(self.now, MS, entry)]

    def streaming(self, *routes: RouteRef) -> Bench:
        self.calling(*routes)
        self.record(self.effects)
        self.effects = self.turn.on_events(self.now, self.turn.attempt, TEXT)
        return self

    def fail(self, final: bool = False, retry_after_s: float = 0.0) -> list[Effect]:
        self.effects = self.turn.on_failed(self.now, MS, self.turn.attempt, "server", final, retry_after_s)
        return self.effects

    def finish(self) -> list[Effect]:
        self.turn.on_events(self.now, self.turn.attempt, [Finished("stop")])
        self.effects = self.turn.on_finished(self.now, MS, self.turn.attempt)
        return self.effects

    def store(self, effects: list[Effect]) -> list[Effect]:
        """History takes increments until the turn writes its end; returns the effects that do."""
        while any(isinstance(effect, do.Append) for effect in effects):
            effects = self.turn.on_appended(self.now, one(effects, do.Append).epoch)
        return effects

    def stored_end(self, effects: list[Effect]) -> tuple[End, list[Effect]]:
        """History takes increments and end; the record of it is acknowledged. The end and what is told of it."""
        end = one(self.store(effects), do.WriteEnd).end
        self.row = Turn(opened=OPENED, epoch=end.epoch, run=end.run, since_ms=0, end=end)
        effects = self.turn.on_end_stored(self.now, Applied(self.row))
        recorded = self.record(effects)
        return end, recorded or effects

    def ended(self) -> Bench:
        self.stored_end(self.streaming().finish())
        assert self.turn.state == "ended"
        return self

    def waiting(self) -> Bench:
        self.calling()
        self.record(self.effects)
        self.fail(retry_after_s=1.0)
        assert self.turn.state == "waiting"
        return self

    def claiming(self) -> Bench:
        self.streaming(NEAR, FAR).fail()
        assert self.turn.state == "claiming"
        return self

    def ending(self) -> Bench:
        self.effects = self.store(self.streaming().finish())
        return self

    def away(self) -> Bench:
        self.ending()
        self.effects = self.turn.on_end_failed(self.now)
        return self

    def recording(self) -> Bench:
        end = one(self.ending().effects, do.WriteEnd).end
        stands = Turn(opened=OPENED, epoch=0, run="run-0", since_ms=0, end=end)
        self.effects = self.turn.on_end_stored(self.now, Applied(stands))
        return self

    def dropped(self) -> Bench:
        self.effects = self.turn.on_no()
        return self

    def offered(self) -> Bench:
        return self


def in_state(name: str) -> Bench:
    bench = Bench()
    getattr(bench, name)()
    assert bench.turn.state == name
    return bench


STATES: Final = [
    *("offered", "reading", "waiting", "calling", "streaming", "claiming"),
    *("ending", "away", "recording", "ended", "dropped"),
]

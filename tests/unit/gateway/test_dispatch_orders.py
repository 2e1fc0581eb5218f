"""What a supervisor never does, in whatever order routers, rivals, history and time act on its turn."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from core import turn as rules
from core.events import Life, Taken
from core.history.port import Applied, Refused
from core.model import Turn
from gateway import dispatch as do
from gateway.dispatch import Effect, Supervisor
from tests.support.turns import new_end, new_id, new_turn

OPENED = new_turn(new_id(), run="run-0", since_ms=1_000_000)
ROW = Turn(opened=OPENED, epoch=0, run="run-0", since_ms=1_000_000)
START = 1000.0


class World:
    """A row, a supervisor of it, rivals, and effects whose results come late, are lost or fail."""

    def __init__(self) -> None:
        self.now = START
        self.row = ROW
        self.mine = {(0, "run-0")}
        self.grants: dict[tuple[int, str], str] = {}
        self.waiting: list[Effect] = []
        self.shown = False
        names = (f"claimed-{n}" for n in itertools.count(1))
        self.found = Supervisor("g", OPENED.key, "gw-1", names.__next__, 30.0)
        self.take(self.found.opened(self.now, ROW, self.now))

    def take(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, do.Grant):
                at = (effect.epoch, effect.run)
                assert at in self.mine, "rule 3: only who opened or claimed an epoch dispatches it"
                assert self.grants.setdefault(at, effect.router) == effect.router, "rule 4: one router"
                assert not self.shown
            elif isinstance(effect, do.ShowEnd):
                assert effect.end == self.row.end
                self.shown = True
            elif isinstance(effect, do.ClaimTurn):
                assert effect.epoch < rules.MAX_EPOCH, "rule 8"
            if isinstance(effect, do.ReadRow | do.ClaimTurn | do.EndTurn | do.WriteCancel):
                assert not self.shown
                self.waiting.append(effect)
        reads = [effect for effect in self.waiting if isinstance(effect, do.ReadRow)]
        writes = [effect for effect in self.waiting if isinstance(effect, do.ClaimTurn | do.EndTurn)]
        assert len(reads) <= 1
        assert len(writes) <= 1

    def tick(self, n: int) -> None:
        self.now += n / 8
        self.take(self.found.tick(self.now, n != 7))

    def taken(self, n: int) -> None:
        at = (self.row.epoch, self.row.run) if n < 6 else (0, "run-0")
        self.take(self.found.on_taken(self.now, Taken("g", *at, f"router-{n % 3}")))

    def life(self, n: int) -> None:
        at = (self.row.epoch, self.row.run) if n < 6 else (0, "run-0")
        self.take(self.found.on_life(self.now, Life("g", *at, 3, False)))

    def superseded(self, n: int) -> None:
        self.take(self.found.on_superseded(self.now, self.row.epoch, self.row.run))

    def cancel(self, n: int) -> None:
        self.take(self.found.cancel(self.now))

    def no_responders(self, n: int) -> None:
        self.take(self.found.on_no_responders(self.now))

    def rival(self, n: int) -> None:
        """Another gateway or a router writes the row."""
        if n < 5:
            self.write(rules.claim(self.row, self.row.epoch, f"rival-{self.row.epoch}", int(self.now * 1000)))
        elif n == 5:
            self.write(rules.cancel(self.row))
        elif n == 6:
            self.write(rules.end(self.row, new_end(self.row, writer="router-1")))

    def write(self, result: Applied | Refused) -> Applied | Refused:
        if isinstance(result, Applied):
            self.row = result.turn
        return result

    def result(self, n: int) -> None:
        """What waits longest is carried out; one in eight is not, another is but nobody learns it."""
        if not self.waiting:
            return
        effect = self.waiting.pop(0)
        now_ms = int(self.now * 1000)
        if isinstance(effect, do.ReadRow):
            failed = n == 7
            self.take(
                self.found.on_row_failed(self.now)
                if failed
                else self.found.on_row(self.now, now_ms, self.row, effect.asked_at)
            )
            return
        result = None if n == 7 else self.carry_out(effect, now_ms)
        if result is None or n == 6:
            self.take(self.found.on_write_failed(self.now))
        elif isinstance(effect, do.ClaimTurn):
            self.take(self.found.on_claimed(self.now, now_ms, effect.asked_at, result))
        elif isinstance(effect, do.WriteCancel):
            self.take(self.found.on_cancel_stored(self.now, result))
        else:
            self.take(self.found.on_end_stored(self.now, now_ms, result))

    def carry_out(self, effect: Effect, now_ms: int) -> Applied | Refused:
        if isinstance(effect, do.ClaimTurn):
            result = self.write(rules.claim(self.row, effect.epoch, effect.run, now_ms))
            if isinstance(result, Applied):
                self.mine.add((effect.epoch + 1, effect.run))
            return result
        if isinstance(effect, do.WriteCancel):
            return self.write(rules.cancel(self.row))
        assert isinstance(effect, do.EndTurn)
        end = rules.ended_without_router(effect.row, effect.kind, "gw-1", (), effect.code, effect.message)
        return self.write(rules.end(self.row, end))


operations = st.sampled_from(
    ["tick", "tick", "tick", "result", "result", "taken", "life", "superseded", "cancel", "no_responders", "rival"]
)


@settings(max_examples=120, deadline=None)
@given(st.lists(st.tuples(operations, st.integers(0, 7)), max_size=60))
def test_in_every_order_one_router_per_epoch_and_an_end_at_last(steps: list[tuple[str, int]]) -> None:
    world = World()
    for name, n in steps:
        getattr(world, name)(n)
    for _ in range(2_000):
        if world.shown:
            break
        world.tick(1)
        while world.waiting:
            world.result(0)
    assert world.shown, "no router lives: the claims run out and the turn ends"
    assert world.found.end == world.row.end

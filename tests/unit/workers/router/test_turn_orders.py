"""What a router's turn never does, in whatever order provider, history, gateways, rivals and time act on it."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from core import turn as rules
from core.events import Attach, CancelRun, EdgeMessage, Ended, Stop, Text
from core.history.port import Applied, Refused
from core.ledger.port import REVISION_ROUTER, Entry
from core.model import Increment, Turn
from core.providers.port import Finished, ProviderEvent, TextDelta
from tests.support.router_turn import DISPATCH, FAR, MS, NEAR, ROW, START, plan
from tests.support.turns import new_end
from workers.router import effects as do
from workers.router.effects import Effect
from workers.router.turn import RouterTurn

Stored = do.Append | do.WriteEnd


class World:
    """A row, the text and the records that are stored; effects whose results come late, fail or are lost."""

    def __init__(self) -> None:
        names = (f"run-{n}" for n in itertools.count(1))
        self.turn = RouterTurn(DISPATCH, "router-1", names.__next__)
        self.now = START
        self.row: Turn = ROW
        self.stored: dict[tuple[int, int], Increment] = {}
        self.told: dict[tuple[int, int], Text] = {}
        self.records: dict[tuple[str, int], Entry] = {}
        self.waiting: list[Effect] = []
        self.calling = ""
        self.forgotten = False
        self.take(self.turn.offer(self.now))

    # What the turn asks for.

    def take(self, effects: list[Effect]) -> None:
        assert not (self.forgotten and effects), "nothing follows a Forget"
        for effect in effects:
            if isinstance(effect, do.Tell | do.TellOne):
                for message in effect.messages:
                    self.hear(message)
            elif isinstance(effect, do.Call):
                assert self.calling == "", "one call at a time"
                assert (effect.attempt, 0) in self.records, "a call is on its way to the record before it is made"
                self.calling = effect.attempt
            elif isinstance(effect, do.HangUp):
                self.calling = ""
            elif isinstance(effect, do.Forget):
                self.forgotten, self.calling = True, ""
            elif isinstance(effect, do.SpoolEnd):
                self.end_is_whole(effect.end.epoch, effect.end.chunks, effect.increments)
            else:
                self.ask(effect)
        assert len([effect for effect in self.waiting if isinstance(effect, Stored)]) <= 1, "one write at a time"

    def ask(self, effect: Effect) -> None:
        if isinstance(effect, do.Record):
            at = (effect.entry.attempt, effect.entry.revision)
            assert self.records.setdefault(at, effect.entry) == effect.entry, "one content per attempt and revision"
        elif isinstance(effect, do.Append):
            at_epoch = (effect.epoch, effect.increment.i)
            assert self.stored.get(at_epoch, effect.increment) == effect.increment, "a retry writes the same bytes"
        elif isinstance(effect, do.WriteEnd):
            self.end_is_whole(effect.end.epoch, effect.end.chunks, ())
        elif isinstance(effect, do.ClaimNext):
            assert effect.epoch < rules.MAX_EPOCH
        self.waiting.append(effect)

    def end_is_whole(self, epoch: int, chunks: int, rest: tuple[Increment, ...]) -> None:
        """All text that was told is stored, or comes with the end, before the end is written."""
        kept = self.stored | {(epoch, increment.i): increment for increment in rest}
        increments = [kept[epoch, i] for i in range(chunks)]
        text = "".join(piece.d for increment in increments for piece in increment.pieces)
        assert text == "".join(message.piece.d for (e, _), message in sorted(self.told.items()) if e == epoch)

    def hear(self, message: EdgeMessage) -> None:
        if isinstance(message, Text):
            at = (message.epoch, message.seq)
            assert message.seq == 0 or (message.epoch, message.seq - 1) in self.told, "no hole"
            assert self.told.setdefault(at, message) == message, "one text per address"
        elif isinstance(message, Ended):
            assert message.end == self.row.end, "what is told is what history holds"

    # What happens to it.

    def tick(self, n: int) -> None:
        self.now += [0.1, 0.1, 0.3, 0.6, 1.0, 1.2, 2.5, 20.0][n]
        self.take(self.turn.tick(self.now))

    def go(self, n: int) -> None:
        self.take(self.turn.on_go(self.now))

    def provider(self, n: int) -> None:
        """Says something, ends or dies, if it is being asked."""
        attempt = self.calling
        if not attempt:
            return
        events: list[ProviderEvent] = [TextDelta("abcdefgh"[n])]
        if n == 5:
            self.calling = ""
            self.take(self.turn.on_events(self.now, attempt, [Finished("stop")]))
            self.take(self.turn.on_finished(self.now, MS, attempt))
        elif n >= 6:
            self.calling = ""
            self.take(self.turn.on_failed(self.now, MS, attempt, "server", n == 7, 0.5))
        else:
            self.take(self.turn.on_events(self.now, attempt, events))

    def message(self, n: int) -> None:
        """What gateways say, to whom they can: a run that gave up is not listening."""
        if self.forgotten:
            return
        if n < 4:
            self.take(self.turn.on_run_message(self.now, Attach("g", "gw-2", n - 1, 0)))
        elif n == 4:
            self.put(rules.cancel(self.row))
            self.take(self.turn.on_run_message(self.now, CancelRun("g")))
        elif n == 5:
            self.take(self.turn.on_run_message(self.now, Stop("g", self.row.epoch)))

    def rival(self, n: int) -> None:
        """A gateway claims the next epoch, or ends the turn."""
        if n == 6:
            self.put(rules.claim(self.row, self.row.epoch, f"rival-{self.row.epoch}", 0))
        elif n == 7:
            self.put(rules.end(self.row, new_end(self.row, writer="gw-1", attempt=None)))

    def put(self, result: Applied | Refused) -> Applied | Refused:
        if isinstance(result, Applied):
            self.row = result.turn
        return result

    def result(self, n: int) -> None:
        """What waits longest is carried out; sometimes it is not, or it is and nobody learns it."""
        if not self.waiting:
            return
        effect = self.waiting.pop(0)
        done, fails = n < 7, n >= 6
        if isinstance(effect, do.Record):
            self.take(self.turn.on_recorded(self.now, MS, effect.entry, acknowledged=done))
        elif isinstance(effect, do.ReadPath):
            self.take(self.turn.on_unread() if fails else self.turn.on_ready(self.now, MS, self.row, plan(NEAR, FAR)))
        elif isinstance(effect, do.Reread):
            self.take(self.turn.on_row_failed(self.now) if fails else self.reread(effect))
        elif isinstance(effect, do.Append):
            if done:
                self.stored[effect.epoch, effect.increment.i] = effect.increment
            self.take(self.turn.on_append_failed(self.now) if fails else self.turn.on_appended(self.now, effect.epoch))
        elif isinstance(effect, do.ClaimNext):
            self.write(
                lambda: rules.claim(self.row, effect.epoch, effect.run, 0),
                lambda result: self.turn.on_claimed(self.now, MS, effect, result),
                lambda: self.turn.on_claim_failed(self.now),
                n,
            )
        elif isinstance(effect, do.WriteEnd):
            self.write(
                lambda: rules.end(self.row, effect.end),
                lambda result: self.turn.on_end_stored(self.now, result),
                lambda: self.turn.on_end_failed(self.now),
                n,
            )

    def reread(self, effect: do.Reread) -> list[Effect]:
        return self.turn.on_row(self.now, MS, self.row, effect.asked_at)

    def write(
        self,
        write: Callable[[], Applied | Refused],
        told: Callable[[Applied | Refused], list[Effect]],
        failed: Callable[[], list[Effect]],
        n: int,
    ) -> None:
        result = self.put(write()) if n < 7 else None
        self.take(failed() if result is None or n == 6 else told(result))

    # How it ends.

    def finish(self) -> None:
        """History and the stream are there, the provider finishes: the turn ends, or it stops and says so."""
        for _ in range(400):
            if self.turn.state in ("ended", "dropped") and not self.waiting:
                break
            while self.waiting:
                self.result(0)
            self.provider(5)
            self.tick(1)
        assert self.turn.state in ("ended", "dropped")
        charged = [entry for entry in self.records.values() if entry.charged_to == "user"]
        if self.turn.state == "ended":
            assert self.row.end is not None
            assert self.turn.end == self.row.end
            assert [entry.attempt for entry in charged] == [a for a in (self.row.end.attempt,) if a], "rule 12"
            opened = {attempt for attempt, _ in self.records}
            assert {(attempt, REVISION_ROUTER) for attempt in opened} <= set(self.records), "each attempt is closed"


operations = st.sampled_from(
    ["tick", "tick", "go", "provider", "provider", "provider", "message", "rival", "result", "result", "result"]
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(operations, st.integers(0, 7)), max_size=50))
def test_in_every_order_what_is_told_is_what_is_stored(steps: list[tuple[str, int]]) -> None:
    world = World()
    world.go(0)
    world.result(0)
    for name, n in steps:
        getattr(world, name)(n)
    world.finish()

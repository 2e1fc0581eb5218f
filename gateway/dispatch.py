"""One turn as a gateway supervises it, sans-IO: hand it to a router, watch its life, claim it when nobody owns it.

Inputs are methods; each returns the effects the shell carries out. The rules cited are those of docs/turns.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from core import turn as rules
from core.events import Attach, CancelRun, Dispatch, Held, Life, RunMessage, Stop, Taken
from core.history.port import Applied, Refused
from core.model import End, EndKind, Turn, TurnKey

PUBLISH_EVERY_S: Final = 0.25
PUBLISH_MAX_S: Final = 2.0
HOLD_AFTER_S: Final = 0.5
READ_EVERY_S: Final = 0.25
CANCEL_EVERY_S: Final = 0.25
ASK_EVERY_S: Final = 0.5
BUS_GRACE_S: Final = 2.0


class Effect(msgspec.Struct, frozen=True, gc=False):
    """Base of all effects."""


class Publish(Effect, frozen=True):
    """Send the dispatch to the routers' queue group; `on_no_responders` when there is none."""

    dispatch: Dispatch


class Grant(Effect, frozen=True):
    """Tell a router `go`."""

    router: str
    epoch: int
    run: str


class Deny(Effect, frozen=True):
    """Tell a router `no`."""

    router: str
    epoch: int
    run: str


class TellRun(Effect, frozen=True):
    """Tell every process that serves the generation."""

    message: RunMessage


class Ask(Effect, frozen=True):
    """Attach to the run: ask for the text that the hub misses, and for signs of life."""


class ReadRow(Effect, frozen=True):
    """Read the row serially; answered by `on_row` or `on_row_failed`."""

    asked_at: float


class ClaimTurn(Effect, frozen=True):
    """Claim the next epoch; answered by `on_claimed` or `on_write_failed`."""

    epoch: int
    run: str
    asked_at: float


class EndTurn(Effect, frozen=True):
    """End an unowned turn with the text stored so far; answered by `on_end_stored` or `on_write_failed`."""

    row: Turn
    kind: EndKind
    code: str | None
    message: str | None


class WriteCancel(Effect, frozen=True):
    """Set the cancel flag; answered by `on_cancel_stored`. Where it fails the next tick but one writes it again."""


class Hold(Effect, frozen=True):
    """Serve `run.<generation>` while the turn waits here, so that others see it owned."""


class Release(Effect, frozen=True):
    """Stop serving `run.<generation>`."""


class TellHeld(Effect, frozen=True):
    """The lease, to the gateways that asked."""

    edges: tuple[str, ...]
    held: Held


class Waiting(Effect, frozen=True):
    """Nobody has room: tell watchers `queued`."""

    waited_s: float


class NewEpoch(Effect, frozen=True):
    """History holds a newer epoch: the text shown is dropped."""

    epoch: int


class ShowEnd(Effect, frozen=True):
    """The end that history holds. Nothing follows."""

    end: End


class Supervisor:
    """What one gateway knows of one turn. Seconds are monotonic; `new_run` names a claimed epoch's run.

    `spends` is set where somebody asked for the answer here or resumed it: a mere look claims nothing (rule 13).
    """

    def __init__(self, generation: str, key: TurnKey, edge: str, new_run: Callable[[], str], wait_s: float) -> None:
        self.generation = generation
        self.key = key
        self.epoch = -1
        self.run = ""
        self.end: End | None = None
        self.cancelled = False
        self.queued = False
        self.spends = False
        self.resent = False
        self._edge = edge
        self._row: Turn | None = None
        self._claiming = (-1, "")
        self._new_run = new_run
        self._wait_s = wait_s
        self._arbiter = False
        self._since = 0.0
        self._granted: str | None = None
        self._asking: str | None = None
        self._dead = False
        self._life = 0.0
        self._ask_at = 0.0
        self._reading = False
        self._writing = False
        self._read_at = 0.0
        self._published = 0.0
        self._publish_every = PUBLISH_EVERY_S
        self._cancel_at = 0.0
        self._suspended = False
        self._holding = False
        self._held_at = 0.0
        self._askers: dict[str, None] = {}
        self._cancel_wanted = False

    @property
    def arbiter(self) -> bool:
        """Whether this gateway opened or claimed the current epoch, and so decides which router answers it."""
        return self._arbiter

    @property
    def engaged(self) -> bool:
        """Whether what is under way here must be seen through though nobody watches: this gateway decides who answers,
        a claim or an end may be on its way to history, a cancel is repeated until an end is read (rule 9), or somebody
        sent the turn again and was told that it is accepted.
        """
        return self.end is None and (self._arbiter or self._writing or self._cancel_wanted or self.resent)

    @property
    def holding(self) -> bool:
        """Whether `run.<generation>` is to be served here."""
        return self._holding

    def opened(self, now: float, row: Turn, asked_at: float) -> list[Effect]:
        """This gateway opened the turn; `asked_at` is when it began to. Somebody here may have read of it before."""
        if self.end is not None or self.epoch > row.epoch:
            return []
        self.spends = True
        return self._dispatch(now, row, asked_at)

    def watch(self, now: float, now_ms: int, row: Turn) -> list[Effect]:
        """Another opened it; somebody here watches."""
        if row.end is not None:
            return self._finish(row.end)
        return self._adopt(now, now_ms, row)

    def _dispatch(self, now: float, row: Turn, asked_at: float) -> list[Effect]:
        self._row = row
        self.epoch, self.run, self.cancelled = row.epoch, row.run, row.cancelled
        self._arbiter, self._since, self._life = True, asked_at, now
        self._granted, self._asking, self._dead = None, None, False
        self._publish_every = PUBLISH_EVERY_S
        return self._publish(now)

    def _publish(self, now: float) -> list[Effect]:
        self._published = now
        return [Publish(Dispatch(self.generation, self.key, self.epoch, self.run, self._edge))]

    def _adopt(self, now: float, now_ms: int, row: Turn) -> list[Effect]:
        newer = row.epoch > self.epoch
        self._row = row
        self.epoch, self.run, self.cancelled = row.epoch, row.run, row.cancelled
        self._arbiter, self._granted, self._asking, self._dead = False, None, None, False
        self._since = now - max(0, now_ms - row.since_ms) / 1000
        self._life = now
        self._ask_at = now + ASK_EVERY_S
        effects: list[Effect] = [NewEpoch(row.epoch)] if newer else []
        return [*effects, Ask(), *self._unhold()]

    # What routers and other gateways say.

    def on_taken(self, now: float, taken: Taken) -> list[Effect]:
        """Rule 4: the first gets `go`, the others `no`; a lost one is repeated."""
        mine = self._arbiter and (taken.epoch, taken.run) == (self.epoch, self.run)
        if not mine or self.end is not None or self.cancelled or self._writing:
            return [Deny(taken.router, taken.epoch, taken.run)]
        if self._granted is not None:
            if self._granted == taken.router:
                return [Grant(taken.router, self.epoch, self.run)]
            return [Deny(taken.router, taken.epoch, taken.run)]
        if rules.may_go_unread(now, self._since):
            return self._grant(now, taken.router)
        self._asking = taken.router
        return self._read(now)

    def _grant(self, now: float, router: str) -> list[Effect]:
        self._granted, self._asking, self._life, self.queued = router, None, now, False
        return [Grant(router, self.epoch, self.run), *self._unhold()]

    def on_life(self, now: float, life: Life) -> list[Effect]:
        """A heartbeat named this answer. An older epoch is no life (rule 5); a newer one is read from the row.

        A run that goes on though its turn was ended without it is told to end, which history will refuse (rule 7).
        """
        if self.end is not None:
            return [] if life.ended else [TellRun(CancelRun(self.generation))]
        if rules.stale(life.epoch, self.epoch):
            return [TellRun(Stop(self.generation, self.epoch))]
        if life.epoch > self.epoch:
            return self._read(now)
        if life.run == self.run:
            self._life, self._dead = now, False
            if life.ended:
                return self._read(now)
        return []

    def on_held(self, now: float, held: Held) -> list[Effect]:
        """Another gateway's lease on a waiting turn."""
        if (held.epoch, held.run) == (self.epoch, self.run):
            self._life = now
        return []

    def on_superseded(self, now: float, epoch: int, run: str) -> list[Effect]:
        """A run stopped by itself (rule 7): what history says decides."""
        if self.end is not None or (epoch, run) != (self.epoch, self.run):
            return []
        self._dead = True
        return self._read(now)

    def on_ended(self, end: End) -> list[Effect]:
        """A router told the stored end."""
        return self._finish(end) if self.end is None else []

    def on_no_responders(self, now: float) -> list[Effect]:
        """No router has room."""
        if self.end is not None or not self._arbiter or self._granted is not None:
            return []
        self.queued = True
        return [Waiting(now - self._since), *self._hold()]

    def on_attach(self, now: float, message: RunMessage) -> list[Effect]:
        """Another gateway asks about a turn that waits here."""
        if not self._holding:
            return []
        if isinstance(message, CancelRun):
            return self._read(now)
        if not isinstance(message, Attach) or message.edge == self._edge:
            return []
        if len(self._askers) < 256:
            self._askers[message.edge] = None
        return [TellHeld((message.edge,), Held(self.generation, self.epoch, self.run))]

    def _hold(self) -> list[Effect]:
        if self._holding:
            return []
        self._holding = True
        return [Hold()]

    def on_hold_failed(self) -> None:
        """The bus was away: tried again at the next tick."""
        self._holding = False

    def _unhold(self) -> list[Effect]:
        if not self._holding:
            return []
        self._holding = False
        self._askers.clear()
        return [Release()]

    # What history says.

    def _read(self, now: float) -> list[Effect]:
        if self._reading or self._writing or self.end is not None:
            return []
        self._reading = True
        return [ReadRow(now)]

    def on_row_failed(self, now: float) -> list[Effect]:
        self._reading = False
        self._read_at = now + READ_EVERY_S
        return []

    def on_row(self, now: float, now_ms: int, row: Turn, asked_at: float) -> list[Effect]:
        """The row as history holds it."""
        self._reading = False
        self._read_at = now + READ_EVERY_S
        if self.end is not None:
            return []
        if row.end is not None:
            return self._finish(row.end)
        if row.epoch < self.epoch:
            return []
        if row.epoch > self.epoch and (row.epoch - 1, row.run) == self._claiming:
            return [NewEpoch(row.epoch), *self._dispatch(now, row, asked_at)]
        if (row.epoch, row.run) != (self.epoch, self.run):
            return self._adopt(now, now_ms, row)
        self.cancelled = self.cancelled or row.cancelled
        asking, self._asking = self._asking, None
        if asking is not None and self._arbiter and self._granted is None and not (self.cancelled or self._writing):
            if rules.may_go_unread(now, asked_at):
                return self._grant(now, asking)
            return []
        return self._judge(now, row)

    def _judge(self, now: float, row: Turn) -> list[Effect]:
        if self._writing:
            return []
        never_granted = self._arbiter and self._granted is None
        if never_granted and not self.cancelled:
            return []
        free = never_granted or self._dead or rules.unowned(now, self._life, self._since, self._arbiter)
        if not free:
            return [] if self._arbiter else [Ask()]
        if not (self.cancelled or self.spends):
            return [Ask()]
        self._writing = True
        if self.cancelled:
            return [EndTurn(row, "cancelled", None, None)]
        if not rules.may_claim(row):
            message = "The answer was begun five times and lost each time."
            return [EndTurn(row, "interrupted", "unavailable", message)]
        if self._claiming[0] != row.epoch:
            self._claiming = (row.epoch, self._new_run())
        return [ClaimTurn(row.epoch, self._claiming[1], now)]

    def on_claimed(self, now: float, now_ms: int, asked_at: float, result: Applied | Refused) -> list[Effect]:
        """The claim's result."""
        self._writing = False
        if self.end is not None or result.turn is None:
            return []
        if isinstance(result, Refused):
            return self.on_row(now, now_ms, result.turn, asked_at)
        if result.turn.epoch <= self.epoch:
            return []  # a read has told it before, and it was dispatched then: once for each epoch
        stop = TellRun(Stop(self.generation, result.turn.epoch))
        epoch = NewEpoch(result.turn.epoch)
        return [stop, epoch, *self._dispatch(now, result.turn, asked_at)]

    def on_end_stored(self, now: float, now_ms: int, result: Applied | Refused) -> list[Effect]:
        """The result of ending an unowned turn: whichever end is stored is the turn's."""
        self._writing = False
        if self.end is not None or result.turn is None:
            return []
        if result.turn.end is not None:
            return self._finish(result.turn.end)
        return self.on_row(now, now_ms, result.turn, now)

    def on_write_failed(self, now: float) -> list[Effect]:
        """Unavailable or unknown: judged afresh from the row."""
        self._writing = False
        self._read_at = now + READ_EVERY_S
        return []

    # Cancel.

    def cancel(self, now: float) -> list[Effect]:
        """Rule 9: set the flag, tell the run, repeat until an end is read."""
        if self.end is not None:
            return [ShowEnd(self.end)]
        if self.cancelled or self._cancel_wanted:
            return []
        self._cancel_wanted = True
        self._cancel_at = now + CANCEL_EVERY_S
        return [WriteCancel()]

    def on_cancel_stored(self, now: float, result: Applied | Refused) -> list[Effect]:
        if self.end is not None or result.turn is None:
            return []
        if result.turn.end is not None:
            return self._finish(result.turn.end)
        self.cancelled = True
        return self._tell_cancel(now)

    def _tell_cancel(self, now: float) -> list[Effect]:
        self._cancel_at = now + CANCEL_EVERY_S
        effects: list[Effect] = [TellRun(CancelRun(self.generation))]
        if self._arbiter and self._granted is None:
            effects += self._read(now)
        return effects

    # Time.

    def tick(self, now: float, bus_ok: bool) -> list[Effect]:
        """Call about every 100 ms. `bus_ok`: the gateway's own round trip to the bus is good."""
        if self.end is not None:
            return []
        if not bus_ok:
            self._suspended = True
            return self._expire(now) or self._unheard(now)
        if self._suspended:
            self._suspended = False
            self._life = now + BUS_GRACE_S
            self._ask_at = now + ASK_EVERY_S
            return [Ask(), *self._tick_arbiter(now)]
        effects = self._tick_cancel(now)
        if self._arbiter and self._granted is None:
            return effects + self._tick_arbiter(now)
        if now >= self._ask_at and now - self._life >= ASK_EVERY_S:
            self._ask_at = now + ASK_EVERY_S
            effects.append(Ask())  # an answer to the last one may be lost, and silence must not be mistaken for death
        lost = self._dead or now - self._life >= rules.LIFE_LOST_S
        if lost and now >= self._read_at:
            effects += self._read(now)
        return effects

    def _tick_cancel(self, now: float) -> list[Effect]:
        if now < self._cancel_at:
            return []
        if self.cancelled:
            return self._tell_cancel(now)
        if self._cancel_wanted:
            self._cancel_at = now + CANCEL_EVERY_S
            return [WriteCancel()]
        return []

    def _tick_arbiter(self, now: float) -> list[Effect]:
        if not self._arbiter or self._granted is not None or self._writing or self.cancelled:
            return []
        expired = self._expire(now)
        if expired:
            return expired
        effects: list[Effect] = []
        if now - self._since >= HOLD_AFTER_S:
            effects += self._hold()
        if self._holding and self._askers and now - self._held_at >= rules.HEARTBEAT_S:
            self._held_at = now
            effects.append(TellHeld(tuple(self._askers), Held(self.generation, self.epoch, self.run)))
        if now - self._published >= self._publish_every:
            self._publish_every = min(self._publish_every * 2, PUBLISH_MAX_S)
            effects += self._publish(now)
        return effects

    def _expire(self, now: float) -> list[Effect]:
        """The wait for a router is bounded; then the turn fails, charged to nobody, and can be regenerated."""
        waiting = self._arbiter and self._granted is None and not self._writing
        if not waiting or self._row is None or now - self._since < self._wait_s:
            return []
        self._writing = True
        message = "No router had room in time; nothing was charged. Ask again."
        return [EndTurn(self._row, "failed", "no_capacity", message)]

    def _unheard(self, now: float) -> list[Effect]:
        """A dispatch that the bus has perhaps not carried waits like one for which nobody has room; told once."""
        if not self._arbiter or self._granted is not None or self.queued:
            return []
        self.queued = True
        return [Waiting(now - self._since)]

    def _finish(self, end: End) -> list[Effect]:
        self.end = end
        self.queued = False
        return [*self._unhold(), ShowEnd(end)]

"""One turn in a router, sans-IO: inputs are methods, each returns the effects its shell carries out (docs/turns.md).

offered → reading → calling → streaming → ending → recording → ended, with `claiming` between two epochs, `away` while
history cannot take the end, and `dropped` for a run that history or its arbiter does not want.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Literal, TypeAlias

from core import turn as rules
from core.events import Attach as AttachMessage
from core.events import (
    Beat,
    CancelRun,
    Detach,
    Dispatch,
    EdgeMessage,
    Ended,
    Finishing,
    Life,
    RunMessage,
    Stop,
    Superseded,
    Taken,
    Text,
)
from core.history.port import Applied, Refused
from core.ledger.port import REVISION_OPENED, REVISION_ROUTER, Entry, Payer
from core.model import End, EndKind, Turn
from core.providers.port import Finished, ProviderEvent, TextDelta
from core.providers.port import Usage as ProviderUsage
from workers.router.attempts import Attempts, Plan
from workers.router.effects import (
    Append,
    Call,
    ClaimNext,
    CloseListing,
    Effect,
    Forget,
    HangUp,
    ReadPath,
    Record,
    Reread,
    Serve,
    SpoolEnd,
    Tell,
    TellOne,
    WriteEnd,
)
from workers.router.text import EpochText

Begun = Literal["offered", "reading", "waiting", "calling", "streaming", "claiming"]
Closing = Literal["ending", "away", "recording", "ended", "dropped"]
State: TypeAlias = Begun | Closing

OFFER_EVERY_S: Final = 0.25
RETRY_EVERY_S: Final = 0.5
MAX_ATTEMPTS: Final = 3
MAX_TURN_S: Final = 900.0


class RouterTurn:
    """The state of one turn in one router."""

    def __init__(self, dispatch: Dispatch, router: str, new_run: Callable[[], str]) -> None:
        self.generation = dispatch.generation
        self.key = dispatch.key
        self.epoch = dispatch.epoch
        self.run = dispatch.run
        self.router = router
        self.edges: dict[str, None] = {dispatch.edge: None}
        self.state: State = "offered"
        self.end: End | None = None
        self.ended_at = 0.0
        self._arbiter = dispatch.edge
        self._new_run = new_run
        self._granted = 0.0
        self._started = 0.0
        self._next_at = 0.0
        self._attempts = Attempts()
        self._recorded = False
        self._held: list[ProviderEvent] = []
        self._held_end: Callable[[float], list[Effect]] | None = None
        self._finish_reason = ""
        self._ending: tuple[EndKind, str | None, str | None] = ("done", None, None)
        self._appending = False
        self._unappended: list[int] = []
        self._away_since: float | None = None
        self._spooled = False
        self.text = EpochText(0.0)

    def offer(self, now: float) -> list[Effect]:
        """A dispatch arrived: say `taken`."""
        self._granted = self._started = now
        self._next_at = now + OFFER_EVERY_S
        return [TellOne(self._arbiter, [self._taken()])]

    @property
    def granted(self) -> float:
        """When `taken` was said, or this run's own claim or re-read began: what was read before is not fresh."""
        return self._granted

    def on_go(self, now: float) -> list[Effect]:
        """The grant. A second one for the same run changes nothing: a router starts a run once."""
        if self.state != "offered":
            return []
        self.state = "reading"
        return [Serve(), ReadPath(now)]

    def on_no(self) -> list[Effect]:
        return self._drop() if self.state == "offered" else []

    def _taken(self) -> Taken:
        return Taken(self.generation, self.epoch, self.run, self.router)

    def on_ready(self, now: float, now_ms: int, row: Turn | None, plan: Plan) -> list[Effect]:
        """Row and context were read together."""
        if self.state != "reading":
            return []
        self._attempts.plan = plan
        return self._check_and_call(now, now_ms, row)

    def on_unready(self, now: float, row: Turn | None, code: str, message: str) -> list[Effect]:
        """There is no way to answer (no such model, the context does not fit): the turn fails, charged to nobody."""
        if self.state != "reading":
            return []
        if not rules.answers(row, self.epoch, self.run):
            return self._supersede()
        self._attempts.row = row
        return self._begin_end("failed", now, code, message)

    def on_unread(self) -> list[Effect]:
        """History is away: without the row nothing may be called; the gateways see this run vanish."""
        return self._drop() if self.state == "reading" else []

    def on_row(self, now: float, now_ms: int, row: Turn | None, asked_at: float) -> list[Effect]:
        """The row was read again before another attempt of the same epoch."""
        if self.state != "waiting":
            return []
        self._granted = asked_at
        return self._check_and_call(now, now_ms, row)

    def on_row_failed(self, now: float) -> list[Effect]:
        """History is away: asked again, for as long as an end may wait for it."""
        if self.state != "waiting":
            return []
        if now - self._started > rules.HISTORY_AWAY_S:
            return self._drop()
        self._next_at = now + RETRY_EVERY_S
        return []

    def _check_and_call(self, now: float, now_ms: int, row: Turn | None) -> list[Effect]:
        if not rules.answers(row, self.epoch, self.run):
            return self._supersede()
        if not rules.may_call(now, self._granted):
            return self._drop()
        self._attempts.row = row
        return self._call(now, now_ms)

    def _call(self, now: float, now_ms: int) -> list[Effect]:
        self.state = "calling"
        self._recorded = False
        self._held, self._held_end = [], None
        self._finish_reason = ""
        self.text.cut_at = now
        opened = self._attempts.open(now_ms)
        return [Record(opened), Call(self.attempt, self._attempts.route)]

    @property
    def attempt(self) -> str:
        """The name of the current provider attempt."""
        return self._attempts.name

    def on_recorded(self, now: float, now_ms: int, entry: Entry, acknowledged: bool = True) -> list[Effect]:
        """A usage record is acknowledged, or else spooled here: held text may be shown; an end may be told."""
        if entry.attempt != self.attempt:
            return []
        if entry.revision == REVISION_OPENED and not self._recorded:
            self._recorded = True
            held, self._held = self._held, []
            effects = self._take(held, now) if held else []
            then, self._held_end = self._held_end, None
            return effects + (then(now) if then and self.state in ("calling", "streaming") else [])
        if entry.revision == REVISION_ROUTER and self.state == "recording":
            return self._finish(now, acknowledged)
        return []

    def on_unrecorded(self, now: float, entry: Entry) -> list[Effect]:
        """Neither the stream nor the disk took a usage record. Without the first one nothing may be shown, so another
        router has to answer; what a stored end charges is recorded again by the janitor (rule 10).
        """
        if entry.revision == REVISION_ROUTER:
            return self.on_recorded(now, 0, entry, acknowledged=False)
        return self._supersede() if entry.attempt == self.attempt and not self._recorded else []

    def on_events(self, now: float, attempt: str, events: Sequence[ProviderEvent]) -> list[Effect]:
        """A batch from the provider. Held until the attempt is on record."""
        if attempt != self.attempt or self.state not in ("calling", "streaming"):
            return []
        if not self._recorded:
            self._held += events
            return []
        return self._take(events, now)

    def _take(self, events: Sequence[ProviderEvent], now: float) -> list[Effect]:
        if self.state not in ("calling", "streaming"):
            return []
        for event in events:
            if isinstance(event, ProviderUsage):
                self._attempts.usage = event
            elif isinstance(event, Finished):
                self._finish_reason = event.reason
        first = self.text.add(event for event in events if isinstance(event, TextDelta))
        fresh = self.text.pieces[first:]
        if not fresh:
            return []
        self.state = "streaming"
        effects: list[Effect] = [Tell(self._texts(first))]
        if self.text.full:
            return [*effects, HangUp(self.attempt), *self._begin_end("done", now, reason="length")]
        return effects + self._save(now)

    def _texts(self, first: int) -> list[EdgeMessage]:
        pieces = self.text.pieces
        return [Text(self.generation, self.epoch, self.run, seq, pieces[seq]) for seq in range(first, len(pieces))]

    def on_finished(self, now: float, now_ms: int, attempt: str) -> list[Effect]:
        """The provider closed its stream cleanly."""
        return self._when_recorded(now, now_ms, attempt, lambda at: self._begin_end("done", at))

    def on_failed(
        self, now: float, now_ms: int, attempt: str, message: str, final: bool, retry_after_s: float
    ) -> list[Effect]:
        """The attempt failed. `final`: asking again cannot help."""
        return self._when_recorded(now, now_ms, attempt, lambda at: self._failed(at, message, final, retry_after_s))

    def _when_recorded(
        self, now: float, now_ms: int, attempt: str, then: Callable[[float], list[Effect]]
    ) -> list[Effect]:
        if attempt != self.attempt or self.state not in ("calling", "streaming"):
            return []
        if self._recorded:
            return then(now)
        self._held_end = then
        return []

    def _failed(self, now: float, message: str, final: bool, retry_after_s: float) -> list[Effect]:
        another = self._attempts.another_route
        if self.text.pieces:
            if not another or self.epoch >= rules.MAX_EPOCH:
                return self._begin_end("interrupted", now, "provider_error", message)
            self.state = "claiming"
            closing = self._closed("error")
            self._attempts.route += 1
            return [closing, ClaimNext(self.epoch, self._new_run(), now)]
        if self._attempts.number >= MAX_ATTEMPTS or (final and not another):
            return self._begin_end("failed", now, "provider_error", message)
        self.state = "waiting"
        closing = self._closed("error")
        if another:
            self._attempts.route += 1
            self._next_at = 0.0
            return [closing, Reread(now)]
        self._next_at = now + min(retry_after_s, 2.0)
        return [closing]

    def _closed(self, outcome: str) -> Record:
        return Record(self._attempts.closed(outcome, "platform", self.text.whole()))

    def on_claimed(self, now: float, now_ms: int, asked: ClaimNext, result: Applied | Refused) -> list[Effect]:
        """This router's own claim of the next epoch, after its provider died under shown text."""
        if self.state != "claiming" or asked.epoch != self.epoch:
            return []
        if isinstance(result, Refused) or not rules.may_call(now, asked.asked_at):
            return self._supersede()
        self._attempts.row, self._attempts.number = result.turn, 0
        self.epoch, self.run = result.turn.epoch, result.turn.run
        self.text = EpochText(now)
        self._unappended = []
        return [Tell([Beat(self.router, [self.life()])]), *self._call(now, now_ms)]

    def on_claim_failed(self, now: float) -> list[Effect]:
        """History is away: nothing is known, so this run ends nothing and the gateways decide."""
        return self._supersede() if self.state == "claiming" else []

    def on_run_message(self, now: float, message: RunMessage) -> list[Effect]:
        if isinstance(message, AttachMessage):
            return self._attach(message)
        if isinstance(message, Detach):
            self.edges.pop(message.edge, None)
            return []
        if isinstance(message, CancelRun):
            return self._cancel(now)
        if isinstance(message, Stop) and rules.stale(self.epoch, message.epoch):
            return self._supersede()
        return []

    def _attach(self, message: AttachMessage) -> list[Effect]:
        if self.state in ("offered", "dropped"):
            return []
        self.edges[message.edge] = None
        known = message.seq if message.epoch == self.epoch else -1
        tail = self._texts(known + 1)
        told: list[EdgeMessage] = [*tail, Beat(self.router, [self.life()])]
        if self.state == "ended" and self.end is not None:
            told.append(Ended(self.generation, self.end))
        elif self.state == "away":
            told.append(Finishing(self.generation, self.epoch, self.run))
        return [TellOne(message.edge, told)]

    def life(self) -> Life:
        """What a heartbeat says of this run."""
        return Life(self.generation, self.epoch, self.run, self.text.last_seq, self.state == "ended")

    @property
    def alive(self) -> bool:
        """Whether a heartbeat reports it: from the grant until its end is stored or it gave up."""
        return self.state not in ("offered", "dropped")

    def _cancel(self, now: float) -> list[Effect]:
        if self.state in ("calling", "streaming"):
            return [HangUp(self.attempt), *self._begin_end("cancelled", now)]
        if self.state == "waiting":
            return self._begin_end("cancelled", now)
        if self.state == "ended" and self.end is not None:
            return [Tell([Ended(self.generation, self.end)])]
        return []

    def _begin_end(
        self,
        kind: EndKind,
        now: float,
        code: str | None = None,
        message: str | None = None,
        reason: str | None = None,
    ) -> list[Effect]:
        self._ending = (kind, code, message)
        if reason:
            self._finish_reason = reason
        self.state = "ending"
        self._away_since = None
        return self._save(now, everything=True)

    def _save(self, now: float, everything: bool = False) -> list[Effect]:
        if everything or self.text.due(now):
            self._unappended += [increment.i for increment in self.text.cut(now)]
        return self._next_append(now)

    def _next_append(self, now: float) -> list[Effect]:
        if self._appending or (self.state == "away" and now < self._next_at):
            return []
        if self._unappended:
            self._appending = True
            return [Append(self.epoch, self.text.increments[self._unappended[0]])]
        if self.state in ("ending", "away"):
            return self._write_end()
        return []

    def on_appended(self, now: float, epoch: int) -> list[Effect]:
        self._appending = False
        if epoch == self.epoch and self._unappended:
            self._unappended.pop(0)
        return self._next_append(now)

    def on_append_failed(self, now: float) -> list[Effect]:
        """Kept and written again, the same bytes, at the next tick."""
        self._appending = False
        self._next_at = now + RETRY_EVERY_S
        return self._go_away(now) if self.state in ("ending", "away") else []

    def _write_end(self) -> list[Effect]:
        self._appending = True
        return [WriteEnd(self._make_end())]

    def _make_end(self) -> End:
        kind, code, message = self._ending
        pays = bool(self._attempts.number) and kind != "failed" and bool(self.text.pieces or kind == "done")
        usage = self._attempts.metered(self.text.whole()) if pays else None
        row, route = self._attempts.row, self._attempts.current_route
        return End(
            kind=kind,
            epoch=self.epoch,
            run=self.run,
            writer=self.router,
            chunks=len(self.text.increments),
            seq=self.text.last_seq,
            finish_reason=self._finish_reason if kind == "done" else kind,
            model=row.opened.model if row else "",
            provider=route.provider if route else "",
            usage=usage,
            cost=self._attempts.cost(usage) if usage else 0,
            attempt=self.attempt if pays else None,
            code=code,
            message=message,
            hash=rules.text_hash(self.text.increments),
        )

    def _closing_entry(self, end: End) -> Entry | None:
        if self._attempts.settled:
            return None
        payer: Payer = "user" if end.attempt == self.attempt else "platform"
        return self._attempts.closed(end.kind, payer, self.text.whole())

    def on_end_stored(self, now: float, result: Applied | Refused) -> list[Effect]:
        """History has decided: my end is the turn's end, or another's is, or a newer epoch exists."""
        self._appending = False
        if self.state not in ("ending", "away"):
            return []
        if isinstance(result, Refused) or result.turn.end is None:
            return self._supersede()
        self.end = result.turn.end
        entry = self._closing_entry(self.end)
        if entry is None:
            return self._finish(now, acknowledged=not self._spooled)
        self.state = "recording"
        return [Record(entry)]

    def on_end_failed(self, now: float) -> list[Effect]:
        """History is away or its answer is: the same end is written again."""
        self._appending = False
        return self._go_away(now) if self.state in ("ending", "away") else []

    def _go_away(self, now: float) -> list[Effect]:
        self._next_at = now + RETRY_EVERY_S
        if self._away_since is None:
            self._away_since = now
            self.state = "away"
            return [Tell([Finishing(self.generation, self.epoch, self.run)])]
        waited = now - self._away_since
        if waited >= rules.TAIL_LIFE_S:
            return [*self._spool(), *self._drop()]
        return self._spool() if waited >= rules.HISTORY_AWAY_S else []

    def _spool(self) -> list[Effect]:
        """Once; the run stays owned and goes on trying, so that no watcher has the answer begun again."""
        if self._spooled:
            return []
        self._spooled = True
        rest = tuple(self.text.increments[i] for i in self._unappended)
        end = self._make_end()
        return [SpoolEnd(end, rest, self._closing_entry(end))]

    def _finish(self, now: float, acknowledged: bool = True) -> list[Effect]:
        """Rule 10: what the stream has not acknowledged stays listed, and the janitor closes it."""
        assert self.end is not None
        self.state = "ended"
        self.ended_at = now
        told: list[Effect] = [Tell([Ended(self.generation, self.end)])]
        return [*told, CloseListing()] if acknowledged else told

    def _supersede(self) -> list[Effect]:
        """Rule 7: refused means stop. What it cost is the platform's."""
        effects: list[Effect] = []
        if self.state in ("calling", "streaming"):
            effects.append(HangUp(self.attempt))
        if self.state in ("calling", "streaming", "ending", "away") and not self._attempts.settled:
            effects.append(self._closed("superseded"))
        if self.state not in ("ended", "recording"):
            effects.append(Tell([Superseded(self.generation, self.epoch, self.run)]))
            return effects + self._drop()
        return []

    def give_up(self) -> list[Effect]:
        """This process goes away now: another answers, and what only waits for history is kept for it."""
        kept = self.state in ("ending", "away")
        return [*self._spool(), *self._drop()] if kept else self._supersede()

    def _drop(self) -> list[Effect]:
        self.state = "dropped"
        return [Forget()]

    def tick(self, now: float) -> list[Effect]:
        """Call about every 100 ms."""
        if self.state == "offered":
            return self._tick_offered(now)
        if self.state == "waiting" and self._next_at and now >= self._next_at:
            self._next_at = 0.0
            return [Reread(now)]
        if self.state == "streaming":
            if now - self._started > MAX_TURN_S:
                message = "The answer took longer than the platform allows."
                return [HangUp(self.attempt), *self._begin_end("interrupted", now, None, message)]
            return self._save(now)
        if self.state == "away" and not self._appending and now >= self._next_at:
            return self._next_append(now)
        if self.state == "ended" and now - self.ended_at >= rules.TAIL_LIFE_S:
            return self._drop()
        return []

    def _tick_offered(self, now: float) -> list[Effect]:
        if not rules.may_call(now, self._granted):
            return self._drop()
        if now < self._next_at:
            return []
        self._next_at = now + OFFER_EVERY_S
        return [TellOne(self._arbiter, [self._taken()])]

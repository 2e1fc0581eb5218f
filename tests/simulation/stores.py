"""Simulated ports behind the real shells: history, limits, catalog and usage stream, with the faults that a net has."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from core import turn as rules
from core.accounts.model import Conversation
from core.catalog.port import CatalogModel, Price, Route
from core.errors import Unavailable, Unknown
from core.history.port import Applied, Home, Look, Page, PathTurn, Refused
from core.ledger.port import Entry
from core.limits.port import Admission, UserLimits
from core.model import End, Increment, NewTurn, Turn, TurnKey
from tests.simulation.faults import Faults
from tests.simulation.loop import OUTSIDE, Node, VirtualLoop, current_node

T = TypeVar("T")

DEADLINE_S: Final = 5.0
LOST_AFTER_S: Final = 1.0


class Transition:
    """One change of a row: when, by whom, from what to what."""

    __slots__ = ("after", "at", "before", "node")

    def __init__(self, at: float, node: Node | None, before: Turn | None, after: Turn) -> None:
        self.at = at
        self.node = node
        self.before = before
        self.after = after


class SimHistory:
    """Rows and text in memory, moved by the functions of `core.turn`. The store lives apart from who asks it: an
    operation that was sent is carried out though its sender is stopped or dead; it may be lost, late or unanswered.
    """

    def __init__(self, loop: VirtualLoop, rng: random.Random, faults: Faults) -> None:
        self._loop = loop
        self._rng = rng
        self._faults = faults
        self.homes: dict[str, Home] = {}
        self.rows: dict[TurnKey, Turn] = {}
        self.texts: dict[tuple[TurnKey, int], dict[int, Increment]] = {}
        self.listed: dict[TurnKey, float] = {}
        self.touched: dict[TurnKey, float] = {}
        self.ceased: dict[tuple[TurnKey, int, str], float] = {}
        self.transitions: list[Transition] = []
        self.conflicts: list[str] = []
        self.on_change: Callable[[Transition], None] = lambda _: None
        self.denies = False

    async def _reach(self, apply: Callable[[], T], write: bool = True) -> T:
        """One operation with its repetitions, as an adapter does them (rule 1)."""
        loop, rng, faults = self._loop, self._rng, self._faults
        until = loop.time() + DEADLINE_S
        node = current_node()
        sent = False
        while True:
            if faults.history_away:
                await asyncio.sleep(0.05 + 0.4 * rng.random())
                if not sent or loop.time() >= until:
                    raise Unknown("history is away") if sent and write else Unavailable("history is away")
                continue
            answer: asyncio.Future[T] | None = loop.create_future()
            after = 0.0003 + 0.001 * rng.random()
            if faults.history_slow:
                after += rng.random() * faults.history_slow
            if write and faults.history_late and rng.random() < faults.history_late:
                after, answer = 4.0 * rng.random(), None
            elif write and faults.history_unwritten and rng.random() < faults.history_unwritten:
                after, answer = -1.0, None
            elif write and faults.history_unanswered and rng.random() < faults.history_unanswered:
                answer = None
            elif faults.history_lost and rng.random() < faults.history_lost:
                answer = None
                if rng.random() < 0.5:
                    after = -1.0
            if after >= 0:
                loop.call_later(after, self._serve, apply, answer, node, context=OUTSIDE)
            if answer is not None:
                return await answer
            sent = True
            await asyncio.sleep(LOST_AFTER_S)
            if self.denies:
                raise Unavailable("no answer, taken for a no")  # what rule 1 forbids
            if loop.time() >= until:
                raise Unknown("no answer") if write else Unavailable("no answer")

    def _serve(self, apply: Callable[[], T], answer: asyncio.Future[T] | None, node: Node | None) -> None:
        self._asking = node
        result = apply()
        if answer is not None:
            delay = 0.0001 + 0.0006 * self._rng.random()
            self._loop.call_later(delay, _answer, answer, result, context=OUTSIDE)

    async def home(self, conversation_id: str) -> Home | None:
        return await self._reach(lambda: self.homes.get(conversation_id), write=False)

    async def open(self, turn: NewTurn) -> Applied | Refused:
        def apply() -> Applied | Refused:
            home = self.homes.get(turn.key.conversation_id)
            deleted = home is None or home.deleted_at_ms is not None
            result = rules.open_turn(self.rows.get(turn.key), deleted, turn)
            if isinstance(result, Applied) and turn.key not in self.rows:
                self._list(turn.key)
            return self._put(turn.key, result)

        return await self._reach(apply)

    def _list(self, key: TurnKey) -> None:
        """Rule 10: before the open."""
        self.listed[key] = self._loop.time()

    async def claim(self, key: TurnKey, epoch: int, run: str, since_ms: int) -> Applied | Refused:
        return await self._reach(lambda: self._put(key, rules.claim(self.rows.get(key), epoch, run, since_ms)))

    async def cancel(self, key: TurnKey) -> Applied | Refused:
        return await self._reach(lambda: self._put(key, rules.cancel(self.rows.get(key))))

    async def end(self, key: TurnKey, end: End) -> Applied | Refused:
        return await self._reach(lambda: self._put(key, rules.end(self.rows.get(key), end)))

    def _put(self, key: TurnKey, result: Applied | Refused) -> Applied | Refused:
        before = self.rows.get(key)
        if not isinstance(result, Applied) or result.turn == before:
            return result
        after, now = result.turn, self._loop.time()
        if before is not None and before.end is not None:
            self.conflicts.append(f"{key.turn_id} changed after its end")
        if before is not None and before.run != after.run and before.cancelled:
            self.conflicts.append(f"{key.turn_id} was claimed though cancelled")
        if before is not None and _answering(before) not in (None, _answering(after)):
            self.ceased[(key, before.epoch, before.run)] = now
        self.rows[key] = after
        if before is None or before.epoch != after.epoch:
            self.touched[key] = now
        change = Transition(now, self._asking, before, after)
        self.transitions.append(change)
        self.on_change(change)
        return result

    async def append(self, key: TurnKey, epoch: int, increment: Increment) -> None:
        def apply() -> None:
            stored = self.texts.setdefault((key, epoch), {})
            known = stored.setdefault(increment.i, increment)
            if known != increment:
                self.conflicts.append(f"{key.turn_id} epoch {epoch}: increment {increment.i} was written differently")
            self.touched[key] = self._loop.time()

        await self._reach(apply)

    async def read(self, key: TurnKey) -> Turn | None:
        return await self._reach(lambda: self.rows.get(key), write=False)

    def text_of(self, key: TurnKey, epoch: int, limit: int | None) -> list[Increment]:
        stored = self.texts.get((key, epoch), {})
        found: list[Increment] = []
        while len(found) in stored and (limit is None or len(found) < limit):
            found.append(stored[len(found)])
        return found

    def whole(self, turn: Turn) -> str:
        """The text of an ended turn."""
        assert turn.end is not None
        increments = self.text_of(turn.key, turn.end.epoch, turn.end.chunks)
        return "".join(piece.d for increment in increments for piece in increment.pieces)

    async def read_text(self, key: TurnKey, epoch: int, limit: int | None = None) -> list[Increment]:
        return await self._reach(lambda: self.text_of(key, epoch, limit), write=False)

    async def path(self, key: TurnKey, max_chars: int) -> tuple[Turn, list[PathTurn]] | None:
        def find() -> tuple[Turn, list[PathTurn]] | None:
            row = self.rows.get(key)
            if row is None:
                return None
            begun = ""
            if row.opened.kind == "continue" and row.opened.source_turn:
                begun = self.whole(self.rows[TurnKey(key.conversation_id, row.opened.source_turn)])
            return row, [PathTurn(row, row.opened.content, begun)]

        return await self._reach(find, write=False)

    async def look(self, conversation_id: str, turn_id: str | None, parent_id: str | None) -> Look:
        def find() -> Look:
            keys = [key for key in self.rows if key.conversation_id == conversation_id]
            newest = max((key.turn_id for key in keys), default="")
            turn, parent = (
                self.rows.get(TurnKey(conversation_id, name)) for name in (turn_id or "", parent_id or newest)
            )
            return Look(self.homes.get(conversation_id), turn, parent)

        return await self._reach(find, write=False)

    async def open_turns(self, idle_ms: int, limit: int) -> list[Turn]:
        return await self._reach(lambda: self._idle(idle_ms, limit), write=False)

    def _idle(self, idle_ms: int, limit: int) -> list[Turn]:
        """By the store's own clock (rule 10)."""
        now = self._loop.time()
        old = [key for key in self.listed if (now - self.touched.get(key, now)) * 1000 >= idle_ms]
        return [self.rows[key] for key in old[:limit]]

    async def close_listing(self, keys: Sequence[TurnKey]) -> None:
        def apply() -> None:
            for key in keys:
                if self.rows[key].end is not None:
                    self.listed.pop(key, None)

        await self._reach(apply)

    async def create_conversation(self, conversation_id: str, owner: str, zone: str) -> Home:
        return self.homes.setdefault(conversation_id, Home(owner, zone))

    async def set_deleted(self, conversation_id: str, deleted_at_ms: int | None) -> bool:
        raise NotImplementedError("no scenario deletes")

    async def page(self, conversation_id: str, before: str | None, limit: int) -> Page:
        raise NotImplementedError("no scenario lists")

    async def close(self) -> None:
        return


def _answering(row: Turn) -> tuple[int, str] | None:
    """Which run may answer this row, if any may."""
    return None if row.end is not None or row.cancelled else (row.epoch, row.run)


def _answer(future: asyncio.Future[Any], result: Any) -> None:
    if not future.done():
        future.set_result(result)


class SimLimits:
    """Reservations by turn, with the time when each was last made or renewed."""

    LAPSES_S: Final = 120.0

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self.reserved: dict[str, float] = {}
        self.settled: dict[str, int] = {}

    async def admit(self, account: str, turn: str, tokens: int, limits: UserLimits) -> Admission:
        if turn not in self.settled:
            self.reserved.setdefault(turn, self._loop.time())
        return Admission(False, 1, 1, 0)

    async def renew(self, reservations: Sequence[tuple[str, str]]) -> None:
        for _, turn in reservations:
            if turn in self.reserved:
                self.reserved[turn] = self._loop.time()

    async def settle(self, account: str, turn: str, tokens: int) -> None:
        self.reserved.pop(turn, None)
        if tokens:
            self.settled[turn] = max(tokens, self.settled.get(turn, 0))


class SimCatalog:
    """One model with two routes."""

    def __init__(self) -> None:
        self._model = CatalogModel(
            alias="sim",
            routes=(Route("a", "sim"), Route("b", "sim")),
            context_window=4096,
            max_output=256,
            system_prompt="",
            capabilities=(),
            price=Price(1, 10, 30),
        )

    async def model(self, alias: str) -> CatalogModel | None:
        return self._model

    async def models(self) -> tuple[CatalogModel, ...]:
        return (self._model,)

    async def price(self, alias: str, version: int) -> Price | None:
        return self._model.price

    async def seed(self, models: Sequence[object]) -> int:
        return 0

    async def close(self) -> None:
        return


class SimAccounts:
    """Metadata that no turn depends on."""

    async def conversation(self, conversation_id: str, owner: str) -> Conversation | None:
        return None

    async def purge(self) -> None:
        return


class SimLedger:
    """The usage stream and the ledger behind it: entries by (attempt, revision), the first one of each counts."""

    def __init__(self, rng: random.Random, faults: Faults) -> None:
        self._rng = rng
        self._faults = faults
        self.entries: dict[tuple[str, int], Entry] = {}
        self.conflicts: list[str] = []
        self.on_entry: Callable[[Entry], None] = lambda _: None

    async def publish(self, entry: Entry, timeout_s: float) -> None:
        await asyncio.sleep(0.0003 + 0.0015 * self._rng.random())
        if self._faults.stream_away:
            await asyncio.sleep(timeout_s)
            raise Unavailable("the stream is away")
        self.store(entry)

    def store(self, entry: Entry) -> None:
        known = self.entries.setdefault((entry.attempt, entry.revision), entry)
        if known is entry:
            self.on_entry(entry)
            return
        same = (known.charged_to, known.outcome, known.usage, known.cost, known.epoch)
        if same != (entry.charged_to, entry.outcome, entry.usage, entry.cost, entry.epoch):
            self.conflicts.append(f"{entry.attempt} revision {entry.revision} was told twice, as {known} and {entry}")

    def final(self) -> dict[str, Entry]:
        """The highest revision of each attempt."""
        found: dict[str, Entry] = {}
        for attempt, revision in sorted(self.entries):
            found[attempt] = self.entries[(attempt, revision)]
        return found

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import pytest

from core import turn as rules
from core.bus.port import UsageBatch
from core.errors import Unavailable, Unknown
from core.history.port import Applied, Refused
from core.ledger.port import Entry
from core.model import End, Increment, NewTurn, Turn, TurnKey
from core.recorder import Recorder
from core.spool import Spool
from tests.support.entries import new_entry
from tests.support.polling import eventually
from tests.support.turns import new_end, new_id, new_turn, text
from workers.router import recorder as recording
from workers.router.effects import SpoolEnd
from workers.router.recorder import KeptEnd, SpoolingRecorder

BYTES = 1024 * 1024


class Stream:
    """A usage stream that takes records unless it is away."""

    def __init__(self) -> None:
        self.taken: list[Entry] = []
        self.away = False

    async def publish(self, entry: Entry, timeout_s: float) -> None:
        if self.away:
            raise Unavailable("away")
        self.taken.append(entry)

    async def pull(self, limit: int, wait_s: float) -> UsageBatch | None:
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError


class Rows:
    """What a kept end needs of history: one turn, moved by `core.turn`. `errors` are raised first, one a call; after
    `left` more calls it is away.
    """

    def __init__(self, turn: NewTurn) -> None:
        opened = rules.open_turn(None, False, turn)
        assert isinstance(opened, Applied)
        self.row: Turn = opened.turn
        self.increments: dict[tuple[int, int], Increment] = {}
        self.listed = True
        self.errors: list[Exception] = []
        self.left = 1_000_000

    def _called(self) -> None:
        if self.errors:
            raise self.errors.pop(0)
        if self.left <= 0:
            self.left -= 1
            raise Unavailable("away")
        self.left -= 1

    async def append(self, key: TurnKey, epoch: int, increment: Increment) -> None:
        self._called()
        assert self.increments.setdefault((epoch, increment.i), increment) == increment

    async def end(self, key: TurnKey, end: End) -> Applied | Refused:
        self._called()
        assert key == self.row.key
        result = rules.end(self.row, end)
        if isinstance(result, Applied):
            self.row = result.turn
        return result

    async def close_listing(self, keys: Sequence[TurnKey]) -> None:
        self._called()
        assert list(keys) == [self.row.key]
        self.listed = False


class Router:
    """One router's recorder after the other over the same folder, stream and history."""

    def __init__(self, folder: Path) -> None:
        self.turn = new_turn(new_id())
        self.rows = Rows(self.turn)
        self.stream = Stream()
        self._folder = folder
        self._stack = AsyncExitStack()

    async def boot(self, ends_timeout_s: float = 5.0) -> SpoolingRecorder:
        """A recorder that is not started yet; the one before is gone, and all that it left lies on the disk."""
        await self.crash()
        usage: Spool[Entry] = await Spool.open(self._folder / "usage", Entry, BYTES)
        self._stack.push_async_callback(usage.close)
        ends: Spool[KeptEnd] = await Spool.open(self._folder / "ends", KeptEnd, BYTES, ends_timeout_s)
        self._stack.push_async_callback(ends.close)
        recorder = SpoolingRecorder(Recorder(self.stream, usage, 0.05), self.rows, ends)  # type: ignore[arg-type]
        self._stack.push_async_callback(recorder.stop)
        return recorder

    async def crash(self) -> None:
        await self._stack.aclose()

    def effect(self, charged: bool = True) -> SpoolEnd:
        """The end of the turn, with the second of its two increments and its usage record."""
        attempt = f"{self.turn.run}.1" if charged else None
        end = new_end(self.turn, chunks=2, seq=1, attempt=attempt)
        entry = new_entry(
            attempt=f"{self.turn.run}.1",
            revision=2,
            key=self.turn.key,
            charged_to="user",
            outcome="done",
            usage=end.usage,
            cost=end.cost,
        )
        return SpoolEnd(end, (text(1, "rest"),), entry)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "TRY_EVERY_S", 0.001)


@pytest.fixture
async def router(tmp_path: Path) -> AsyncIterator[Router]:
    made = Router(tmp_path)
    yield made
    await made.crash()


async def test_a_kept_end_is_written_with_its_text_and_its_usage(router: Router) -> None:
    recorder = await router.boot()
    effect = router.effect()
    await recorder.keep_end(router.turn.key, effect)
    assert recorder.spooled > 0
    await recorder.start()
    await eventually(lambda: recorder.spooled == 0)
    assert router.rows.row.end == effect.end
    assert list(router.rows.increments.values()) == list(effect.increments)
    assert router.stream.taken == [effect.entry]
    assert not router.rows.listed


async def test_it_waits_for_as_long_as_history_is_away(router: Router) -> None:
    recorder = await router.boot()
    router.rows.errors = [Unavailable("away"), Unknown("no answer"), Unavailable("away"), RuntimeError("a mistake")]
    await recorder.keep_end(router.turn.key, router.effect())
    await recorder.start()
    await eventually(lambda: recorder.spooled == 0)
    assert router.rows.row.end == router.effect().end
    assert len(router.stream.taken) == 1


@pytest.mark.parametrize("fault", ["claimed", "ended by another"])
async def test_a_kept_end_that_history_refuses_charges_nobody(router: Router, fault: str) -> None:
    row = router.rows.row
    moved = rules.claim(row, 0, "another", 1)
    if fault == "ended by another":
        moved = rules.end(row, rules.ended_without_router(row, "interrupted", "gateway", [], None, None))
    assert isinstance(moved, Applied)
    router.rows.row = moved.turn
    recorder = await router.boot()
    effect = router.effect()
    await recorder.keep_end(router.turn.key, effect)
    await recorder.start()
    await eventually(lambda: recorder.spooled == 0)
    assert router.rows.row == moved.turn
    assert effect.entry is not None
    assert router.stream.taken == [msgspec.structs.replace(effect.entry, charged_to="platform", outcome="superseded")]
    assert router.rows.listed, "who ended it, or will end it, closes it"


async def test_a_usage_record_that_is_only_spooled_leaves_the_turn_listed(router: Router) -> None:
    recorder = await router.boot()
    router.stream.away = True
    await recorder.keep_end(router.turn.key, router.effect())
    await recorder.start()
    await eventually(lambda: router.rows.row.end is not None)
    router.stream.away = False
    await eventually(lambda: recorder.spooled == 0)
    assert router.rows.listed
    assert router.stream.taken == [router.effect().entry]


async def test_a_crash_at_any_step_changes_nothing_of_the_result(router: Router) -> None:
    effect = router.effect()
    await (await router.boot()).keep_end(router.turn.key, effect)
    # append, end, close_listing: each process gets one step further than the one before, and dies.
    for steps in range(3):
        recorder = await router.boot()
        router.rows.left = steps
        await recorder.start()
        await eventually(lambda: router.rows.left < 0)
        await router.crash()
    recorder = await router.boot()
    router.rows.left = 1_000_000
    await recorder.start()
    await eventually(lambda: recorder.spooled == 0)
    assert router.rows.row.end == effect.end
    assert list(router.rows.increments.values()) == list(effect.increments)
    assert set(map(name, router.stream.taken)) == {name(effect.entry)}, "once or more, always the same revision"
    assert not router.rows.listed


def name(entry: Entry | None) -> tuple[str, int, str, int]:
    assert entry is not None
    return entry.attempt, entry.revision, entry.charged_to, entry.cost


async def test_an_end_that_the_disk_does_not_take_is_refused(router: Router) -> None:
    recorder = await router.boot()
    await router.crash()
    with pytest.raises(Unavailable):
        await recorder.keep_end(router.turn.key, router.effect())

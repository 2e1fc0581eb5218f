"""Shared reads: how many there are, that nobody is answered by one that began before he asked, that many take turns."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from core.errors import ParleyError, Unavailable
from core.history.port import History
from core.ids import generation_id, uuid7
from gateway import rows as rows_module
from gateway.lanes import WAITING_PER_USER, Lanes
from gateway.rows import Rows
from tests.support.clock import ManualClock

GENERATION = generation_id(uuid7(1), uuid7(2))
POOL = 10
USER = "usr_1"


class Slow:
    """A history whose reads end when they are told to; `begun` counts them."""

    def __init__(self) -> None:
        self.begun = 0
        self.gate = asyncio.Event()
        self.failure: Exception | None = None
        self.running = self.most = 0

    async def home(self, conversation: str) -> Any:
        return object()

    async def read(self, key: Any) -> Any:
        self.begun += 1
        mine = self.begun
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.gate.wait()
        finally:
            self.running -= 1
        if self.failure is not None:
            raise self.failure
        return mine


async def turn_of_the_loop() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_thousand_who_ask_cost_two_reads_and_none_is_too_old() -> None:
    history, clock = Slow(), ManualClock()
    rows = Rows(cast(History, history), clock, POOL)
    first = asyncio.create_task(rows.read(USER, GENERATION))
    await turn_of_the_loop()
    clock.advance(1.0)
    later = [asyncio.create_task(rows.read(USER, GENERATION)) for _ in range(1000)]
    await turn_of_the_loop()
    assert history.begun == 1
    history.gate.set()
    assert cast(int, (await first).row) == 1
    found = await asyncio.gather(*later)
    assert {cast(int, read.row) for read in found} == {2}
    assert {read.asked_at for read in found} == {clock.monotonic()}
    assert cast(int, (await rows.read(USER, GENERATION)).row) == 3


async def test_who_leaves_takes_the_read_from_nobody() -> None:
    history = Slow()
    rows = Rows(cast(History, history), ManualClock(), POOL)
    leaving, staying = (asyncio.create_task(rows.read(USER, GENERATION)) for _ in range(2))
    await turn_of_the_loop()
    leaving.cancel()
    history.gate.set()
    assert cast(int, (await staying).row) == 2


async def test_a_failure_is_told_to_all_who_waited_and_to_nobody_later() -> None:
    history = Slow()
    history.failure = Unavailable("away")
    history.gate.set()
    rows = Rows(cast(History, history), ManualClock(), POOL)
    results = await asyncio.gather(*(rows.read(USER, GENERATION) for _ in range(3)), return_exceptions=True)
    assert [getattr(result, "code", None) for result in results] == ["unavailable"] * 3
    history.failure = None
    assert (await rows.read(USER, GENERATION)).row is not None


@pytest.mark.parametrize(("connections", "at_once"), [(10, 6), (4, 1), (3, 1), (1, 1)])
async def test_different_answers_take_turns_and_leave_connections(connections: int, at_once: int) -> None:
    history = Slow()
    rows = Rows(cast(History, history), ManualClock(), connections)
    reads = [asyncio.create_task(rows.read(f"usr_{n}", generation_id(uuid7(1), uuid7(n)))) for n in range(1000)]
    await turn_of_the_loop()
    assert history.running == at_once
    history.gate.set()
    found = await asyncio.gather(*reads)
    assert sorted(cast(int, read.row) for read in found) == list(range(1, 1001))
    assert history.most == at_once


async def test_a_turn_that_does_not_come_is_a_refusal_that_may_be_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "WAIT_S", 0.01)
    history = Slow()
    rows = Rows(cast(History, history), ManualClock(), 1)
    stuck = asyncio.create_task(rows.read(USER, GENERATION))
    await turn_of_the_loop()
    with pytest.raises(ParleyError) as refused:
        await rows.read(USER, generation_id(uuid7(1), uuid7(3)))
    assert (refused.value.code, refused.value.retry_after_ms) == ("unavailable", 1000)
    history.gate.set()
    assert cast(int, (await stuck).row) == 1
    assert cast(int, (await rows.read(USER, generation_id(uuid7(1), uuid7(3)))).row) == 2


async def test_a_read_that_fails_gives_its_place_to_the_next() -> None:
    history = Slow()
    history.failure = Unavailable("away")
    history.gate.set()
    rows = Rows(cast(History, history), ManualClock(), 1)
    for _ in range(3):
        with pytest.raises(ParleyError):
            await rows.read(USER, GENERATION)


async def test_what_is_no_id_is_refused() -> None:
    with pytest.raises(ParleyError):
        await Rows(cast(History, Slow()), ManualClock(), POOL).read(USER, "gen_nonsense")


def made_up(number: int) -> str:
    return generation_id(uuid7(1), uuid7(number))


async def test_who_asks_for_much_delays_nobody_else_by_more_than_a_turn() -> None:
    history = Slow()
    rows = Rows(cast(History, history), ManualClock(), 1)
    many = [asyncio.create_task(rows.read("usr_much", made_up(n))) for n in range(60)]
    await turn_of_the_loop()
    others = [asyncio.create_task(rows.read(f"usr_{n}", made_up(100 + n))) for n in range(3)]
    await turn_of_the_loop()
    history.gate.set()
    # One read of the busy user had begun, and his turn came once more before theirs.
    assert [cast(int, (await other).row) for other in others] == [3, 4, 5]
    assert max(cast(int, read.row) for read in await asyncio.gather(*many)) == 63


async def test_of_one_user_only_so_many_wait() -> None:
    history = Slow()
    rows = Rows(cast(History, history), ManualClock(), 1)
    reads = [asyncio.create_task(rows.read(USER, made_up(n))) for n in range(WAITING_PER_USER + 11)]
    other = asyncio.create_task(rows.read("usr_2", made_up(5000)))
    await turn_of_the_loop()
    history.gate.set()
    found = await asyncio.gather(*reads, return_exceptions=True)
    refused = [read for read in found if isinstance(read, ParleyError)]
    assert [(error.code, error.retry_after_ms) for error in refused] == [("rate_limited", 1000)] * 10
    assert (await other).row is not None


async def test_what_is_urgent_waits_for_nothing_that_is_not() -> None:
    history = Slow()
    rows = Rows(cast(History, history), ManualClock(), POOL)
    reads = [asyncio.create_task(rows.read(f"usr_{n}", made_up(n))) for n in range(100)]
    await turn_of_the_loop()
    begun = history.begun
    urgent = asyncio.create_task(rows.read("usr_0", made_up(0), urgent=True))
    await turn_of_the_loop()
    assert history.begun == begun + 1
    history.gate.set()
    assert cast(int, (await urgent).row) == begun + 1
    await asyncio.gather(*reads)


async def test_lanes_survive_those_who_leave() -> None:
    lanes = Lanes(1)
    await lanes.acquire("a")
    waiting = [asyncio.create_task(lanes.acquire(user)) for user in "bbc"]
    await turn_of_the_loop()
    waiting[0].cancel()
    waiting[2].cancel()
    await turn_of_the_loop()
    assert len(lanes) == 1
    # Given a lane and cancelled in the same turn of the loop: it goes on to the next.
    lanes.release()
    waiting[1].cancel()
    await turn_of_the_loop()
    assert len(lanes) == 0
    await lanes.acquire("d")
    last = asyncio.create_task(lanes.acquire("e"))
    lanes.release()
    await last

"""Shared reads: how many there are, that nobody is answered by one that began before he asked, that many take turns."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from core.errors import ParleyError, Unavailable
from core.history.port import History
from core.ids import generation_id, uuid7
from gateway import rows as rows_module
from gateway.rows import Rows
from tests.support.clock import ManualClock

GENERATION = generation_id(uuid7(1), uuid7(2))
POOL = 10


class Slow:
    """A history whose reads end when they are told to; `begun` counts them."""

    def __init__(self) -> None:
        self.begun = 0
        self.gate = asyncio.Event()
        self.failure: Exception | None = None
        self.running = self.most = 0

    async def home(self, conversation: str) -> Any:
        return None

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
    first = asyncio.create_task(rows.read(GENERATION))
    await turn_of_the_loop()
    clock.advance(1.0)
    later = [asyncio.create_task(rows.read(GENERATION)) for _ in range(1000)]
    await turn_of_the_loop()
    assert history.begun == 1
    history.gate.set()
    assert cast(int, (await first).row) == 1
    found = await asyncio.gather(*later)
    assert {cast(int, read.row) for read in found} == {2}
    assert {read.asked_at for read in found} == {clock.monotonic()}
    assert cast(int, (await rows.read(GENERATION)).row) == 3


async def test_who_leaves_takes_the_read_from_nobody() -> None:
    history = Slow()
    rows = Rows(cast(History, history), ManualClock(), POOL)
    leaving, staying = (asyncio.create_task(rows.read(GENERATION)) for _ in range(2))
    await turn_of_the_loop()
    leaving.cancel()
    history.gate.set()
    assert cast(int, (await staying).row) == 2


async def test_a_failure_is_told_to_all_who_waited_and_to_nobody_later() -> None:
    history = Slow()
    history.failure = Unavailable("away")
    history.gate.set()
    rows = Rows(cast(History, history), ManualClock(), POOL)
    results = await asyncio.gather(*(rows.read(GENERATION) for _ in range(3)), return_exceptions=True)
    assert [getattr(result, "code", None) for result in results] == ["unavailable"] * 3
    history.failure = None
    assert (await rows.read(GENERATION)).row is not None


@pytest.mark.parametrize(("connections", "at_once"), [(10, 4), (3, 1), (1, 1)])
async def test_different_answers_take_turns_and_leave_connections(connections: int, at_once: int) -> None:
    history = Slow()
    rows = Rows(cast(History, history), ManualClock(), connections)
    reads = [asyncio.create_task(rows.read(generation_id(uuid7(1), uuid7(n)))) for n in range(1000)]
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
    stuck = asyncio.create_task(rows.read(GENERATION))
    await turn_of_the_loop()
    with pytest.raises(ParleyError) as refused:
        await rows.read(generation_id(uuid7(1), uuid7(3)))
    assert (refused.value.code, refused.value.retry_after_ms) == ("unavailable", 1000)
    history.gate.set()
    assert cast(int, (await stuck).row) == 1
    assert cast(int, (await rows.read(generation_id(uuid7(1), uuid7(3)))).row) == 2


async def test_a_read_that_fails_gives_its_place_to_the_next() -> None:
    history = Slow()
    history.failure = Unavailable("away")
    history.gate.set()
    rows = Rows(cast(History, history), ManualClock(), 1)
    for _ in range(3):
        with pytest.raises(ParleyError):
            await rows.read(GENERATION)


async def test_what_is_no_id_is_refused() -> None:
    with pytest.raises(ParleyError):
        await Rows(cast(History, Slow()), ManualClock(), POOL).read("gen_nonsense")

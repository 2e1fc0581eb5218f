"""Shared reads: how many there are, and that nobody is answered by one that began before he asked."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from core.errors import ParleyError, Unavailable
from core.history.port import History
from core.ids import generation_id, uuid7
from gateway.rows import Rows
from tests.support.clock import ManualClock

GENERATION = generation_id(uuid7(1), uuid7(2))


class Slow:
    """A history whose reads end when they are told to; `begun` counts them."""

    def __init__(self) -> None:
        self.begun = 0
        self.gate = asyncio.Event()
        self.failure: Exception | None = None

    async def home(self, conversation: str) -> Any:
        return None

    async def read(self, key: Any) -> Any:
        self.begun += 1
        mine = self.begun
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        return mine


async def turn_of_the_loop() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_thousand_who_ask_cost_two_reads_and_none_is_too_old() -> None:
    history, clock = Slow(), ManualClock()
    rows = Rows(cast(History, history), clock)
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
    rows = Rows(cast(History, history), ManualClock())
    leaving, staying = (asyncio.create_task(rows.read(GENERATION)) for _ in range(2))
    await turn_of_the_loop()
    leaving.cancel()
    history.gate.set()
    assert cast(int, (await staying).row) == 2


async def test_a_failure_is_told_to_all_who_waited_and_to_nobody_later() -> None:
    history = Slow()
    history.failure = Unavailable("away")
    history.gate.set()
    rows = Rows(cast(History, history), ManualClock())
    results = await asyncio.gather(*(rows.read(GENERATION) for _ in range(3)), return_exceptions=True)
    assert [getattr(result, "code", None) for result in results] == ["unavailable"] * 3
    history.failure = None
    assert (await rows.read(GENERATION)).row is not None


async def test_what_is_no_id_is_refused() -> None:
    with pytest.raises(ParleyError):
        await Rows(cast(History, Slow()), ManualClock()).read("gen_nonsense")

"""A router whose disk takes nothing: what becomes of usage records and of ends that history could not take."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import pytest

from core.bus.port import Bus
from core.config import Config
from core.errors import Unavailable, Unknown
from core.events import EdgeMessage, Superseded
from core.ledger.port import Entry
from core.model import TurnKey
from core.turn import HISTORY_AWAY_S
from tests.support.clock import ManualClock
from tests.support.polling import eventually
from tests.support.router_turn import ROW, Bench
from tests.support.turns import new_end
from workers.router import service as shell
from workers.router.effects import SpoolEnd
from workers.router.kept import Running
from workers.router.service import RouterService


class Disk:
    """A recorder that fails so many times."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.kept: list[SpoolEnd] = []

    async def record(self, entry: Entry) -> bool:
        raise Unavailable("neither the stream nor the disk")

    async def keep_end(self, key: TurnKey, effect: SpoolEnd) -> None:
        self.failures -= 1
        if self.failures >= 0:
            raise Unknown("the disk did not answer")
        self.kept.append(effect)


class Edges:
    """A bus that only carries what is told to edges."""

    def __init__(self) -> None:
        self.told: list[EdgeMessage] = []

    async def to_edge(self, edge: str, batch: Sequence[EdgeMessage]) -> None:
        self.told += batch


def router(disk: Disk, edges: Edges, clock: Any) -> RouterService:
    nothing: Any = None
    return RouterService("router-1", cast(Bus, edges), nothing, nothing, nothing, {}, disk, clock, Config())


async def test_an_end_is_offered_to_the_disk_until_it_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shell, "KEEP_EVERY_S", 0)
    disk, effect = Disk(failures=3), SpoolEnd(new_end(ROW), (), None)
    await router(disk, Edges(), ManualClock())._keep_end(ROW.key, effect)
    assert disk.kept == [effect]


async def test_an_end_that_the_disk_does_not_take_is_given_up_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shell, "KEEP_EVERY_S", 0)
    disk, clock = Disk(failures=1_000_000), ManualClock()
    keeping = asyncio.create_task(router(disk, Edges(), clock)._keep_end(ROW.key, SpoolEnd(new_end(ROW), (), None)))
    await eventually(lambda: disk.failures < 999_990)
    assert not keeping.done()
    clock.advance(HISTORY_AWAY_S)
    await keeping


async def test_without_its_opening_record_an_attempt_is_given_up_and_its_gateways_are_told() -> None:
    bench, edges = Bench().calling(), Edges()
    service = router(Disk(0), edges, ManualClock())
    service._run(Running(bench.turn), bench.effects[:1])
    await eventually(lambda: edges.told)
    assert edges.told == [Superseded("g", 0, "run-0")]
    assert bench.turn.state == "dropped"

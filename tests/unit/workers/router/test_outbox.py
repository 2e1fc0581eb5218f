"""The outbox: order within an edge, batches below the bus's bound, and no waiting for anybody."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

import msgspec
import pytest

from core.bus.port import Bus
from core.errors import Unavailable
from core.events import EdgeMessage, Superseded, Taken, Text
from core.model import Piece
from tests.support.polling import eventually
from workers.router.outbox import MAX_EDGES, MAX_WAITING, Outbox

BUS_BYTES = 512 * 1024


class MemoryBus:
    """Takes batches; while `gate` is closed a send waits, while `away` it fails."""

    def __init__(self) -> None:
        self.batches: list[tuple[str, list[EdgeMessage]]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.away = False
        self.tried = 0

    async def to_edge(self, edge: str, batch: Sequence[EdgeMessage]) -> None:
        self.tried += 1
        await self.gate.wait()
        if self.away:
            raise Unavailable("the bus is away")
        self.batches.append((edge, list(batch)))

    def seqs(self, edge: str) -> list[int]:
        return [m.seq for to, batch in self.batches if to == edge for m in batch if isinstance(m, Text)]


def outbox(bus: MemoryBus) -> Outbox:
    return Outbox(cast(Bus, bus))


def text(seq: int, d: str = "x") -> EdgeMessage:
    return Text("g", 0, "r", seq, Piece("text", 0, d))


async def test_an_idle_edge_is_told_at_once_and_put_never_waits() -> None:
    bus = MemoryBus()
    box = outbox(bus)
    box.put("gw-1", [text(0)])
    assert bus.batches == []
    await asyncio.sleep(0)
    assert bus.batches == [("gw-1", [text(0)])]
    await box.close()


async def test_what_comes_while_a_batch_is_on_its_way_leaves_as_one_batch_in_order() -> None:
    bus = MemoryBus()
    box = outbox(bus)
    bus.gate.clear()
    for seq in range(50):
        box.put("gw-1", [text(seq)])
        await asyncio.sleep(0)
    bus.gate.set()
    await box.close()
    assert bus.seqs("gw-1") == list(range(50))
    assert len(bus.batches) == 2


async def test_an_offer_and_a_first_delta_do_not_wait_for_the_batch_that_gathers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("workers.router.outbox.FLUSH_S", 3600.0)
    bus = MemoryBus()
    box = outbox(bus)
    box.put("gw-1", [text(0)])
    await eventually(lambda: len(bus.batches) == 1)
    for pressing in (Taken("g", 0, "r", "router"), text(0)):
        box.put("gw-1", [text(7)])
        await asyncio.sleep(0)
        sent = len(bus.batches)
        box.put("gw-1", [pressing])
        await eventually(lambda sent=sent: len(bus.batches) == sent + 1)  # type: ignore[misc]
        assert bus.batches[-1] == ("gw-1", [text(7), pressing])


async def test_edges_do_not_wait_for_each_other() -> None:
    bus = MemoryBus()
    box = outbox(bus)
    bus.gate.clear()
    box.put("gw-1", [text(0)])
    box.put("gw-2", [text(1)])
    await eventually(lambda: bus.tried == 2)
    bus.gate.set()
    await box.close()
    assert (bus.seqs("gw-1"), bus.seqs("gw-2")) == ([0], [1])


async def test_a_large_tail_is_cut_into_batches_that_the_bus_takes() -> None:
    bus = MemoryBus()
    box = outbox(bus)
    box.put("gw-1", [text(seq, "\U0001f600" * 4096) for seq in range(64)])
    box.put("gw-1", [Superseded("g" * 47, 0, "r" * 16) for _ in range(10_000)])
    await box.close()
    assert bus.seqs("gw-1") == list(range(64))
    assert sum(len(batch) for _, batch in bus.batches) == 10_064
    assert max(len(msgspec.msgpack.encode(batch)) for _, batch in bus.batches) < BUS_BYTES


async def test_while_the_bus_is_away_messages_are_dropped_and_later_ones_sent() -> None:
    bus = MemoryBus()
    box = outbox(bus)
    bus.away = True
    box.put("gw-1", [text(0)])
    await box.close()
    bus.away = False
    box.put("gw-1", [text(1)])
    await box.close()
    assert bus.seqs("gw-1") == [1]


async def test_what_waits_is_bounded() -> None:
    bus = MemoryBus()
    box = outbox(bus)
    bus.gate.clear()
    box.put("gw-1", [text(0)])
    await eventually(lambda: bus.tried == 1)
    box.put("gw-1", [text(seq) for seq in range(1, MAX_WAITING + 100)])
    bus.gate.set()
    await box.close()
    assert bus.seqs("gw-1") == list(range(MAX_WAITING + 1))


async def test_edges_that_are_gone_are_forgotten() -> None:
    bus = MemoryBus()
    box = outbox(bus)
    for n in range(MAX_EDGES):
        box.put(f"gw-{n}", [text(0)])
    await box.close()
    box.put("new", [text(1)])
    assert len(box._edges) == 1
    await box.close()
    assert bus.seqs("new") == [1]

"""The contract of the bus: what every adapter promises to gateways and routers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from core.bus.nats import NatsBus
from core.bus.port import Bus
from core.errors import Unavailable
from core.events import Attach, CancelRun, Dispatch, EdgeMessage, Go, Held, No, RunMessage, Stop, Taken, Text, UserEvent
from core.model import Piece, TurnKey
from tests.support.nats import NatsServer
from tests.support.polling import eventually

Connect = Callable[[str], Awaitable[Bus]]


@pytest.fixture(params=["nats"])
async def connect(nats_server: NatsServer) -> AsyncIterator[Connect]:
    """Makes processes' ends of one bus; all are closed after the test."""
    async with contextlib.AsyncExitStack() as stack:

        async def make(name: str) -> Bus:
            bus = await NatsBus.open([nats_server.url], name)
            stack.push_async_callback(bus.close)
            return bus

        yield make


@pytest.fixture
async def gateway(connect: Connect) -> Bus:
    return await connect("gateway")


@pytest.fixture
async def router(connect: Connect) -> Bus:
    return await connect("router")


def text(seq: int) -> Text:
    return Text("gen_1", 2, "run", seq, Piece("text", 0, f"word {seq} "))


def work(generation: str, edge: str = "gw") -> Dispatch:
    return Dispatch(generation, TurnKey("conversation", "turn"), 0, "run", edge)


def ignore(_: Any) -> None:
    pass


async def test_batches_arrive_whole_and_in_order(gateway: Bus, router: Bus) -> None:
    batches: list[list[EdgeMessage]] = []
    await gateway.serve_edge("gw", batches.append, ignore)
    sent = [[text(3 * i), text(3 * i + 1), text(3 * i + 2)] for i in range(500)]
    for batch in sent:
        await router.to_edge("gw", batch)
    await eventually(lambda: len(batches) == 500)
    assert batches == sent


async def test_every_edge_message_survives_the_way(gateway: Bus, router: Bus) -> None:
    got: list[EdgeMessage] = []
    await gateway.serve_edge("gw", got.extend, ignore)
    batch: list[EdgeMessage] = [
        Taken("gen_1", 1, "run", "rt"),
        Held("gen_1", 0, "run"),
        UserEvent("u", "title", {"a": ["é", 1, None]}),
    ]
    await router.to_edge("gw", batch)
    await eventually(lambda: got == batch)


async def test_a_batch_goes_to_its_edge_only(gateway: Bus, router: Bus, connect: Connect) -> None:
    mine: list[EdgeMessage] = []
    others: list[EdgeMessage] = []
    await gateway.serve_edge("gw-1", mine.extend, ignore)
    await (await connect("other")).serve_edge("gw-2", others.extend, ignore)
    await router.to_edge("gw-2", [text(0)])
    await router.to_edge("gw-1", [text(1)])
    await eventually(lambda: mine and others)
    assert (mine, others) == ([text(1)], [text(0)])


async def test_a_dispatch_reaches_one_router_of_its_pool(gateway: Bus, connect: Connect) -> None:
    taken: list[tuple[str, str]] = []
    refused: list[str] = []
    await gateway.serve_edge("gw", ignore, refused.append)
    for name in ("a", "b", "c"):
        bus = await connect(name)
        await bus.serve_turns("eu", "default", lambda d, name=name: taken.append((name, d.generation)))  # type: ignore[misc]
    await (await connect("us")).serve_turns("us", "default", lambda d: taken.append(("us", d.generation)))
    await (await connect("big")).serve_turns("eu", "big", lambda d: taken.append(("big", d.generation)))
    for i in range(60):
        await gateway.dispatch("eu", "default", work(f"gen_{i}"))
    await eventually(lambda: len(taken) >= 60)
    assert sorted(generation for _, generation in taken) == sorted(f"gen_{i}" for i in range(60))
    assert {name for name, _ in taken} == {"a", "b", "c"}
    assert refused == []


async def test_a_dispatch_that_nobody_can_take_is_told_by_its_generation(gateway: Bus, router: Bus) -> None:
    refused: list[str] = []
    got: list[Dispatch] = []
    await gateway.serve_edge("gw", ignore, refused.append)
    await gateway.dispatch("eu", "default", work("gen_lost"))
    await eventually(lambda: refused == ["gen_lost"])
    serving = await router.serve_turns("eu", "default", got.append)
    await gateway.dispatch("eu", "default", work("gen_taken"))
    await eventually(lambda: got == [work("gen_taken")])
    await serving.stop()
    await router.round_trip(2.0)
    await gateway.dispatch("eu", "default", work("gen_again"))
    await eventually(lambda: refused == ["gen_lost", "gen_again"])


async def test_a_grant_reaches_its_router_only(gateway: Bus, connect: Connect) -> None:
    got: dict[str, list[Go | No]] = {"a": [], "b": []}
    for name in got:
        await (await connect(name)).serve_router(name, got[name].append)
    await gateway.to_router("a", Go("gen_1", 0, "run"))
    await gateway.to_router("b", No("gen_1", 0, "run"))
    await eventually(lambda: got["a"] and got["b"])
    assert got == {"a": [Go("gen_1", 0, "run")], "b": [No("gen_1", 0, "run")]}


async def test_all_who_serve_a_run_are_told(gateway: Bus, router: Bus, connect: Connect) -> None:
    first: list[Any] = []
    second: list[Any] = []
    await router.serve_run("gen_1", first.append)
    await (await connect("second")).serve_run("gen_1", second.append)
    told: list[RunMessage] = [Attach("gen_1", "gw", -1, -1), CancelRun("gen_1"), Stop("gen_1", 3)]
    await gateway.to_run("gen_2", CancelRun("gen_2"))
    for message in told:
        await gateway.to_run("gen_1", message)
    await eventually(lambda: len(first) == 3 and len(second) == 3)
    assert first == told
    assert second == told


async def test_what_is_published_after_serve_run_returned_arrives(gateway: Bus, router: Bus) -> None:
    got: list[str] = []

    async def serve(generation: str) -> None:
        await router.serve_run(generation, lambda message: got.append(message.generation))
        await gateway.to_run(generation, CancelRun(generation))

    await asyncio.gather(*(serve(f"gen_{i}") for i in range(300)))
    await eventually(lambda: len(got) == 300)


async def test_nothing_is_delivered_after_stop(gateway: Bus, router: Bus) -> None:
    stopped: list[Any] = []
    going_on: list[Any] = []
    ending = await router.serve_run("gen_1", stopped.append)
    await router.serve_run("gen_1", going_on.append)
    await gateway.to_run("gen_1", CancelRun("gen_1"))
    await eventually(lambda: stopped)
    for _ in range(200):
        await gateway.to_run("gen_1", CancelRun("gen_1"))
    await gateway.round_trip(2.0)
    await ending.stop()
    seen = len(stopped)
    await ending.stop()
    await eventually(lambda: len(going_on) == 201)
    assert len(stopped) == seen


async def test_a_failing_callback_is_called_again(gateway: Bus, router: Bus) -> None:
    got: list[Any] = []

    def fail_at_first(message: Any) -> None:
        got.append(message)
        if len(got) == 1:
            raise RuntimeError("the first one fails")

    await router.serve_run("gen_1", fail_at_first)
    await gateway.to_run("gen_1", CancelRun("gen_1"))
    await gateway.to_run("gen_1", Stop("gen_1", 1))
    await eventually(lambda: got == [CancelRun("gen_1"), Stop("gen_1", 1)])


async def test_a_round_trip_is_measured_and_bounded(gateway: Bus) -> None:
    assert 0 < await gateway.round_trip(2.0) < 2.0
    assert gateway.connected


async def test_a_batch_that_is_too_large_is_refused(gateway: Bus, router: Bus) -> None:
    got: list[EdgeMessage] = []
    await gateway.serve_edge("gw", got.extend, ignore)
    big = Text("gen_1", 0, "run", 0, Piece("text", 0, "x" * (512 * 1024)))
    with pytest.raises(ValueError, match="batch"):
        await router.to_edge("gw", [big])
    fits = Text("gen_1", 0, "run", 0, Piece("text", 0, "x" * (511 * 1024)))
    await router.to_edge("gw", [fits])
    await eventually(lambda: got == [fits])


@pytest.mark.parametrize("name", ["", "a b", "a.b", "*", ">", "a\r\nPUB x 0"])
async def test_a_name_cannot_become_another_subject(gateway: Bus, name: str) -> None:
    with pytest.raises(ValueError, match="subject"):
        await gateway.to_run(name, CancelRun("gen_1"))
    with pytest.raises(ValueError, match="subject"):
        await gateway.dispatch("eu", "default", work("gen_1", edge=name))


async def test_close_sends_what_is_buffered_and_ends_everything(gateway: Bus, router: Bus) -> None:
    got: list[EdgeMessage] = []
    states: list[bool] = []
    router.on_state(states.append)
    await gateway.serve_edge("gw", got.extend, ignore)
    for seq in range(100):
        await router.to_edge("gw", [text(seq)])
    await router.close()
    await router.close()
    await eventually(lambda: len(got) == 100)
    assert not router.connected
    assert states == [False]
    with pytest.raises(Unavailable):
        await router.to_edge("gw", [text(0)])
    with pytest.raises(Unavailable):
        await router.serve_run("gen_1", ignore)

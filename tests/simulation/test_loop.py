"""The loop of the simulation: virtual time, and processes that are stopped, go on, and are killed."""

from __future__ import annotations

import asyncio

import pytest

from tests.simulation.loop import OUTSIDE, Node, VirtualLoop, current_node


async def _count(seen: list[float], every_s: float) -> None:
    loop = asyncio.get_running_loop()
    try:
        while True:
            seen.append(loop.time())
            await asyncio.sleep(every_s)
    finally:
        seen.append(-1.0)


def _run(loop: VirtualLoop, until: float) -> None:
    loop.run_until(until, lambda: False)


def test_time_passes_only_between_timers() -> None:
    loop, node, seen = VirtualLoop(), Node("n"), list[float]()
    loop.spawn(node, _count(seen, 3600.0))
    _run(loop, 3 * 3600.0 + 1)
    assert seen == [0.0, 3600.0, 7200.0, 10800.0]
    assert loop.time() == 3 * 3600.0 + 1


def test_timers_fire_in_order_of_time_then_of_making_and_not_when_cancelled() -> None:
    loop, fired = VirtualLoop(), list[str]()
    loop.call_later(2.0, fired.append, "late")
    loop.call_later(1.0, fired.append, "first")
    loop.call_later(1.0, fired.append, "cancelled").cancel()
    loop.call_later(1.0, fired.append, "second")
    _run(loop, 3.0)
    assert fired == ["first", "second", "late"]


def test_a_stopped_process_does_nothing_and_then_all_that_waited_in_its_order() -> None:
    loop, node, other = VirtualLoop(), Node("stopped"), Node("other")
    seen, others = list[float](), list[float]()
    loop.spawn(node, _count(seen, 1.0))
    loop.spawn(other, _count(others, 1.0))
    loop.call_at(1.5, loop.freeze, node, context=OUTSIDE)
    messages: list[str] = []
    for at in (2.2, 2.1):
        loop.call_at(at, messages.append, f"at {at}", context=node.context)
    _run(loop, 4.0)
    assert seen == [0.0, 1.0]
    assert messages == []
    assert others == [0.0, 1.0, 2.0, 3.0, 4.0]
    loop.thaw(node)
    _run(loop, 5.5)
    assert messages == ["at 2.1", "at 2.2"]
    assert seen == [0.0, 1.0, 4.0, 5.0]


def test_a_killed_process_runs_nothing_more_not_even_what_was_to_clean_up() -> None:
    loop, node, seen = VirtualLoop(), Node("killed"), list[float]()
    loop.spawn(node, _count(seen, 1.0))
    loop.call_at(0.5, loop.freeze, node, context=OUTSIDE)
    loop.call_at(1.5, loop.kill, node, context=OUTSIDE)
    _run(loop, 9.0)
    loop.thaw(node)
    _run(loop, 10.0)
    assert seen == [0.0]


def test_tasks_and_timers_belong_to_the_process_that_makes_them() -> None:
    loop, node, owners = VirtualLoop(), Node("n"), list[Node | None]()

    async def child() -> None:
        await asyncio.sleep(0.1)
        owners.append(current_node())
        asyncio.get_running_loop().call_later(0.1, lambda: owners.append(current_node()))

    async def parent() -> None:
        await asyncio.create_task(child())

    loop.spawn(node, parent())
    loop.call_later(0.05, lambda: owners.append(current_node()), context=OUTSIDE)
    _run(loop, 1.0)
    assert owners == [None, node, node]


def test_what_asyncio_builds_on_time_works() -> None:
    loop, results = VirtualLoop(), list[str]()

    async def work() -> None:
        try:
            async with asyncio.timeout(1.0):
                await asyncio.Event().wait()
        except TimeoutError:
            results.append(f"timeout at {loop.time()}")
        await asyncio.gather(asyncio.sleep(1.0), asyncio.sleep(2.0))
        results.append(f"gathered at {loop.time()}")

    loop.spawn(Node("n"), work())
    _run(loop, 10.0)
    assert results == ["timeout at 1.0", "gathered at 3.0"]


def test_what_spins_is_told() -> None:
    loop = VirtualLoop()

    def again() -> None:
        loop.call_later(0.0, again)

    again()
    with pytest.raises(RuntimeError, match="spins"):
        loop.run_until(1.0, lambda: False, max_steps=1000)

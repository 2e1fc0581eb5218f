"""Our own processes die or stand still in the middle of an answer (docs/turns.md, the failure table of the design)."""

from __future__ import annotations

import asyncio
import signal
import time

import pytest

from tests.mockllm.control import MockControl
from tests.mockllm.script import Script
from tests.support.books import attempt, balanced
from tests.support.charges import charges
from tests.support.client import Device, Gone, Shown, User
from tests.support.load import Load
from tests.support.polling import eventually
from tests.support.questions import new_mark, served
from tests.support.stack import ROUTERS, Stack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]


async def ask(device: Device, user: User, mock: MockControl, *scripts: Script) -> tuple[str, Shown]:
    """A question that is answered by these scripts, one a call; returns its mark and the answer."""
    mark = new_mark()
    await mock.script(*scripts, contains=mark)
    return mark, await device.send(await user.conversation(), f"question {mark}")


async def router_of(stack: Stack, mock: MockControl, mark: str) -> str:
    """The part that answers the question: the only one with a running turn."""

    async def found() -> str:
        if not await served(mock, mark):
            return ""
        running = [part for part in ROUTERS if await asyncio.to_thread(stack.gauge, part, "turns_running") > 0]
        return running[0] if len(running) == 1 else ""

    return await eventually(found, 10.0, "one router answers")


async def stored_text(user: User, answer: Shown) -> str:
    return str((await user.generation(answer))["text"])


async def test_a_gateway_dies_and_the_text_goes_on_at_the_other(stack: Stack, user: User, mock: MockControl) -> None:
    since = time.time()
    device = await user.connect("gateway-1")
    mark, answer = await ask(device, user, mock, Script(chunks=60, delay_ms=30))
    await device.seen(answer, 20)
    await asyncio.to_thread(stack.kill, "gateway-1")
    with pytest.raises(Gone):
        await device.finish(answer)
    assert answer.end is None

    other = await user.connect("gateway-2")
    await other.resume(answer)
    await other.finish(answer)
    (call,) = await served(mock, mark)
    assert answer.ended == "done"
    assert answer.text == call.text == await stored_text(user, answer)
    assert (answer.count("resumed"), answer.count("snapshot"), answer.count("restart")) == (1, 0, 0)
    await balanced(stack, mock, since)


async def test_a_router_dies_before_the_first_token(stack: Stack, user: User, mock: MockControl) -> None:
    since = time.time()
    device = await user.connect()
    mark, answer = await ask(device, user, mock, Script(first_ms=30_000), Script(chunks=20))
    router = await router_of(stack, mock, mark)
    await asyncio.to_thread(stack.kill, router)
    killed = time.monotonic()
    await device.finish(answer)
    assert time.monotonic() - killed < 3.0
    assert answer.ended == "done"
    assert answer.count("restart") == 0, "nothing was shown, so there is nothing to drop"
    calls = await served(mock, mark)
    assert [call.text for call in calls] == ["", answer.text]
    assert answer.text == await stored_text(user, answer)
    await balanced(stack, mock, since)


async def test_a_router_dies_under_shown_text(stack: Stack, user: User, mock: MockControl) -> None:
    since = time.time()
    device = await user.connect()
    scripts = Script(chunks=200, delay_ms=50), Script(chunks=30, delay_ms=10, seed=1)
    mark, answer = await ask(device, user, mock, *scripts)
    router = await router_of(stack, mock, mark)
    await device.seen(answer, 20)
    await asyncio.to_thread(stack.kill, router)
    await device.finish(answer)
    assert answer.ended == "done"
    assert (answer.count("restart"), answer.epoch) == (1, 1)
    dead, alive = await served(mock, mark)
    assert dead.end == "client_closed"
    assert answer.text == alive.text == await stored_text(user, answer)
    report = await balanced(stack, mock, since)
    assert [cut["attempt"] for cut in report["cut"]] == [attempt(dead)], (
        "what the dead run cost is known within a bound"
    )
    assert report["platform"] == 0


async def test_a_router_back_from_the_dead_ends_nothing(stack: Stack, user: User, mock: MockControl) -> None:
    since = time.time()
    device = await user.connect()
    scripts = Script(chunks=400, delay_ms=50), Script(chunks=40, delay_ms=80, seed=1)
    mark, answer = await ask(device, user, mock, *scripts)
    router = await router_of(stack, mock, mark)
    await device.seen(answer, 20)
    await asyncio.to_thread(stack.kill, router, signal.SIGSTOP)
    stopped = time.monotonic()
    await device.finish(answer)
    left = 5.0 - (time.monotonic() - stopped)
    await asyncio.sleep(max(0.0, left))  # it has to be away for so long: longer than all that a run is fresh for
    dead, alive = await served(mock, mark)
    assert dead.end is None, "its connection to the provider is still open"
    await asyncio.to_thread(stack.kill, router, signal.SIGCONT)

    assert (await mock.ended(dead.id)).end == "client_closed"
    assert answer.ended == "done"
    assert (answer.count("restart"), answer.epoch) == (1, 1)
    assert answer.text == alive.text == await stored_text(user, answer)
    report = await balanced(stack, mock, since)
    entries = await charges(stack, answer.generation_id, 2)
    assert {entry["attempt"]: entry["charged_to"] for entry in entries} == {
        attempt(dead): "platform",
        attempt(alive): "user",
    }
    assert report["users_by_ledger"] == report["users_by_history"] > 0


async def test_all_of_ours_die_one_after_the_other_under_a_load_of_turns(stack: Stack, mock: MockControl) -> None:
    since = time.time()
    async with Load(stack) as load:
        await load.more(5)
        for part in ("gateway-1", "router-1", "ledger", "janitor", "gateway-2", "router-2"):
            pid = await asyncio.to_thread(stack.kill, part)
            await load.more(5)
            await asyncio.to_thread(stack.wait_replaced, part, pid)
        await load.more(5)
        await load.stop()
        await load.check([call for call in await mock.calls() if call.opened >= since], again=True)
    report = await balanced(stack, mock, since, cut=False)
    assert report["users_by_ledger"] == report["users_by_history"] > 0


async def test_everything_dies_at_once_under_a_load_of_turns(stack: Stack, mock: MockControl) -> None:
    since = time.time()
    async with Load(stack) as load:
        await load.more(5)
        await asyncio.to_thread(stack.stop, signal.SIGKILL)
        await asyncio.to_thread(stack.start)
        await load.more(5)
        await load.stop()
        await load.check([call for call in await mock.calls() if call.opened >= since], again=True)
    report = await balanced(stack, mock, since, cut=False)
    assert report["users_by_ledger"] == report["users_by_history"] > 0

"""The servers below us stop and come back, one at a time, under a running load of turns (the design's failure table).

Whatever happens, nothing that was accepted is lost, nothing is answered twice, and the books balance in the end.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Sequence

import asyncpg
import pytest

from core.ids import parse_generation_id
from tests.mockllm.control import MockControl
from tests.support.books import balanced, reconciled
from tests.support.client import Device, Refused, Shown, User
from tests.support.load import Load
from tests.support.polling import eventually
from tests.support.questions import gated, new_mark, question, served
from tests.support.stack import GATEWAYS, ROUTERS, Stack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


async def stop(stack: Stack, server: str) -> None:
    await asyncio.to_thread(stack.stop_part, server)


async def start(stack: Stack, server: str) -> None:
    await asyncio.to_thread(stack.start_part, server)


async def crash(stack: Stack, server: str) -> None:
    """SIGKILL; returns when `parley up` has it serving again."""
    pid = await asyncio.to_thread(stack.kill, server)
    await asyncio.to_thread(stack.wait_replaced, server, pid)


async def freeze(stack: Stack, server: str, seconds: float) -> None:
    """The server keeps its sockets and answers nothing for a while (SIGSTOP)."""
    await asyncio.to_thread(stack.kill, server, signal.SIGSTOP)
    await asyncio.sleep(seconds)  # that long it is slow
    await asyncio.to_thread(stack.kill, server, signal.SIGCONT)


async def all_say(stack: Stack, degraded: float) -> bool:
    """Whether every gateway says this of its limits."""
    return {await asyncio.to_thread(stack.gauge, gateway, "degraded") for gateway in GATEWAYS} == {degraded}


async def settle(load: Load, stack: Stack, mock: MockControl, since: float) -> None:
    """What must hold after every fault."""
    await load.stop()
    await load.check([call for call in await mock.calls() if call.opened >= since])
    report = await balanced(stack, mock, since)
    assert report["users_by_ledger"] == report["users_by_history"] > 0
    assert report["platform"] == 0, "no attempt was in vain"
    assert report["cut"] == []


async def test_without_redis_chat_goes_on_degraded(stack: Stack, mock: MockControl) -> None:
    since = time.time()
    async with Load(stack) as load:
        await load.more(5)
        await stop(stack, "redis")
        await load.more(15)
        await eventually(lambda: all_say(stack, 1.0), what="both gateways decide limits by themselves")
        await start(stack, "redis")
        await load.more(5)
        await eventually(lambda: all_say(stack, 0.0), what="the limits are decided by Redis again")
        await crash(stack, "redis")
        await load.more(5)
        await settle(load, stack, mock, since)


async def test_without_nats_streams_pause_and_nothing_is_dispatched_again(
    stack: Stack, user: User, mock: MockControl
) -> None:
    since = time.time()
    device, mark = await user.connect(), new_mark()
    async with Load(stack) as load:
        await load.more(5)
        answer = await device.send(await user.conversation(), question(mark, chunks=250, delay_ms=40))
        await device.seen(answer)
        await stop(stack, "nats")
        shown = answer.text
        waiting = await device.send(await user.conversation(), f"hello {new_mark()}")
        await device.first("queued")
        assert (answer.end, waiting.end, waiting.text) == (None, None, "")
        await start(stack, "nats")
        await device.finish(waiting)
        await device.seen(answer, len(shown) + 1)
        await load.more(5)
        await crash(stack, "nats")
        await load.more(5)
        await freeze(stack, "nats", 1.5)
        await load.more(5)
        await device.finish(answer)
        (call,) = await served(mock, mark)
        assert answer.ended == "done"
        assert answer.text == call.text
        assert answer.count("restart") == 0
        await settle(load, stack, mock, since)


async def refused(device: Device, conversation: str) -> Refused:
    """How a new message is refused."""
    with pytest.raises(Refused) as caught:
        await device.send(conversation, f"hello {new_mark()}")
    return caught.value


async def test_without_postgres_nothing_is_accepted_and_running_answers_end_when_it_is_back(
    stack: Stack, user: User, mock: MockControl
) -> None:
    since = time.time()
    device, mark = await user.connect(), new_mark()
    conversation = await user.conversation()
    async with Load(stack) as load:
        await load.more(5)
        answer = await device.send(await user.conversation(), gated(mark, chunks=60, after=20))
        await mock.reached(mark)
        await stop(stack, "postgres")
        said = await asyncio.to_thread(stack.cli, "reconcile")
        assert (said.returncode, said.stdout, said.stderr.count("\n")) == (1, "", 1), said.stderr
        refusal = await refused(device, conversation)
        assert (refusal.code, refusal.retryable) == ("unavailable", True)
        # The provider answers on, and the text is shown: only its end has to wait.
        await mock.open_gate(mark)
        notice = await device.first("notice")
        assert (notice["code"], notice["generation_id"]) == ("unavailable_finishing", answer.generation_id)
        (call,) = await served(mock, mark)
        assert (call.end, answer.text, answer.end) == ("done", call.text, None)
        await start(stack, "postgres")
        await device.finish(answer)
        assert answer.ended == "done"
        await load.more(5)
        await crash(stack, "postgres")
        await load.more(5)
        await settle(load, stack, mock, since)


async def idle(stack: Stack) -> bool:
    """No router has a turn that runs or is being recorded."""
    return [await asyncio.to_thread(stack.gauge, router, "turns_running") for router in ROUTERS] == [0.0, 0.0]


async def closed(stack: Stack, answers: Sequence[Shown]) -> None:
    """Returns once none of the turns is listed as open any more."""
    keys = [parse_generation_id(answer.generation_id) for answer in answers]
    turns = [key[1] for key in keys if key is not None]
    connection = await asyncpg.connect(stack.dsn)

    async def none_listed() -> bool:
        return await connection.fetchval("SELECT count(*) FROM history_open WHERE turn = ANY($1::uuid[])", turns) == 0

    try:
        await eventually(none_listed, 30.0, "the turns are off the list of open ones")
    finally:
        await connection.close()


async def test_usage_waits_in_the_spool_while_the_stream_is_away_and_survives_its_router(
    stack: Stack, user: User, mock: MockControl
) -> None:
    since = time.time()
    device, marks = await user.connect(), [new_mark() for _ in range(6)]
    for mark in marks:
        await device.send(await user.conversation(), gated(mark, chunks=30, after=10))
        await mock.reached(mark)
    answers = list(device.answers.values())
    await stop(stack, "nats")
    for mark in marks:
        await mock.open_gate(mark)
    # Their ends are stored, and told when they can be; nobody but the routers knows what they cost.
    assert [(await user.stored(answer))["end"]["finish_reason"] for answer in answers] == ["stop"] * len(answers)
    await eventually(lambda: idle(stack), what="the routers have kept what it cost")
    assert any(stack.layout.spool(router).glob("spool/usage/*.log") for router in ROUTERS)
    for router in ROUTERS:
        await asyncio.to_thread(stack.kill, router)
    report = await asyncio.to_thread(reconciled, stack, since)
    assert len(report["pending"]) == len(answers)
    assert report["problems"] == []
    await start(stack, "nats")
    for answer in answers:
        await device.finish(answer)
        assert answer.ended == "done"
        assert answer.count("restart") == 0
    # The routers that spooled it may be dead, so the janitor records it again before it closes what is listed.
    await closed(stack, answers)
    report = await balanced(stack, mock, since)
    assert report["turns"] == report["attempts"] == len(answers)
    assert report["users_by_ledger"] == report["users_by_history"] > 0

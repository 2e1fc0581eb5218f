"""The same id, however often and wherever it is sent: one turn, one answer, one charge."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator

import pytest

from tests.mockllm.control import MockControl
from tests.support.charges import charges
from tests.support.client import Device, Frame, Refused, Shown, User, new_id
from tests.support.questions import gated, new_mark, question, served
from tests.support.stack import GATEWAYS, ROUTERS, Stack

pytestmark = pytest.mark.slow

DEVICES = 10
BY_SOCKET = 40
BY_HTTP = 10


@pytest.fixture(params=["redis up", "redis away"])
def redis(request: pytest.FixtureRequest, stack: Stack, user: User) -> Iterator[str]:
    """With limits and with every memory of recent ids, and without them."""
    if request.param == "redis away":
        stack.stop_part("redis")
    yield request.param
    stack.start_part("redis")


def as_post(frame: Frame) -> tuple[str, Frame]:
    """The HTTP call that is the twin of a frame."""
    body = {name: value for name, value in frame.items() if name not in ("type", "conversation_id", "generation_id")}
    if frame["type"] == "send":
        return f"/v1/conversations/{frame['conversation_id']}/messages", body
    return f"/v1/generations/{frame['generation_id']}/{frame['type']}", body


async def insist(device: Device, frame: Frame) -> Frame:
    """Asks until it is accepted; only a refusal that promises nothing is final."""
    while True:
        try:
            return await device.ask(frame)
        except Refused as refused:
            if not refused.retryable:
                raise
            await asyncio.sleep(refused.after_s)  # as the refusal asks


async def post(user: User, frame: Frame, gateway: str) -> Frame:
    path, body = as_post(frame)
    while True:
        try:
            return dict(await user.call("POST", path, body, gateway))
        except Refused as refused:
            if not refused.retryable:
                raise
            await asyncio.sleep(refused.after_s)  # as the refusal asks


async def fifty_times(user: User, frame: Frame) -> tuple[str, list[tuple[Device, Shown]]]:
    """Sends a frame fifty times at once over both gateways, then once more on every device. Returns the generation and
    what each device shows of it.
    """
    devices = await asyncio.gather(*(user.connect(GATEWAYS[n % 2]) for n in range(DEVICES)))
    accepted = await asyncio.gather(
        *(insist(devices[n % DEVICES], frame) for n in range(BY_SOCKET)),
        *(post(user, frame, GATEWAYS[n % 2]) for n in range(BY_HTTP)),
    )
    assert len(accepted) == 50
    [generation] = {answer["generation_id"] for answer in accepted}
    assert sum(not answer.get("duplicate") for answer in accepted) == 1
    again = await asyncio.gather(*(insist(device, frame) for device in devices))
    assert {(answer["generation_id"], answer["duplicate"]) for answer in again} == {(generation, True)}
    return generation, [(device, device.answers[generation]) for device in devices]


async def another_body(user: User, frame: Frame, **changed: str) -> None:
    """The id with something else behind it is a conflict, everywhere."""
    for gateway in GATEWAYS:
        with pytest.raises(Refused, match="conflict") as refused:
            await (await user.connect(gateway)).ask(frame | changed)
        assert not refused.value.retryable
        with pytest.raises(Refused, match="conflict"):
            await post(user, frame | changed, gateway)


async def one_answer(stack: Stack, shown: list[tuple[Device, Shown]]) -> Shown:
    """The answer, once all devices show the same text and the same end; the user pays once."""
    await asyncio.gather(*(device.finish(answer) for device, answer in shown))
    one = shown[0][1]
    assert all((answer.text, answer.end) == (one.text, one.end) for _, answer in shown)
    assert one.end is not None
    assert one.ended == "done"
    [entry] = await charges(stack, one.generation_id)
    assert (entry["charged_to"], entry["cost"]) == ("user", one.end["cost"])
    return one


async def test_a_send(stack: Stack, user: User, mock: MockControl, redis: str) -> None:
    mark, conversation = new_mark(), await user.conversation()
    ids = {"message_id": new_id(), "conversation_id": conversation}
    frame = {"type": "send", **ids, "content": gated(mark)}
    generation, shown = await fifty_times(user, frame)
    await another_body(user, frame, content="something else")
    await mock.open_gate(mark)
    one = await one_answer(stack, shown)
    assert [call.text for call in await served(mock, mark)] == [one.text]

    # After the end it is the same answer for ever.
    late = await user.connect(GATEWAYS[1])
    assert (await late.ask(frame))["duplicate"] is True
    answer = await late.finish(late.answers[generation])
    assert (answer.text, answer.end) == (one.text, one.end)
    stored = (await user.call("GET", f"/v1/conversations/{conversation}/messages"))["data"]
    assert [message["role"] for message in stored] == ["assistant", "user"]
    assert stored[0]["content"] == answer.text


async def test_a_regenerate(stack: Stack, user: User, mock: MockControl, redis: str) -> None:
    mark, conversation = new_mark(), await user.conversation()
    device = await user.connect()
    source = await device.send(conversation, gated(mark, chunks=20, after=10))
    await mock.open_gate(mark)
    await device.finish(source)

    frame = {"type": "regenerate", "turn_id": new_id(), "generation_id": source.generation_id}
    generation, shown = await fifty_times(user, frame)
    await another_body(user, frame, generation_id=generation)
    await another_body(user, frame, model="another")
    one = await one_answer(stack, shown)
    assert [call.text for call in await served(mock, mark)] == [source.text, one.text]
    stored = (await user.call("GET", f"/v1/conversations/{conversation}/messages"))["data"]
    assert sorted(message["role"] for message in stored) == ["assistant", "assistant", "user"]


async def test_a_continue(stack: Stack, user: User, mock: MockControl, redis: str) -> None:
    mark, conversation = new_mark(), await user.conversation()
    device = await user.connect()
    source = await device.send(conversation, gated(mark))
    await mock.reached(mark)
    await device.seen(source)
    await device.cancel(source)
    await device.finish(source)
    assert source.ended == "cancelled"

    frame = {"type": "continue", "turn_id": new_id(), "generation_id": source.generation_id}
    generation, shown = await fifty_times(user, frame)
    await another_body(user, frame, generation_id=generation)
    await mock.open_gate(mark)
    one = await one_answer(stack, shown)
    assert [call.text for call in await served(mock, mark)] == [source.text, one.text]


async def test_two_bodies_at_once(user: User, mock: MockControl) -> None:
    """Whichever comes first is the message; the other one is in conflict with it at every place."""
    mark = new_mark()
    ids = {"type": "send", "message_id": new_id(), "conversation_id": await user.conversation()}
    frames = [ids | {"content": question(mark, text=text)} for text in ("one", "two")]
    # A device sends one body only: answers to both would bear the same id.
    devices = await asyncio.gather(*(user.connect(GATEWAYS[n // 2]) for n in range(4)))
    asking = (insist(devices[n % 4], frames[n % 2]) for n in range(24))
    answers = await asyncio.gather(*asking, return_exceptions=True)
    refused = {n % 2 for n, answer in enumerate(answers) if isinstance(answer, Refused) and answer.code == "conflict"}
    accepted = {n % 2 for n, answer in enumerate(answers) if isinstance(answer, dict)}
    assert (len(accepted), len(refused), accepted | refused) == (1, 1, {0, 1}), answers
    [winner] = accepted
    generation = next(answer["generation_id"] for answer in answers if isinstance(answer, dict))
    assert (await user.stored(generation))["text"] == ("one", "two")[winner]
    assert len(await served(mock, mark)) == 1


async def test_a_gateway_dies_between_open_and_dispatch(stack: Stack, user: User, mock: MockControl) -> None:
    mark = new_mark()
    # Without routers a turn is opened and waits in its gateway, which then takes the knowledge of it along.
    for router in ROUTERS:
        await asyncio.to_thread(stack.stop_part, router)
    ids = {"message_id": new_id(), "conversation_id": await user.conversation()}
    frame = {"type": "send", **ids, "content": gated(mark)}
    device = await user.connect("gateway-1")
    accepted = await device.ask(frame)
    await device.first("queued")
    old = await asyncio.to_thread(stack.kill, "gateway-1", signal.SIGKILL)
    assert await device.gone() == 1006
    for router in ROUTERS:
        await asyncio.to_thread(stack.start_part, router)

    other = await user.connect("gateway-2")
    assert await other.ask(frame) == accepted | {"duplicate": True}
    await mock.open_gate(mark)
    answer = await other.finish(other.answers[accepted["generation_id"]])
    [call] = await served(mock, mark)
    assert (answer.ended, answer.text) == ("done", call.text)
    [entry] = await charges(stack, answer.generation_id)
    assert entry["charged_to"] == "user"
    await asyncio.to_thread(stack.wait_replaced, "gateway-1", old)


async def test_sent_again_over_http_it_is_answered_though_nobody_watches(
    stack: Stack, user: User, mock: MockControl
) -> None:
    mark = new_mark()
    for router in ROUTERS:
        await asyncio.to_thread(stack.stop_part, router)
    ids = {"message_id": new_id(), "conversation_id": await user.conversation()}
    frame = {"type": "send", **ids, "content": question(mark, chunks=3)}
    accepted = await post(user, frame, "gateway-1")
    old = await asyncio.to_thread(stack.kill, "gateway-1", signal.SIGKILL)
    for router in ROUTERS:
        await asyncio.to_thread(stack.start_part, router)

    again = await post(user, frame, "gateway-2")
    assert (again["generation_id"], again["duplicate"]) == (accepted["generation_id"], True)
    stored = await user.stored(accepted["generation_id"])
    [call] = await served(mock, mark)
    assert (stored["status"], stored["text"]) == ("done", call.text)
    await asyncio.to_thread(stack.wait_replaced, "gateway-1", old)

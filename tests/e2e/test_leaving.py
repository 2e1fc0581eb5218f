"""Who leaves in the middle of an answer finds it whole: stored, and on any device of the same user."""

from __future__ import annotations

import pytest

from tests.mockllm.control import MockControl
from tests.support.charges import charges
from tests.support.client import Device, Shown, User
from tests.support.questions import gated, new_mark, served
from tests.support.stack import GATEWAYS, Stack

pytestmark = pytest.mark.slow


async def left_halfway(user: User, mock: MockControl, gateway: str) -> tuple[str, Shown]:
    """An answer that waits at a gate, the name of the gate, and nobody who watches."""
    mark = new_mark()
    device = await user.connect(gateway)
    answer = await device.send(await user.conversation(), gated(mark))
    await mock.reached(mark)
    await device.seen(answer)
    await device.close()
    assert answer.end is None
    return mark, answer


@pytest.mark.parametrize(("first", "second"), [GATEWAYS, GATEWAYS[::-1]])
async def test_another_device_goes_on_in_the_middle(user: User, mock: MockControl, first: str, second: str) -> None:
    mark, left = await left_halfway(user, mock, first)
    async with await user.again() as other:
        knows_nothing = await other.connect(second)
        from_nothing = await knows_nothing.resume(left.generation_id)
        await knows_nothing.seen(from_nothing, len(left.text))
        assert from_nothing.text.startswith(left.text)

        # The same device comes back where it was, with the text that it has.
        knows_some = await user.connect(second)
        before = left.text
        await knows_some.resume(left)
        await knows_some.until(lambda: left.count("resumed"), what="`resumed` comes")

        await mock.open_gate(mark)
        await knows_nothing.finish(from_nothing)
        await knows_some.finish(left)
    [call] = await served(mock, mark)
    assert (from_nothing.ended, left.ended) == ("done", "done")
    assert from_nothing.text == left.text == call.text
    assert left.text.startswith(before)
    assert left.count("snapshot") == 0


async def test_nobody_watches_and_the_answer_is_stored(stack: Stack, user: User, mock: MockControl) -> None:
    mark, left = await left_halfway(user, mock, "gateway-1")
    await mock.open_gate(mark)
    found = await user.stored(left)
    [call] = await served(mock, mark)
    assert found["text"] == call.text
    assert call.end == "done"

    async with await user.again() as other:
        for gateway in GATEWAYS:
            device = await other.connect(gateway)
            late = await device.finish(await device.resume(left.generation_id))
            assert (late.ended, late.text, late.end) == ("done", call.text, found["end"])
            back = Shown(left.generation_id)
            back.epoch, back.seq, back.parts = left.epoch, left.seq, dict(left.parts)
            assert (await device.finish(await device.resume(back))).text == call.text
    [entry] = await charges(stack, left.generation_id)
    assert (entry["charged_to"], entry["completion_tokens"]) == ("user", call.completion_tokens)
    assert entry["cost"] == found["end"]["cost"] > 0


async def test_an_address_that_is_not_known_is_answered_by_a_snapshot(user: User, mock: MockControl) -> None:
    mark, left = await left_halfway(user, mock, "gateway-1")

    async def resume_wrongly(gateway: str, epoch: int, seq: int) -> tuple[Device, Shown]:
        device, wrong = await user.connect(gateway), Shown(left.generation_id)
        wrong.epoch, wrong.seq, wrong.parts = epoch, seq, {("text", 0): "never said"}
        await device.resume(wrong)
        await device.first("snapshot")
        return device, wrong

    running = [await resume_wrongly(gateway, 0, 10_000) for gateway in GATEWAYS]
    for device, wrong in running:
        await device.seen(wrong, len(left.text))
        assert wrong.text.startswith(left.text)
    await mock.open_gate(mark)
    await user.stored(left)
    [call] = await served(mock, mark)
    ended = [await resume_wrongly(gateway, *address) for gateway in GATEWAYS for address in ((0, 10_000), (-1, 3))]
    for device, wrong in running + ended:
        assert (await device.finish(wrong)).text == call.text


async def test_others_cannot_resume_it(stack: Stack, user: User, mock: MockControl) -> None:
    mark, left = await left_halfway(user, mock, "gateway-1")
    async with await User.new(stack) as stranger:
        for gateway in GATEWAYS:
            resuming, cancelling = await stranger.connect(gateway), await stranger.connect(gateway)
            await resuming.resume(left.generation_id)
            await cancelling.cancel(left)
            for device in (resuming, cancelling):
                refused = await device.first("error")
                assert (refused["code"], refused["generation_id"]) == ("not_found", left.generation_id)
    await mock.open_gate(mark)
    assert (await user.stored(left))["status"] == "done"

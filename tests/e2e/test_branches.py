"""A conversation's tree: what may follow an answer that runs, another answer to the same message, the rest of one."""

from __future__ import annotations

import pytest

from tests.mockllm.control import MockControl
from tests.support.client import Device, Refused, Shown, User
from tests.support.questions import gated, new_mark, question, served

pytestmark = pytest.mark.slow


async def running(user: User, mock: MockControl) -> tuple[str, str, Device, Shown]:
    """The mark, the conversation, the device and the answer, which waits at a gate with some text shown."""
    mark, conversation = new_mark(), await user.conversation()
    device = await user.connect()
    answer = await device.send(conversation, gated(mark))
    await mock.reached(mark)
    return mark, conversation, device, await device.seen(answer)


async def test_a_send_below_a_running_answer_is_told_to_wait(user: User, mock: MockControl) -> None:
    mark, conversation, device, answer = await running(user, mock)
    other = await user.connect()
    for parent in ({}, {"parent_id": answer.generation_id}):
        with pytest.raises(Refused, match="busy") as refused:
            await other.send(conversation, "And then?", **parent)
        assert refused.value.retryable
    await mock.open_gate(mark)
    await device.finish(answer)
    second = await other.finish(await other.send(conversation, question(new_mark(), chunks=2)))
    assert second.ended == "done"


async def test_a_regenerate_of_a_running_answer_stops_it(user: User, mock: MockControl) -> None:
    mark, _, device, answer = await running(user, mock)
    other = await user.connect()
    branch = await other.regenerate(answer.generation_id)
    await device.finish(answer)
    assert answer.ended == "cancelled"
    await mock.open_gate(mark)
    await other.finish(branch)
    first, second = await served(mock, mark)
    assert (first.end, second.end) == ("client_closed", "done")
    assert (branch.ended, branch.text) == ("done", second.text)
    assert branch.generation_id != answer.generation_id


async def test_a_refused_regenerate_stops_nothing(user: User, mock: MockControl) -> None:
    mark, _, device, answer = await running(user, mock)
    other = await user.connect()
    for fields, code in (
        ({"turn_id": "garbage"}, "invalid"),
        ({"turn_id": "00000000-0000-7000-8000-000000000000"}, "id_out_of_order"),
        ({"model": "no such model"}, "invalid"),
    ):
        with pytest.raises(Refused, match=code):
            await other.regenerate(answer.generation_id, **fields)
    await mock.open_gate(mark)
    await device.finish(answer)
    [call] = await served(mock, mark)
    assert (answer.ended, answer.text) == ("done", call.text)


async def test_deleting_a_conversation_stops_its_answer(user: User, mock: MockControl) -> None:
    mark, conversation, device, answer = await running(user, mock)
    await user.call("DELETE", f"/v1/conversations/{conversation}")
    await device.finish(answer)
    assert answer.ended == "cancelled"
    [call] = await served(mock, mark)
    assert call.end == "client_closed"


async def test_what_was_stopped_goes_on_where_it_ended(user: User, mock: MockControl) -> None:
    mark, conversation, device, answer = await running(user, mock)
    await device.cancel(answer)
    await device.finish(answer)
    rest = await device.go_on(answer.generation_id)
    await mock.open_gate(mark)
    await device.finish(rest)
    _, second = await served(mock, mark)
    assert second.messages[-1] == {"role": "assistant", "content": answer.text}
    assert (rest.ended, rest.text) == ("done", second.text)

    # The next message's context holds both joined.
    last = new_mark()
    await device.finish(await device.send(conversation, question(last, chunks=1), parent_id=rest.generation_id))
    [third] = await served(mock, last)
    contents = [message["content"] for message in third.messages]
    assert answer.text + rest.text in "".join(contents)


async def test_what_was_cut_by_length_goes_on_and_what_is_whole_does_not(user: User) -> None:
    device, conversation = await user.connect(), await user.conversation()
    cut = await device.send(conversation, question(new_mark(), endless=True), params={"max_tokens": 8})
    await device.finish(cut)
    assert cut.end is not None
    assert (cut.ended, cut.end["finish_reason"]) == ("done", "length")
    rest = await device.finish(await device.go_on(cut.generation_id))
    assert rest.text

    whole = await device.finish(await device.send(await user.conversation(), question(new_mark(), chunks=2)))
    with pytest.raises(Refused, match="invalid") as refused:
        await device.go_on(whole.generation_id)
    assert refused.value.error["param"] == "generation_id"

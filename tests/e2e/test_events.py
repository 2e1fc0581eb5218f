"""The answer as server-sent events: from the beginning, from an address, at either gateway, and from a send."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.mockllm.control import MockControl
from tests.support.client import Refused, Shown, User, new_id
from tests.support.events import Event, events
from tests.support.questions import gated, new_mark, question, served
from tests.support.stack import GATEWAYS

pytestmark = pytest.mark.slow

STREAM = {"Accept": "text/event-stream"}


async def read(source: AsyncIterator[Event], shown: Shown, characters: int | None = None) -> list[Event]:
    """Shows what comes up to the end of the stream, or until so much text is shown."""
    seen: list[Event] = []
    async for event in source:
        shown.take({"type": event.kind} | event.data)
        seen.append(event)
        if characters is not None and len(shown.text) >= characters:
            break
    return seen


async def halfway(user: User, mock: MockControl) -> tuple[str, Shown]:
    """An answer that waits at a gate with some text shown, and the gate's name."""
    mark = new_mark()
    device = await user.connect()
    answer = await device.send(await user.conversation(), gated(mark))
    await mock.reached(mark)
    return mark, await device.seen(answer)


async def test_from_the_beginning_at_both_gateways(user: User, mock: MockControl) -> None:
    mark, left = await halfway(user, mock)
    path = f"/v1/generations/{left.generation_id}/events"
    for gateway in GATEWAYS:
        shown = Shown(left.generation_id)
        async with user.stream("GET", path, None, gateway, **STREAM) as response:
            await read(events(response), shown, len(left.text))
            assert shown.text == left.text
    await mock.open_gate(mark)
    await user.stored(left)
    [call] = await served(mock, mark)
    for gateway in GATEWAYS:
        shown = Shown(left.generation_id)
        async with user.stream("GET", path, None, gateway, **STREAM) as response:
            seen = await read(events(response), shown)
        assert (shown.ended, shown.text) == ("done", call.text)
        assert seen[-1].kind == "done"
        assert seen[-1].id == f"{left.generation_id}:{shown.epoch}:{shown.seq}"


@pytest.mark.parametrize(("first", "second"), [GATEWAYS, GATEWAYS[::-1]])
async def test_from_the_last_event_at_the_other_gateway(user: User, mock: MockControl, first: str, second: str) -> None:
    mark, left = await halfway(user, mock)
    path = f"/v1/generations/{left.generation_id}/events"
    shown = Shown(left.generation_id)
    async with user.stream("GET", path, None, first, **STREAM) as response:
        seen = await read(events(response), shown, len(left.text))
    last = next(event.id for event in reversed(seen) if event.id)
    assert last == f"{left.generation_id}:{shown.epoch}:{shown.seq}"

    await mock.open_gate(mark)
    async with user.stream("GET", path, None, second, **STREAM, **{"Last-Event-ID": last}) as response:
        rest = await read(events(response), shown)
    # What has ended meanwhile may come from history, which does not know the places between its increments.
    assert rest[0].kind in ("resumed", "snapshot")
    [call] = await served(mock, mark)
    assert (shown.ended, shown.text) == ("done", call.text)

    # After the end: nothing is missing, and the end is told again.
    async with user.stream("GET", path, None, first, **STREAM, **{"Last-Event-ID": rest[-1].id or ""}) as response:
        again = await read(events(response), shown)
    assert [event.kind for event in again] == ["resumed", "done"]


async def test_a_send_is_answered_by_its_events(user: User, mock: MockControl) -> None:
    mark, conversation = new_mark(), await user.conversation()
    path = f"/v1/conversations/{conversation}/messages"
    body = {"message_id": new_id(), "content": question(mark, chunks=30, delay_ms=1)}
    shown = Shown("")
    async with user.stream("POST", path, body, "gateway-1", **STREAM) as response:
        seen = await read(events(response), shown)
    assert [seen[0].kind, seen[-1].kind] == ["accepted", "done"]
    assert seen[0].data["message_id"] == body["message_id"]
    [call] = await served(mock, mark)
    assert shown.text == call.text

    # The same id at the other gateway is the same answer, and no other call.
    again = Shown("")
    async with user.stream("POST", path, body, "gateway-2", **STREAM) as response:
        repeated = await read(events(response), again)
    assert repeated[0].data == seen[0].data | {"duplicate": True}
    assert (again.text, again.end) == (shown.text, shown.end)
    assert len(await served(mock, mark)) == 1


async def test_who_leaves_the_stream_cancels_nothing(user: User, mock: MockControl) -> None:
    mark, conversation = new_mark(), await user.conversation()
    path = f"/v1/conversations/{conversation}/messages"
    shown = Shown("")
    async with user.stream("POST", path, {"content": gated(mark)}, **STREAM) as response:
        [accepted, *_] = await read(events(response), shown, 1)
    await mock.open_gate(mark)
    stored = await user.stored(str(accepted.data["generation_id"]))
    [call] = await served(mock, mark)
    assert (stored["status"], stored["text"], call.end) == ("done", call.text, "done")


async def test_a_wrong_address_is_refused(user: User) -> None:
    device = await user.connect()
    answer = await device.finish(await device.send(await user.conversation(), question(new_mark(), chunks=2)))
    path = f"/v1/generations/{answer.generation_id}/events"
    for wrong in ("x", f"{answer.generation_id}:0", "gen_other:0:0"):
        with pytest.raises(Refused, match="invalid") as refused:
            await user.call("GET", path, **STREAM, **{"Last-Event-ID": wrong})
        assert refused.value.error["param"] == "Last-Event-ID"

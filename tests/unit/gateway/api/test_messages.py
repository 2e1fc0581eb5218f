from __future__ import annotations

from typing import Any

import pytest

from core.history.port import Applied
from core.ids import generation_id, uuid7_ms
from core.model import Increment, NewTurn, Piece, Regenerate, Send, Usage
from tests.support.api import Platform, refused
from tests.support.turns import new_end, new_id, new_turn


async def told(platform: Platform, turn: NewTurn, *texts: str, **end: Any) -> None:
    """Opens a turn, stores its text, an increment each, and ends it."""
    history = platform.services.history
    opened = await history.open(turn)
    assert isinstance(opened, Applied)
    for number, text in enumerate(texts):
        await history.append(turn.key, 0, Increment(number, number, (Piece("text", 0, text),)))
    values = {"chunks": len(texts), "seq": len(texts) - 1, **end}
    ended = await history.end(turn.key, new_end(opened.turn, **values))
    assert isinstance(ended, Applied)


async def test_a_message_and_its_answer(platform: Platform) -> None:
    user, caller = await platform.signed_in()
    conversation = await platform.conversation(user)
    turn = new_turn(conversation, owner=user.id, content="What is it?")
    await told(platform, turn, "It is ", "this.")
    answer_id = generation_id(conversation, turn.key.turn_id)
    page = (await caller.ask("GET", f"/v1/conversations/{conversation}/messages")).json()
    assert page["next_cursor"] is None
    answer, message = page["data"]
    assert message["id"] == turn.key.turn_id
    assert (message["role"], message["parent_id"], message["content"]) == ("user", None, "What is it?")
    assert (message["status"], message["generation_id"], message["usage"]) == ("done", None, None)
    assert message["created_at"] == uuid7_ms(turn.key.turn_id)
    assert (answer["id"], answer["generation_id"], answer["parent_id"]) == (answer_id, answer_id, turn.key.turn_id)
    assert (answer["role"], answer["status"], answer["content"]) == ("assistant", "done", "It is this.")
    assert answer["parts"] == [{"i": 0, "k": "text", "d": "It is this."}]
    assert (answer["epoch"], answer["seq"], answer["finish_reason"]) == (0, 1, "stop")
    assert (answer["cost"], answer["model"], answer["provider"]) == (1234, "small", "scripted")
    assert answer["usage"] == {"prompt_tokens": 3, "completion_tokens": 5}
    for each in (message, answer):
        path = f"/v1/conversations/{conversation}/messages/{each['id']}"
        assert (await caller.ask("GET", path)).json() == each


async def test_parts_are_kept_apart(platform: Platform) -> None:
    user, caller = await platform.signed_in()
    conversation = await platform.conversation(user)
    turn = new_turn(conversation, owner=user.id)
    opened = await platform.services.history.open(turn)
    assert isinstance(opened, Applied)
    pieces = (Piece("reasoning", 0, "hm"), Piece("text", 1, "So"), Piece("text", 1, " it is"))
    await platform.services.history.append(turn.key, 0, Increment(0, 2, pieces))
    (answer, _) = (await caller.ask("GET", f"/v1/conversations/{conversation}/messages")).json()["data"]
    assert (answer["status"], answer["seq"], answer["content"], answer["cost"]) == ("running", 2, "So it is", None)
    assert answer["parts"] == [{"i": 0, "k": "reasoning", "d": "hm"}, {"i": 1, "k": "text", "d": "So it is"}]


async def test_branches_and_continuations_hang_where_they_belong(platform: Platform) -> None:
    user, caller = await platform.signed_in()
    conversation = await platform.conversation(user)
    first = new_turn(conversation, owner=user.id)
    await told(platform, first, "One", kind="interrupted", code="provider_error", message="It broke off.")
    source = generation_id(conversation, first.key.turn_id)
    shared = {"owner": user.id, "message_turn": first.key.turn_id, "source_turn": first.key.turn_id}
    again = new_turn(conversation, kind="regenerate", **shared)
    await told(platform, again, "Two")
    on = new_turn(conversation, kind="continue", **shared)
    await told(platform, on, " and a half", usage=Usage(prompt_tokens=1, completion_tokens=2, estimated=True))
    after = new_turn(conversation, owner=user.id, parent_turn=again.key.turn_id)
    await told(platform, after, "Three")
    page = (await caller.ask("GET", f"/v1/conversations/{conversation}/messages")).json()["data"]
    found = {each["id"]: each for each in page}
    ids = [generation_id(conversation, turn.key.turn_id) for turn in (after, on, again, first)]
    assert [each["id"] for each in page] == [ids[0], after.key.turn_id, ids[1], ids[2], ids[3], first.key.turn_id]
    assert (found[ids[2]]["parent_id"], found[ids[2]]["kind"]) == (first.key.turn_id, "regenerate")
    assert (found[ids[1]]["parent_id"], found[ids[1]]["kind"]) == (source, "continue")
    assert found[ids[1]]["source_id"] == found[ids[2]]["source_id"] == source
    assert found[ids[1]]["usage"]["estimated"] is True
    assert found[after.key.turn_id]["parent_id"] == ids[2]
    assert (found[source]["status"], found[source]["code"]) == ("interrupted", "provider_error")
    assert found[source]["message"] == "It broke off."
    path = f"/v1/conversations/{conversation}/messages/{again.key.turn_id}"
    refused(await caller.ask("GET", path), 404, "not_found", "message_id")


async def test_pages_go_back_without_tearing_a_turn(platform: Platform) -> None:
    user, caller = await platform.signed_in()
    conversation = await platform.conversation(user)
    turns = [new_turn(conversation, owner=user.id) for _ in range(5)]
    for turn in turns:
        await told(platform, turn, "yes")
    seen: list[str] = []
    cursor = None
    while True:
        query = "?limit=4" + (f"&cursor={cursor}" if cursor else "")
        page = (await caller.ask("GET", f"/v1/conversations/{conversation}/messages{query}")).json()
        assert len(page["data"]) <= 4
        seen += [each["id"] for each in page["data"] if each["role"] == "user"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == [turn.key.turn_id for turn in reversed(turns)]
    other = await platform.conversation(user)
    cursor = (await caller.ask("GET", f"/v1/conversations/{conversation}/messages?limit=2")).json()["next_cursor"]
    foreign = await caller.ask("GET", f"/v1/conversations/{other}/messages?cursor={cursor}")
    refused(foreign, 400, "invalid", "cursor")


async def test_sending_is_accepted_with_the_frame_as_sent(platform: Platform) -> None:
    user, caller = await platform.signed_in()
    conversation, message = await platform.conversation(user), new_id()
    body = {
        "content": "hello",
        "message_id": message,
        "parent_id": "gen_x",
        "model": "small",
        "params": {"temperature": 0.5},
        "files": ["f1"],
    }
    response = await caller.ask("POST", f"/v1/conversations/{conversation}/messages", body)
    assert response.status_code == 202
    generation = generation_id(conversation, message)
    assert response.json() == {"message_id": message, "generation_id": generation, "duplicate": False}
    assert platform.turns.frames == [Send(conversation_id=conversation, **body)]


async def test_the_idempotency_key_is_the_message_id(platform: Platform) -> None:
    user, caller = await platform.signed_in()
    conversation, key = await platform.conversation(user), new_id()
    path = f"/v1/conversations/{conversation}/messages"
    for body in ({"content": "hello"}, {"content": "hello", "message_id": key}):
        assert (await caller.ask("POST", path, body, idempotency_key=key)).json()["message_id"] == key
    other = {"content": "hello", "message_id": new_id()}
    refused(await caller.ask("POST", path, other, idempotency_key=key), 400, "invalid", "Idempotency-Key")
    refused(await caller.ask("POST", path, {"content": "x"}, idempotency_key="abc"), 400, "invalid", "Idempotency-Key")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "content"),
        ({"content": 1}, "content"),
        ({"content": None}, "content"),
        ({"content": "a", "params": []}, "params"),
        ({"content": "a", "files": "f"}, "files"),
        ({"content": "a", "files": [1]}, "files[0]"),
        ({"content": "a", "files": ["f"] * 21}, "files"),
        ({"content": "a", "message_id": 1}, "message_id"),
        ({"content": "a", "conversation_id": "b"}, "conversation_id"),
    ],
)
async def test_what_is_wrong_is_named(platform: Platform, body: dict[str, object], param: str) -> None:
    user, caller = await platform.signed_in()
    conversation = await platform.conversation(user)
    response = await caller.ask("POST", f"/v1/conversations/{conversation}/messages", body)
    refused(response, 400, "invalid", param)
    assert platform.turns.frames == []


async def test_generations_are_shown_cancelled_and_branched(platform: Platform) -> None:
    user, caller = await platform.signed_in()
    conversation, turn = await platform.conversation(user), new_id()
    generation = generation_id(conversation, new_id())
    path = f"/v1/generations/{generation}"
    shown = (await caller.ask("GET", path)).json()
    assert (shown["id"], shown["status"], shown["end"]) == (generation, "running", None)
    cancelled = await caller.ask("POST", f"{path}/cancel")
    assert (cancelled.status_code, cancelled.json()["type"]) == (200, "done")
    again = await caller.ask("POST", f"{path}/regenerate", {"turn_id": turn, "model": "small"})
    assert (again.status_code, again.json()["message_id"]) == (202, turn)
    assert platform.turns.frames == [Regenerate(generation_id=generation, turn_id=turn, model="small")]
    on = await caller.ask("POST", f"{path}/continue", idempotency_key=turn)
    assert (on.status_code, on.json()["generation_id"]) == (202, generation_id(conversation, turn))
    refused(await caller.ask("POST", f"{path}/continue", {"model": "small"}), 400, "invalid", "model")
    refused(await caller.ask("POST", f"{path}/regenerate", {"turn_id": 7}), 400, "invalid", "turn_id")


@pytest.mark.parametrize(
    ("method", "suffix"),
    [("GET", ""), ("GET", "/events"), ("POST", "/cancel"), ("POST", "/regenerate"), ("POST", "/continue")],
)
async def test_anothers_generation_is_not_there(platform: Platform, method: str, suffix: str) -> None:
    ann, _ = await platform.signed_in()
    _, bob = await platform.signed_in()
    theirs = generation_id(await platform.conversation(ann), new_id())
    for generation in (theirs, generation_id(new_id(), new_id()), "gen_nonsense", "x"):
        refused(await bob.ask(method, f"/v1/generations/{generation}{suffix}"), 404, "not_found")

from __future__ import annotations

import pytest

from core.accounts.model import RESTORE_MS, Touch
from core.ids import generation_id
from core.model import TurnKey
from tests.support.api import Platform, refused
from tests.support.turns import new_id, new_turn


async def test_creation_is_repeatable(platform: Platform) -> None:
    user, caller = await platform.signed_in()
    body = {"id": new_id(), "title": " First ", "model": "small"}
    made = await caller.ask("POST", "/v1/conversations", body)
    assert made.status_code == 201
    shown = made.json()
    assert (shown["id"], shown["title"], shown["model"], shown["leaf_id"]) == (body["id"], "First", "small", None)
    assert shown["created_at"] == shown["updated_at"]
    assert (await caller.ask("POST", "/v1/conversations", body)).json() == shown
    assert (await caller.ask("GET", f"/v1/conversations/{body['id']}")).json() == shown
    home = await platform.services.history.home(body["id"])
    assert home is not None
    assert (home.owner, home.zone) == (user.id, "eu")


async def test_an_id_is_made_where_none_is_given(platform: Platform) -> None:
    _, caller = await platform.signed_in()
    made = (await caller.ask("POST", "/v1/conversations")).json()
    assert (await caller.ask("GET", f"/v1/conversations/{made['id']}")).json() == made


async def test_what_a_failure_left_half_made_is_completed_by_the_retry(platform: Platform) -> None:
    user, caller = await platform.signed_in()
    conversation = new_id()
    await platform.services.history.create_conversation(conversation, user.id, "eu")
    refused(await caller.ask("GET", f"/v1/conversations/{conversation}"), 404, "not_found")
    assert (await caller.ask("POST", "/v1/conversations", {"id": conversation})).status_code == 201


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"id": "no-uuid"}, "id"),
        ({"id": "6fa459ea-ee8a-4ca4-894e-db77e160355e"}, "id"),
        ({"id": 5}, "id"),
        ({"title": None}, "title"),
        ({"title": "\x00"}, "title"),
        ({"title": "t" * 201}, "title"),
        ({"model": "absent"}, "model"),
        ({"owner": "me"}, "owner"),
    ],
)
async def test_what_is_wrong_is_named(platform: Platform, body: dict[str, object], param: str) -> None:
    _, caller = await platform.signed_in()
    refused(await caller.ask("POST", "/v1/conversations", body), 400, "invalid", param)


async def test_the_list_goes_by_activity_in_pages(platform: Platform) -> None:
    user, caller = await platform.signed_in()
    ids = [await platform.conversation(user) for _ in range(5)]
    now = await platform.services.accounts.now_ms()
    for place, each in enumerate(ids):
        await platform.services.accounts.touch_conversations([Touch(each, user.id, now + 1_000 + place, "")])
    seen: list[str] = []
    cursor = None
    while True:
        query = "?limit=2" + (f"&cursor={cursor}" if cursor else "")
        page = (await caller.ask("GET", "/v1/conversations" + query)).json()
        seen += [each["id"] for each in page["data"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == ids[::-1]


async def test_a_cursor_is_one_users_and_one_lists(platform: Platform) -> None:
    user, caller = await platform.signed_in()
    _, other = await platform.signed_in()
    for _ in range(2):
        await platform.conversation(user)
    cursor = (await caller.ask("GET", "/v1/conversations?limit=1")).json()["next_cursor"]
    assert cursor
    assert (await caller.ask("GET", f"/v1/conversations?cursor={cursor}")).status_code == 200
    refused(await other.ask("GET", f"/v1/conversations?cursor={cursor}"), 400, "invalid", "cursor")
    refused(await caller.ask("GET", f"/v1/conversations?archived=true&cursor={cursor}"), 400, "invalid", "cursor")
    for wrong in ("garbage", cursor[:-1], "x" * 600):
        refused(await caller.ask("GET", f"/v1/conversations?cursor={wrong}"), 400, "invalid", "cursor")


@pytest.mark.parametrize("limit", ["0", "101", "-1", "many", "1.5", ""])
async def test_a_limit_is_one_to_a_hundred(platform: Platform, limit: str) -> None:
    _, caller = await platform.signed_in()
    refused(await caller.ask("GET", f"/v1/conversations?limit={limit}"), 400, "invalid", "limit")


async def test_changes_apply_to_what_is_named(platform: Platform) -> None:
    user, caller = await platform.signed_in()
    conversation = await platform.conversation(user)
    path = f"/v1/conversations/{conversation}"
    changed = (await caller.ask("PATCH", path, {"title": "New", "pinned": True, "model": "small"})).json()
    assert (changed["title"], changed["pinned"], changed["starred"], changed["model"]) == ("New", True, False, "small")
    changed = (await caller.ask("PATCH", path, {"model": None, "archived": True})).json()
    assert (changed["title"], changed["model"], changed["archived"]) == ("New", None, True)
    assert (await caller.ask("GET", "/v1/conversations")).json()["data"] == []
    assert (await caller.ask("GET", "/v1/conversations?archived=true")).json()["data"] == [changed]
    refused(await caller.ask("PATCH", path, {"model": "absent"}), 400, "invalid", "model")
    refused(await caller.ask("PATCH", path, {"pinned": "yes"}), 400, "invalid", "pinned")
    refused(await caller.ask("PATCH", path, {"deleted_at": 1}), 400, "invalid", "deleted_at")


async def test_a_deleted_conversation_can_be_restored(platform: Platform) -> None:
    user, caller = await platform.signed_in()
    conversation = await platform.conversation(user)
    path = f"/v1/conversations/{conversation}"
    before = (await caller.ask("GET", path)).json()
    for _ in range(2):
        assert (await caller.ask("DELETE", path)).status_code == 204
    refused(await caller.ask("GET", path), 404, "not_found")
    refused(await caller.ask("GET", f"{path}/messages"), 404, "not_found")
    refused(await caller.ask("PATCH", path, {"title": "New"}), 404, "not_found")
    refused(await caller.ask("POST", "/v1/conversations", {"id": conversation}), 409, "conflict", "id")
    assert (await caller.ask("GET", "/v1/conversations")).json()["data"] == []
    for _ in range(2):
        assert (await caller.ask("POST", f"{path}/restore")).json() == before
    assert (await caller.ask("GET", path)).json() == before


async def test_after_thirty_days_it_stays_deleted(platform: Platform) -> None:
    user, caller = await platform.signed_in()
    conversation = await platform.conversation(user)
    long_ago = platform.services.clock.wall_ms() - RESTORE_MS - 1
    await platform.services.history.set_deleted(conversation, long_ago)
    refused(await caller.ask("POST", f"/v1/conversations/{conversation}/restore"), 404, "not_found")


async def test_the_branch_shown_is_kept(platform: Platform) -> None:
    user, caller = await platform.signed_in()
    conversation = await platform.conversation(user)
    turn = new_turn(conversation, owner=user.id)
    await platform.services.history.open(turn)
    path = f"/v1/conversations/{conversation}"
    for leaf in (generation_id(conversation, turn.key.turn_id), turn.key.turn_id):
        assert (await caller.ask("PUT", f"{path}/branch", {"leaf_id": leaf})).json()["leaf_id"] == leaf
        assert (await caller.ask("GET", path)).json()["leaf_id"] == leaf
    elsewhere = TurnKey(await platform.conversation(user), new_id())
    for wrong in (new_id(), "garbage", generation_id(elsewhere.conversation_id, elsewhere.turn_id)):
        refused(await caller.ask("PUT", f"{path}/branch", {"leaf_id": wrong}), 404, "not_found", "leaf_id")
    refused(await caller.ask("PUT", f"{path}/branch", {}), 400, "invalid", "leaf_id")


@pytest.mark.parametrize(
    ("method", "suffix", "body"),
    [
        ("GET", "", None),
        ("PATCH", "", {"title": "Mine"}),
        ("DELETE", "", None),
        ("POST", "/restore", None),
        ("PUT", "/branch", {"leaf_id": "x"}),
        ("GET", "/messages", None),
        ("GET", "/messages/{turn}", None),
        ("GET", "/messages/{generation}", None),
        ("POST", "/messages", {"content": "hello"}),
    ],
)
async def test_anothers_is_not_there(platform: Platform, method: str, suffix: str, body: object) -> None:
    ann, _ = await platform.signed_in()
    _, bob = await platform.signed_in()
    conversation = await platform.conversation(ann)
    turn = new_turn(conversation, owner=ann.id)
    await platform.services.history.open(turn)
    suffix = suffix.format(turn=turn.key.turn_id, generation=generation_id(conversation, turn.key.turn_id))
    theirs = await bob.ask(method, f"/v1/conversations/{conversation}{suffix}", body)
    absent = await bob.ask(method, f"/v1/conversations/{new_id()}{suffix}", body)
    nonsense = await bob.ask(method, f"/v1/conversations/nonsense{suffix}", body)
    told = refused(theirs, 404, "not_found")["message"]
    assert refused(absent, 404, "not_found")["message"] == told
    refused(nonsense, 404, "not_found")
    home = await platform.services.history.home(conversation)
    assert home is not None
    assert home.deleted_at_ms is None


async def test_anothers_id_is_a_conflict(platform: Platform) -> None:
    ann, _ = await platform.signed_in()
    _, bob = await platform.signed_in()
    conversation = await platform.conversation(ann)
    refused(await bob.ask("POST", "/v1/conversations", {"id": conversation}), 409, "conflict", "id")


async def test_every_change_is_told_to_the_owners_devices(platform: Platform) -> None:
    user, caller = await platform.signed_in()
    made = (await caller.ask("POST", "/v1/conversations", {"title": "one"})).json()
    path = f"/v1/conversations/{made['id']}"
    renamed = (await caller.ask("PATCH", path, {"title": "two", "pinned": True})).json()
    await caller.ask("DELETE", path)
    restored = (await caller.ask("POST", f"{path}/restore")).json()
    names = ["conversation.created", "conversation.updated", "conversation.deleted", "conversation.restored"]
    assert [(to, name) for to, name, _ in platform.told] == [(user.id, name) for name in names]
    assert [data.get("conversation") for _, _, data in platform.told] == [made, renamed, None, restored]
    assert {data["conversation_id"] for _, _, data in platform.told} == {made["id"]}


async def test_what_was_refused_or_is_anothers_is_told_to_nobody(platform: Platform) -> None:
    user, _ = await platform.signed_in()
    _, stranger = await platform.signed_in()
    path = f"/v1/conversations/{await platform.conversation(user)}"
    await stranger.ask("PATCH", path, {"title": "mine now"})
    await stranger.ask("DELETE", path)
    await stranger.ask("POST", f"{path}/restore")
    assert platform.told == []

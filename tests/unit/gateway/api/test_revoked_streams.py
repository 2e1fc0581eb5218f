"""Event streams under a session or key that ends."""

from __future__ import annotations

import json

import pytest

from core.accounts.model import Reason
from core.ids import generation_id
from core.model import Delta
from tests.support.api import Platform
from tests.support.asgi import Exchange
from tests.support.turns import new_id


async def watching(platform: Platform) -> tuple[str, str, Exchange]:
    """A user and a session that watch an answer which goes on, and have been told its beginning."""
    user = await platform.user()
    generation = generation_id(await platform.conversation(user), new_id())
    platform.turns.script = [Delta(g=generation, e=0, n=0, d="Hello"), None]
    token = await platform.token(user)
    identity = await platform.services.identities.of_http("GET", {"authorization": f"Bearer {token}"})
    headers = {"authorization": f"Bearer {token}", "accept": "text/event-stream"}
    exchange = Exchange(platform.api, "GET", f"/v1/generations/{generation}/events", headers)
    await exchange.shows("Hello")
    assert identity.session_id is not None
    return user.id, identity.session_id, exchange


@pytest.mark.parametrize(
    ("whole", "reason", "code"), [(False, "session", "unauthorized"), (True, "suspended", "forbidden")]
)
async def test_a_stream_ends_with_its_session(platform: Platform, whole: bool, reason: Reason, code: str) -> None:
    user, session, exchange = await watching(platform)
    await platform.services.revocations.announce(user, None if whole else session, reason)
    await exchange.ended()
    assert exchange.complete
    event, data = exchange.body.decode().split("\n\n")[-2].split("\n")[:2]
    assert event == "event: error"
    assert json.loads(data.removeprefix("data: "))["code"] == code
    assert platform.services.streams.count == 0


async def test_other_sessions_and_users_are_not_concerned(platform: Platform) -> None:
    user, session, exchange = await watching(platform)
    for told in ((user, new_id()), (new_id(), session), (new_id(), None)):
        await platform.services.revocations.announce(*told, "session")
    assert not exchange.task.done()
    await exchange.leave()


async def test_what_ended_while_the_stream_was_opened_ends_it(platform: Platform) -> None:
    """Between asking who it is and the first event a session may have ended."""
    token = await platform.token(await platform.user())
    identity = await platform.services.identities.of_http("GET", {"authorization": f"Bearer {token}"})
    await platform.services.revocations.announce(identity.user_id, identity.session_id, "session")
    with platform.services.streams.until_revoked(identity) as ended:
        assert ended.done()
        assert ended.result().code == "unauthorized"

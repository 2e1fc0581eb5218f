from __future__ import annotations

import json

import pytest

from core.accounts.model import User
from core.errors import ParleyError
from core.ids import generation_id
from core.model import Delta, Notice, Part, Queued, Restart, Resumed, ServerFrame, Snapshot
from gateway.api import streams
from gateway.api.streams import event_id, parse_event_id
from tests.support.api import Platform, done, open_platform, refused
from tests.support.asgi import Exchange
from tests.support.polling import eventually
from tests.support.redis import RedisServer
from tests.support.turns import new_id

GENERATION = generation_id("01890a5d-ac96-774b-bcce-b302099a8057", "01890a5d-ac97-7c14-8f0b-5e4b6b1f3d21")


def delta(generation: str, seq: int, text: str) -> Delta:
    return Delta(g=generation, e=0, n=seq, d=text)


async def watching(platform: Platform, **headers: str) -> tuple[User, str, Exchange]:
    """Somebody who watches an answer of their own."""
    user = await platform.user()
    generation = generation_id(await platform.conversation(user), new_id())
    return user, generation, await opened(platform, user, generation, **headers)


async def opened(platform: Platform, user: User, generation: str, **headers: str) -> Exchange:
    sent = {"authorization": f"Bearer {await platform.token(user)}", "accept": "text/event-stream"}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    return Exchange(platform.api, "GET", f"/v1/generations/{generation}/events", sent)


def events(body: bytes) -> list[dict[str, str]]:
    """The events of a stream: their fields, comments and `retry` left out."""
    found = []
    for block in body.decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if "event" in fields:
            found.append(fields)
    return found


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        (delta(GENERATION, 7, "x"), f"{GENERATION}:0:7"),
        (Resumed(generation_id=GENERATION, epoch=2, seq=-1), f"{GENERATION}:2:-1"),
        (Restart(generation_id=GENERATION, epoch=3, reason="provider"), f"{GENERATION}:3:-1"),
        (done(GENERATION, 9), f"{GENERATION}:0:9"),
        (Snapshot(generation_id=GENERATION, epoch=1, seq=5, at=0, parts=[], more=True), None),
        (Snapshot(generation_id=GENERATION, epoch=1, seq=5, at=9, parts=[], more=False), f"{GENERATION}:1:5"),
        (Queued(generation_id=GENERATION, position=1, eta_s=2.0), None),
        (Notice(code="degraded", message="Slow."), None),
    ],
)
def test_ids_are_the_address_of_the_last_text(frame: ServerFrame, expected: str | None) -> None:
    assert event_id(frame) == expected
    if expected:
        epoch, seq = expected.split(":")[1:]
        assert parse_event_id(expected, GENERATION) == (int(epoch), int(seq))


def test_without_an_id_everything_is_asked_for() -> None:
    assert parse_event_id(None, GENERATION) == parse_event_id("", GENERATION) == (-1, -1)


async def test_an_answer_is_streamed_to_its_end(platform: Platform) -> None:
    user = await platform.user()
    generation = generation_id(await platform.conversation(user), new_id())
    part = Part(0, "text", "Hel")
    platform.turns.script = [
        Snapshot(generation_id=generation, epoch=0, seq=0, at=0, parts=[part], more=False),
        delta(generation, 1, "lo\nthere"),
        done(generation, 1),
        delta(generation, 2, "never told"),
    ]
    exchange = await opened(platform, user, generation)
    await exchange.ended()
    assert exchange.status == 200
    assert exchange.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert exchange.headers["cache-control"] == "no-store"
    assert exchange.complete
    told = events(exchange.body)
    assert [event["event"] for event in told] == ["snapshot", "delta", "done"]
    assert [event["id"] for event in told] == [f"{generation}:0:{seq}" for seq in (0, 1, 1)]
    assert json.loads(told[1]["data"]) == {"type": "delta", "g": generation, "e": 0, "n": 1, "d": "lo\nthere"}
    assert platform.turns.asked == [(generation, -1, -1)]
    assert platform.turns.watching == platform.services.streams.count == 0


async def test_a_reader_comes_back_to_where_it_was(platform: Platform) -> None:
    user = await platform.user()
    generation = generation_id(await platform.conversation(user), new_id())
    platform.turns.script = [done(generation)]
    exchange = await opened(platform, user, generation, last_event_id=f"{generation}:2:41")
    await exchange.ended()
    assert platform.turns.asked == [(generation, 2, 41)]


@pytest.mark.parametrize(
    "wrong", ["garbage", GENERATION, f"{GENERATION}:0:0", "{own}:a:b", "{own}:0:99999999999", "{own}:0:1:2"]
)
async def test_a_wrong_id_is_named(platform: Platform, wrong: str) -> None:
    user, caller = await platform.signed_in()
    generation = generation_id(await platform.conversation(user), new_id())
    path = f"/v1/generations/{generation}/events"
    response = await caller.ask("GET", path, last_event_id=wrong.format(own=generation))
    refused(response, 400, "invalid", "Last-Event-ID")


async def test_sending_may_be_answered_by_the_events(platform: Platform) -> None:
    user = await platform.user()
    conversation, message = await platform.conversation(user), new_id()
    generation = generation_id(conversation, message)
    platform.turns.script = [Queued(generation_id=generation, position=1, eta_s=1.0), done(generation)]
    for path, body in (
        (f"/v1/conversations/{conversation}/messages", {"content": "hello", "message_id": message}),
        (f"/v1/generations/{generation_id(conversation, new_id())}/regenerate", {"turn_id": message}),
        (f"/v1/generations/{generation_id(conversation, new_id())}/continue", {"turn_id": message}),
    ):
        headers = {
            "authorization": f"Bearer {await platform.token(user)}",
            "accept": "text/event-stream",
            "content-type": "application/json",
        }
        exchange = Exchange(platform.api, "POST", path, headers, json.dumps(body).encode())
        await exchange.ended()
        told = events(exchange.body)
        assert [event["event"] for event in told] == ["accepted", "queued", "done"]
        assert json.loads(told[0]["data"])["message_id"] == message
        assert "id" not in told[0]
        assert "id" not in told[1]


async def test_silence_is_broken_by_comments(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "KEEP_ALIVE_S", 0.02)
    monkeypatch.setattr(streams, "FIRST_FRAME_S", 0.02)
    platform.turns.script = [None]
    _, _, exchange = await watching(platform)
    await exchange.shows(": keep-alive\n\n: keep-alive\n\n")
    await exchange.leave()


async def test_a_reader_that_leaves_stops_the_watch(platform: Platform) -> None:
    platform.turns.script = [Notice(code="degraded", message="Slow."), None]
    _, _, exchange = await watching(platform)
    await exchange.shows("degraded")
    assert platform.turns.watching == platform.services.streams.count == 1
    await exchange.leave()
    assert platform.turns.watching == platform.services.streams.count == 0


async def test_a_failure_on_the_way_is_the_last_event(platform: Platform) -> None:
    failure = ParleyError("unavailable", "Away.", retry_after_ms=1000)
    platform.turns.script = [Notice(code="degraded", message="Slow."), failure]
    _, _, exchange = await watching(platform)
    await exchange.ended()
    told = events(exchange.body)
    assert [event["event"] for event in told] == ["notice", "error"]
    error = json.loads(told[1]["data"])
    assert (error["code"], error["retryable"], error["retry_after_ms"]) == ("unavailable", True, 1000)


async def test_a_failure_before_anything_is_an_ordinary_answer(platform: Platform) -> None:
    platform.turns.script = [ParleyError("unavailable", "Away.", retry_after_ms=1000)]
    _, _, exchange = await watching(platform)
    await exchange.ended()
    assert (exchange.status, exchange.headers["retry-after"]) == (503, "1")
    error = json.loads(exchange.body)["error"]
    assert (error["code"], error["request_id"]) == ("unavailable", exchange.headers["x-request-id"])


async def test_a_stream_ends_at_its_byte_budget(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "STREAM_BYTES", 4096)
    user = await platform.user()
    generation = generation_id(await platform.conversation(user), new_id())
    platform.turns.script = [delta(generation, seq, "x" * 1000) for seq in range(100)]
    exchange = await opened(platform, user, generation)
    await exchange.ended()
    assert exchange.complete
    assert 4096 <= len(exchange.body) < 6000
    assert platform.turns.watching == 0


async def test_streams_are_counted_and_refused_above_the_limit(shared_dsn: str, redis_server: RedisServer) -> None:
    async with open_platform(shared_dsn, redis_server.url, max_streams=1) as platform:
        platform.turns.script = [Notice(code="degraded", message="Slow."), None]
        user, generation, first = await watching(platform)
        await first.shows("degraded")
        second = await opened(platform, user, generation)
        await second.ended()
        assert second.status == 503
        assert json.loads(second.body)["error"]["code"] == "overloaded"
        caller = platform.caller(await platform.token(user))
        path = f"/v1/conversations/{await platform.conversation(user)}/messages"
        sending = await caller.ask("POST", path, {"content": "hello"}, accept="text/event-stream")
        refused(sending, 503, "overloaded")
        assert platform.turns.frames == []
        await first.leave()
        third = await opened(platform, user, generation)
        await third.shows("degraded")
        await third.leave()


async def test_a_drain_ends_all_streams_and_takes_no_new_ones(platform: Platform) -> None:
    platform.turns.script = [Notice(code="degraded", message="Slow."), None]
    user, generation, exchange = await watching(platform)
    await exchange.shows("degraded")
    await platform.services.streams.drain(0.1, 2.0)
    await eventually(lambda: exchange.complete)
    told = events(exchange.body)
    assert told[-1]["event"] == "drain"
    assert json.loads(told[-1]["data"])["reconnect_after_ms"] <= 1000
    late = await opened(platform, user, generation)
    await late.ended()
    assert late.status == 503

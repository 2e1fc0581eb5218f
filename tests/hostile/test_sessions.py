"""Sessions as an attacker meets them: stolen, reused, guessed; and what is left open when one has ended."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.error
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.hostile.sockets import Refused, Socket
from tests.hostile.wire import Answer, Http, connection, each
from tests.hostile.world import World, new_id, refused, same
from tests.support.questions import gated
from tests.support.stack import GATEWAYS, MODEL, Person, fetch

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

# What docs/protocol.md and SECURITY.md promise.
ENDED_WITHIN_S = 5.0
JSON = ("Content-Type", "application/json")


def call(world: World, path: str, body: dict[str, Any], gateway: str = "gateway-1", **headers: str) -> Any:
    return fetch("POST", f"{world.stack.own_base_url(gateway)}{path}", body, **headers)


async def post(http: Http, path: str, body: dict[str, Any], *headers: tuple[str, str]) -> Answer:
    return await http.ask("POST", path, [JSON, *headers], json.dumps(body).encode())


def login(world: World, person: Person) -> dict[str, Any]:
    body = {"email": person.email, "password": person.password, "cookie": False}
    return dict(call(world, "/v1/auth/login", body))


# --- what is open when a session ends -------------------------------------------------------------------------------


class Stream:
    """A response that goes on: what came of it, as text."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, port: int, method: str, path: str, token: str, body: bytes = b"") -> Stream:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            f"{method} {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\nAccept: text/event-stream\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        async with asyncio.timeout(15):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
            await reader.readuntil(b"data: ")
        return cls(reader, writer)

    async def rest(self) -> str:
        """Everything up to the end of the response."""
        async with asyncio.timeout(15):
            return (await self._reader.readuntil(b"\r\n0\r\n\r\n")).decode()


class Open:
    """All that one credential may have open, at both gateways: sockets, an answer's events, a completion."""

    def __init__(self, sockets: list[Socket], streams: list[Stream]) -> None:
        self.sockets = sockets
        self.streams = streams

    async def ended(self, code: int, said: str) -> None:
        """All of it ends in time: sockets with this close code, streams with this error and never cleanly."""
        async with asyncio.timeout(ENDED_WITHIN_S):
            closes = await asyncio.gather(*(socket.end() for socket in self.sockets))
            rests = await asyncio.gather(*(stream.rest() for stream in self.streams))
        assert [closed.code for _, closed in closes] == [code] * len(closes)
        for rest in rests:
            assert f'"{said}"' in rest, rest
            assert "[DONE]" not in rest
            assert "event: done" not in rest


@asynccontextmanager
async def everything_open(world: World, person: Person, token: str) -> AsyncIterator[Open]:
    """An answer that waits in its middle, watched in every way; then the gate is opened."""
    mark = new_id()
    conversation = world.conversation(person)
    path = f"/v1/conversations/{conversation}/messages"
    generation = call(world, path, {"content": gated(mark)}, **person.headers)["generation_id"]
    ask = {"model": MODEL, "stream": True, "messages": [{"role": "user", "content": gated(mark)}]}
    sockets: list[Socket] = []
    streams: list[Stream] = []
    for gateway in GATEWAYS:
        port = world.stack.ports[f"{gateway}.own"]
        sockets.append(await Socket.open(world.stack.ports[f"{gateway}.own_ws"], token))
        assert (await sockets[-1].next())["type"] == "welcome"
        streams.append(await Stream.open(port, "GET", f"/v1/generations/{generation}/events", token))
        streams.append(await Stream.open(port, "POST", "/v1/chat/completions", token, json.dumps(ask).encode()))
    try:
        yield Open(sockets, streams)
    finally:
        fetch("POST", f"{world.stack.mock.url}/_gate/{mark}")
        for one in sockets:
            one.reset()
        for stream in streams:
            stream.writer.transport.abort()


async def refused_everywhere(world: World, token: str, code: str) -> None:
    """No gateway takes the credential any more, for HTTP or a WebSocket."""
    for gateway in GATEWAYS:
        async with connection(world.stack.ports[f"{gateway}.own"]) as http:
            answer = await http.ask("GET", "/v1/models", [("Authorization", f"Bearer {token}")])
            assert refused(answer)["code"] == code
        with pytest.raises(Refused) as refusal:
            await Socket.open(world.stack.ports[f"{gateway}.own_ws"], token)
        assert refusal.value.error["code"] == code


async def test_logging_out_ends_what_is_open(world: World) -> None:
    """Everything of that session, and nothing of another one of the same user."""
    other = login(world, world.stranger)["access_token"]
    mine = login(world, world.stranger)["access_token"]
    still = await Socket.open(world.ws_port, other)
    assert (await still.next())["type"] == "welcome"
    ticket = call(world, "/v1/ws/tickets", {}, Authorization=f"Bearer {mine}")["ticket"]
    async with everything_open(world, world.stranger, mine) as opened:
        call(world, "/v1/auth/logout", {}, Authorization=f"Bearer {mine}")
        await opened.ended(4401, "unauthorized")
    await refused_everywhere(world, mine, "unauthorized")
    with pytest.raises(Refused, match="401"):
        await Socket.open(world.ws_port, headers=[("Sec-WebSocket-Protocol", f"parley.v1, parley.ticket.{ticket}")])
    still.tell({"type": "ping", "t": 1})
    assert await still.next() == {"type": "pong", "t": 1}
    still.reset()


async def test_deleting_a_key_ends_what_is_open(world: World) -> None:
    made = call(world, "/v1/keys", {"name": "to be deleted"}, **world.stranger.headers)
    ticket = call(world, "/v1/ws/tickets", {}, Authorization=f"Bearer {made['key']}")["ticket"]
    by_ticket = [("Sec-WebSocket-Protocol", f"parley.v1, parley.ticket.{ticket}")]
    async with everything_open(world, world.stranger, made["key"]) as opened:
        opened.sockets.append(await Socket.open(world.ws_port, headers=by_ticket))
        fetch("DELETE", f"{world.url}/v1/keys/{made['id']}", **world.stranger.headers)
        await opened.ended(4401, "unauthorized")
    await refused_everywhere(world, made["key"], "unauthorized")


async def test_suspending_a_user_ends_what_is_open(world: World) -> None:
    """Of sessions and keys alike; a ticket of before is no way back; restored, the user logs in again."""
    person = await asyncio.to_thread(world.stack.register)
    key = call(world, "/v1/keys", {"name": "a key"}, **person.headers)["key"]
    ticket = call(world, "/v1/ws/tickets", {}, **person.headers)["ticket"]
    by_key = await Socket.open(world.ws_port, key)
    async with everything_open(world, person, person.token) as opened:
        opened.sockets.append(by_key)
        done = await asyncio.to_thread(world.stack.cli, "admin", "user", "suspend", person.email)
        assert done.returncode == 0, done.stderr
        await opened.ended(4403, "forbidden")
    for token in (person.token, key):
        await refused_everywhere(world, token, "forbidden")
    with pytest.raises(Refused, match="403"):
        await Socket.open(world.ws_port, headers=[("Sec-WebSocket-Protocol", f"parley.v1, parley.ticket.{ticket}")])
    async with connection(world.port) as http:
        body = {"email": person.email, "password": person.password}
        assert refused(await post(http, "/v1/auth/login", body))["code"] == "forbidden"
        # Whether an account is suspended is told to nobody who has not its password.
        wrong = refused(await post(http, "/v1/auth/login", body | {"password": "not it, not it"}))
        assert wrong["code"] == "unauthorized"
    await asyncio.to_thread(world.stack.cli, "admin", "user", "restore", person.email)
    assert login(world, person)["access_token"]


async def test_another_password_and_a_closed_account_end_the_other_sessions(world: World) -> None:
    person = await asyncio.to_thread(world.stack.register)
    other = login(world, person)["access_token"]
    socket = await Socket.open(world.stack.ports["gateway-2.own_ws"], other)
    body = {"password": new_id(), "current_password": person.password}
    fetch("PATCH", f"{world.url}/v1/me", body, **person.headers)
    _, closed = await socket.end(ENDED_WITHIN_S)
    assert closed.code == 4401
    await refused_everywhere(world, other, "unauthorized")
    kept = await Socket.open(world.stack.ports["gateway-2.own_ws"], person.token)
    key = call(world, "/v1/keys", {"name": "a key"}, **person.headers)["key"]
    by_key = await Socket.open(world.ws_port, key)
    fetch("DELETE", f"{world.url}/v1/me", **person.headers)
    for one in (kept, by_key):
        assert (await one.end(ENDED_WITHIN_S))[1].code == 4401
    await refused_everywhere(world, person.token, "unauthorized")
    await refused_everywhere(world, key, "unauthorized")
    with pytest.raises(urllib.error.HTTPError, match="401"):
        login(world, person._replace(password=body["password"]))


# --- refresh tokens -------------------------------------------------------------------------------------------------


async def test_a_reused_refresh_token_ends_its_family(world: World) -> None:
    """Whoever uses it: the thief and the owner are both out, open sockets included. Other sessions stay."""
    other = login(world, world.stranger)
    first = login(world, world.stranger)
    second = call(world, "/v1/auth/refresh", {"refresh_token": first["refresh_token"], "cookie": False})
    third = call(world, "/v1/auth/refresh", {"refresh_token": second["refresh_token"], "cookie": False}, "gateway-2")
    assert len({tokens["refresh_token"] for tokens in (first, second, third)}) == 3
    socket = await Socket.open(world.stack.ports["gateway-2.own_ws"], third["access_token"])
    async with connection(world.port) as http:
        for tokens in (first, third, second, first):
            answer = await post(http, "/v1/auth/refresh", {"refresh_token": tokens["refresh_token"], "cookie": False})
            assert refused(answer)["code"] == "unauthorized"
    assert (await socket.end(ENDED_WITHIN_S))[1].code == 4401
    for tokens in (first, second, third):
        await refused_everywhere(world, tokens["access_token"], "unauthorized")
    assert call(world, "/v1/auth/refresh", {"refresh_token": other["refresh_token"], "cookie": False})["access_token"]


async def test_a_made_up_refresh_token_ends_nothing(world: World) -> None:
    """Who knows a session's id cannot log its owner out by guessing."""
    tokens = login(world, world.stranger)
    good = tokens["refresh_token"]
    for at in (0, 20, 24, 30, len(good) - 2):
        forged = good[:at] + ("A" if good[at] != "A" else "B") + good[at + 1 :]
        async with connection(world.port) as http:
            for path in ("/v1/auth/refresh", "/v1/auth/logout"):
                assert refused(await post(http, path, {"refresh_token": forged}))["code"] == "unauthorized"
    assert fetch("GET", f"{world.url}/v1/me", Authorization=f"Bearer {tokens['access_token']}")["id"]
    assert call(world, "/v1/auth/refresh", {"refresh_token": good, "cookie": False})["access_token"]


async def test_refreshing_at_once_gives_one_successor(world: World) -> None:
    """A page's tabs refresh together: none is logged out, and there is no second line of tokens."""
    tokens = login(world, world.stranger)
    body = {"refresh_token": tokens["refresh_token"], "cookie": False}
    answers: list[dict[str, Any]] = []

    async def refresh(http: Http, _: int) -> None:
        answer = await post(http, "/v1/auth/refresh", body)
        assert answer.status == 200, answer.body
        answers.append(answer.json)

    await each(world.port, range(8), refresh)
    assert len({answer["refresh_token"] for answer in answers}) == 1


# --- guessing -------------------------------------------------------------------------------------------------------


async def test_passwords_cannot_be_tried_for_long(world: World) -> None:
    """Ten wrong ones, then 429 with the time to wait, also for the right one; another account is not concerned."""
    person = await asyncio.to_thread(world.stack.register)
    async with connection(world.port) as http:
        for number in range(10):
            body = {"email": person.email.upper(), "password": f"wrong {number}"}
            assert refused(await post(http, "/v1/auth/login", body))["code"] == "unauthorized"
        answer = await post(http, "/v1/auth/login", {"email": person.email, "password": person.password})
        error = refused(answer)
        assert (error["code"], error["retry_after_ms"] > 0) == ("rate_limited", True)
        assert int(answer.headers["retry-after"]) * 1000 >= error["retry_after_ms"]
        assert int(answer.headers["retry-after-ms"]) == error["retry_after_ms"]
    assert login(world, world.stranger)["access_token"]


async def test_nothing_tells_a_wrong_password_from_no_account(world: World) -> None:
    """Neither the words nor the time: without an account a password is hashed all the same."""
    took: dict[str, list[float]] = {world.stranger.email: [], f"{new_id()}@example.org": []}
    answers = []
    async with connection(world.port) as http:
        for _ in range(4):
            for email, times in took.items():
                began = time.perf_counter()
                answers.append(await post(http, "/v1/auth/login", {"email": email, "password": "not the password"}))
                times.append(time.perf_counter() - began)
    assert len({same(answer) for answer in answers}) == 1
    known, unknown = (min(times) for times in took.values())
    assert unknown > known / 3, (known, unknown)
    assert known > 0.01, "no hash of argon2id is as quick as that"


async def test_a_login_from_a_foreign_page(world: World) -> None:
    """Logging somebody in as oneself is refused like other changes, and so is a form that is no JSON."""
    body = {"email": world.stranger.email, "password": world.stranger.password}
    async with connection(world.port) as http:
        for path in ("/v1/auth/login", "/v1/auth/register"):
            answer = await post(http, path, body, ("Origin", "https://evil.example"))
            assert (refused(answer)["code"], refused(answer)["param"]) == ("forbidden", "Origin")
            assert "set-cookie" not in answer.headers


async def test_the_id_of_an_event_is_no_right_to_watch(world: World) -> None:
    """An answer's events ask for the owner at every connection, also with the id of an event that was seen."""
    generation = world.values["generation_id"]
    async with connection(world.port) as http:
        headers = [("Authorization", f"Bearer {world.stranger.token}"), ("Last-Event-ID", f"{generation}:0:0")]
        answer = await http.ask("GET", f"/v1/generations/{generation}/events", headers)
        assert refused(answer)["code"] == "not_found"

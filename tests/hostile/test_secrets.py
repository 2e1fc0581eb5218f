"""Neither texts nor secrets reach a log, also where everything is logged that there is to log."""

from __future__ import annotations

import asyncio
import json
import urllib.error
from typing import Any

import pytest

from tests.hostile.apart import Apart
from tests.hostile.sockets import Socket
from tests.hostile.wire import connection
from tests.hostile.world import World, new_id
from tests.support.client import ENDS
from tests.support.stack import MODEL, fetch

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

JSON = ("Content-Type", "application/json")


class Told:
    """What was said in confidence, by what it is."""

    def __init__(self) -> None:
        self.secrets: dict[str, str] = {}

    def new(self, what: str) -> str:
        """A text that nothing else holds."""
        return self.keep(what, f"confidential-{new_id()}")

    def keep(self, what: str, secret: str) -> str:
        self.secrets[what] = secret
        return secret

    def found_in(self, log: str) -> list[str]:
        """Which of it a log holds; of long secrets also a part is too much."""
        return [what for what, secret in self.secrets.items() if secret in log or secret[-40:] in log]


async def _use_everything(world: World, apart: Apart, told: Told) -> None:
    """Every way in which a secret or a text comes to a gateway, rightly and wrongly."""
    url = f"http://127.0.0.1:{apart.port}"
    email, password = f"{new_id()}@example.org", told.new("password")

    def post(path: str, body: dict[str, Any], **headers: str) -> Any:
        return fetch("POST", url + path, body, **headers)

    register = {"email": email, "password": password, "name": told.new("name"), "cookie": False}
    made = await asyncio.to_thread(post, "/v1/auth/register", register)
    told.keep("refresh token", made["refresh_token"])
    token = told.keep("access token", made["access_token"])
    bearer = {"Authorization": f"Bearer {token}"}
    again = post("/v1/auth/refresh", {"refresh_token": made["refresh_token"], "cookie": False})
    told.keep("next refresh token", again["refresh_token"])
    with pytest.raises(urllib.error.HTTPError, match="401"):
        post("/v1/auth/login", {"email": email, "password": told.new("wrong password")})
    with pytest.raises(urllib.error.HTTPError, match="401"):
        post("/v1/auth/login", {"code": told.new("login code")})
    key = told.keep("API key", post("/v1/keys", {"name": told.new("key's name")}, **bearer)["key"])
    ticket = told.keep("ticket", post("/v1/ws/tickets", {}, **bearer)["ticket"])
    conversation = post("/v1/conversations", {"title": told.new("title")}, **bearer)["id"]

    answer = told.new("answer")
    world.stack.mock.script({"text": f"It is {answer}"}, {"text": f"It is {answer}"}, contains="Tell me")
    asked = {"model": MODEL, "messages": [{"role": "user", "content": f"Tell me {told.new('prompt')}"}]}
    post("/v1/chat/completions", asked, Authorization=f"Bearer {key}")
    socket = await Socket.open(
        apart.ws_port, headers=[("Sec-WebSocket-Protocol", f"parley.v1, parley.ticket.{ticket}")]
    )
    send = {"type": "send", "message_id": new_id(), "conversation_id": conversation}
    socket.tell(send | {"content": f"Tell me {told.new('message')}"})
    await socket.first(lambda frame: frame["type"] in ENDS)
    socket.tell(send | {"content": [told.new("message of a wrong type")]})
    socket.tell(told.new("frame that is none"))
    await socket.end()
    await _misuse(apart, told, conversation, bearer["Authorization"])


async def _misuse(apart: Apart, told: Told, conversation: str, bearer: str) -> None:
    """What is refused is not logged for it."""
    async with connection(apart.port) as http:
        for headers in (
            [("Authorization", f"Bearer {told.new('wrong token')}")],
            [("Authorization", f"Basic {told.new('basic credentials')}")],
            [("Cookie", f"parley_session={told.new('cookie')}; parley_csrf={told.new('CSRF token')}")],
        ):
            await http.ask("GET", "/v1/me", headers)
        ours = [("Authorization", bearer), JSON]
        for body in (
            json.dumps({"content": told.new("content beside an unknown field"), "zz": 1}).encode(),
            json.dumps({"content": "x", "params": {told.new("parameter"): 1}}).encode(),
            f'{{"content": "{told.new("cut content")}'.encode(),
        ):
            await http.ask("POST", f"/v1/conversations/{conversation}/messages", ours, body)
        await http.ask("GET", f"/v1/conversations?cursor={told.new('query')}", ours)
        await http.ask("POST", "/v1/auth/login", [JSON], f'{{"password": {told.new("password unquoted")}'.encode())
    # It leaves in the middle of a body.
    _, writer = await asyncio.open_connection("127.0.0.1", apart.port)
    head = f"POST /v1/conversations/{conversation}/messages HTTP/1.1\r\nHost: a\r\nAuthorization: {bearer}\r\n"
    cut = f'{{"content": "{told.new("content that breaks off")}'
    writer.write(f"{head}Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{cut}".encode())
    await writer.drain()
    writer.close()
    await writer.wait_closed()


async def test_no_log_holds_a_secret_or_a_text(world: World, apart: Apart) -> None:
    told = Told()
    await _use_everything(world, apart, told)
    for file in world.stack.layout.secrets.iterdir():
        lines = [line for line in file.read_text().splitlines() if len(line) > 15 and not line.startswith("-----")]
        for line in lines:
            told.keep(f"secret {file.name}", line)
    assert len(told.secrets) > 25
    assert "serving HTTP on" in apart.said
    assert told.found_in(apart.said) == []
    for log in world.stack.layout.logs.iterdir():
        assert told.found_in(log.read_text(errors="replace")) == [], log.name
    assert told.found_in(world.stack.said()) == []
    assert "Traceback" not in apart.said

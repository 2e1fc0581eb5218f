"""The terminal's client against a scripted server: real sockets that break off, refuse and drain."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import WSMsgType, web

from cli import chat_client
from cli.chat_answer import Answer, Out
from cli.chat_client import ChatError, Client

Session = Callable[["Server", web.WebSocketResponse], Awaitable[None]]

DONE = {
    "type": "done",
    "generation_id": "g",
    "epoch": 0,
    "seq": 1,
    "finish_reason": "stop",
    "usage": None,
    "cost": 0,
    "model": "m",
    "provider": "p",
    "code": None,
    "message": None,
}


class Server:
    """Each connection runs the next of `sessions`; `got` has the frames that clients sent, by connection."""

    def __init__(self) -> None:
        self.sessions: list[Session] = []
        self.got: list[list[dict[str, Any]]] = []
        self.url = ""
        self.credentials: list[str | None] = []
        self.refuse = 0
        self.transport: asyncio.BaseTransport | None = None

    async def connect(self, request: web.Request) -> web.StreamResponse:
        self.credentials.append(request.headers.get("Authorization"))
        if self.refuse:
            return web.Response(status=self.refuse)
        socket = web.WebSocketResponse(protocols=("parley.v1",))
        await socket.prepare(request)
        self.transport = request.transport
        self.got.append([])
        welcome = {"type": "welcome", "connection_id": "1", "user": "u", "time": 0, "heartbeat_s": 25.0, "limits": {}}
        await socket.send_json(welcome)
        await self.sessions.pop(0)(self, socket)
        return socket

    async def receive(self, socket: web.WebSocketResponse) -> dict[str, Any]:
        message = await socket.receive(timeout=5)
        assert message.type is WSMsgType.TEXT, message
        frame: dict[str, Any] = json.loads(message.data)
        self.got[-1].append(frame)
        return frame

    async def accept(self, socket: web.WebSocketResponse) -> None:
        frame = await self.receive(socket)
        assert frame["type"] == "send"
        await socket.send_json({"type": "accepted", "message_id": frame["message_id"], "generation_id": "g"})

    async def config(self, _: web.Request) -> web.Response:
        return web.json_response({"ws_url": self.url.replace("http", "ws") + "/v1/ws"})

    async def conversation(self, request: web.Request) -> web.Response:
        body = await request.json()
        if request.headers["Authorization"] == "Bearer wrong":
            return web.json_response({"error": {"message": "this key is not known"}}, status=401)
        return web.json_response({"id": body["id"]}, status=201)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    app = web.Application()
    app.router.add_get("/v1/ws", made.connect)
    app.router.add_get("/v1/config", made.config)
    app.router.add_post("/v1/conversations", made.conversation)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()


async def ask(server: Server, *sessions: Session, cancel_after: str | None = None) -> tuple[Answer, str, str]:
    """The answer, all text and all remarks; cancelled when this much text has come."""
    server.sessions = list(sessions)
    said: list[Out] = []

    def say(out: Out) -> None:
        said.append(out)
        if cancel_after is not None and "".join(one.text for one in said) == cancel_after:
            client.cancel()

    async with Client(server.url, "secret", say) as client, asyncio.timeout(10):
        answer = await client.ask("c", "Hello?", "parent", None)
    return answer, "".join(one.text for one in said), "\n".join(one.remark for one in said if one.remark)


async def test_an_answer(server: Server) -> None:
    async def session(server: Server, socket: web.WebSocketResponse) -> None:
        await server.accept(socket)
        await socket.send_json({"type": "delta", "g": "g", "e": 0, "n": 0, "d": "Hel"})
        await socket.send_json({"type": "something_of_next_year", "x": 1})
        await socket.send_json({"type": "delta", "g": "g", "e": 0, "n": 1, "d": "lo"})
        await socket.send_json(DONE)
        await socket.receive(timeout=5)

    answer, text, remarks = await ask(server, session)
    assert (answer.outcome, text, remarks) == ("done", "Hello", "")
    assert server.credentials == ["Bearer secret"]
    sent = server.got[0][0]
    assert (sent["conversation_id"], sent["content"], sent["parent_id"]) == ("c", "Hello?", "parent")


async def test_a_connection_that_breaks_is_resumed(server: Server) -> None:
    async def breaks(server: Server, socket: web.WebSocketResponse) -> None:
        await server.accept(socket)
        await socket.send_json({"type": "delta", "g": "g", "e": 0, "n": 0, "d": "Hel"})
        assert server.transport is not None
        server.transport.close()

    async def goes_on(server: Server, socket: web.WebSocketResponse) -> None:
        assert (await server.receive(socket)) == {"type": "resume", "generation_id": "g", "epoch": 0, "seq": 0}
        await socket.send_json({"type": "resumed", "generation_id": "g", "epoch": 0, "seq": 0})
        await socket.send_json({"type": "delta", "g": "g", "e": 0, "n": 1, "d": "lo"})
        await socket.send_json(DONE)
        await socket.receive(timeout=5)

    answer, text, remarks = await ask(server, breaks, goes_on)
    assert (answer.outcome, text) == ("done", "Hello")
    assert "connection is lost" in remarks


async def test_before_the_acceptance_the_same_message_is_sent_again(server: Server) -> None:
    async def loses_it(server: Server, socket: web.WebSocketResponse) -> None:
        await server.receive(socket)

    async def answers(server: Server, socket: web.WebSocketResponse) -> None:
        await server.accept(socket)
        await socket.send_json(DONE)
        await socket.receive(timeout=5)

    answer, _, _ = await ask(server, loses_it, answers)
    assert answer.outcome == "done"
    assert server.got[0] == server.got[1][:1]


async def test_a_drain_is_obeyed_at_its_moment_and_the_answer_goes_on_until_then(server: Server) -> None:
    async def drains(server: Server, socket: web.WebSocketResponse) -> None:
        await server.accept(socket)
        await socket.send_json({"type": "drain", "reconnect_after_ms": 300})
        await socket.send_json({"type": "delta", "g": "g", "e": 0, "n": 0, "d": "Once"})
        await socket.receive(timeout=5)

    async def answers(server: Server, socket: web.WebSocketResponse) -> None:
        assert (await server.receive(socket)) == {"type": "resume", "generation_id": "g", "epoch": 0, "seq": 0}
        await socket.send_json(DONE)
        await socket.receive(timeout=5)

    loop = asyncio.get_running_loop()
    began = loop.time()
    answer, text, _ = await ask(server, drains, answers)
    assert (answer.outcome, text) == ("done", "Once")
    assert loop.time() - began >= 0.3


async def test_what_a_draining_server_has_not_accepted_is_sent_elsewhere_at_once(server: Server) -> None:
    async def drains(server: Server, socket: web.WebSocketResponse) -> None:
        await server.receive(socket)
        await socket.send_json({"type": "drain", "reconnect_after_ms": 60_000})
        await socket.receive(timeout=5)

    async def answers(server: Server, socket: web.WebSocketResponse) -> None:
        await server.accept(socket)
        await socket.send_json(DONE)
        await socket.receive(timeout=5)

    answer, _, _ = await ask(server, drains, answers)
    assert answer.outcome == "done"
    assert server.got[0] == server.got[1][:1]


async def test_cancel(server: Server) -> None:
    async def session(server: Server, socket: web.WebSocketResponse) -> None:
        await server.accept(socket)
        await socket.send_json({"type": "delta", "g": "g", "e": 0, "n": 0, "d": "Once"})
        assert (await server.receive(socket)) == {"type": "cancel", "generation_id": "g"}
        await socket.send_json(DONE | {"type": "cancelled"})
        await socket.receive(timeout=5)

    answer, text, remarks = await ask(server, session, cancel_after="Once")
    assert (answer.outcome, text, remarks) == ("cancelled", "Once", "stopped")


async def test_a_retryable_refusal_is_tried_again(server: Server) -> None:
    async def session(server: Server, socket: web.WebSocketResponse) -> None:
        frame = await server.receive(socket)
        refusal = {"type": "error", "code": "busy", "message": "busy", "retryable": True, "retry_after_ms": 50}
        await socket.send_json(refusal | {"message_id": frame["message_id"], "turn_id": None, "param": None})
        await server.accept(socket)
        await socket.send_json(DONE)
        await socket.receive(timeout=5)

    answer, _, remarks = await ask(server, session)
    assert answer.outcome == "done"
    assert remarks == "busy; again in 0.1 s"


@pytest.mark.parametrize(("code", "meaning"), [(4401, "expired"), (4403, "forbidden"), (4400, "4400")])
async def test_a_final_close_is_told(server: Server, code: int, meaning: str) -> None:
    async def closes(server: Server, socket: web.WebSocketResponse) -> None:
        await server.accept(socket)
        await socket.close(code=code)

    with pytest.raises(ChatError, match=meaning):
        await ask(server, closes)


async def test_a_refused_credential_is_told(server: Server) -> None:
    server.refuse = 401
    with pytest.raises(ChatError, match="does not accept the credential"):
        await ask(server)
    async with Client(server.url, "wrong", print) as client:
        with pytest.raises(ChatError, match="this key is not known"):
            await client.create_conversation()


async def test_a_server_that_is_away_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_client, "GIVE_UP_S", 0.3)
    async with Client("http://127.0.0.1:1", "secret", lambda _: None) as client:
        with pytest.raises(ChatError, match=r"no connection to http://127\.0\.0\.1:1"):
            await client.ask("c", "Hello?", None, None)
        with pytest.raises(ChatError, match="cannot reach"):
            await client.create_conversation()

"""Connections that are refused, crowd, fall silent, or do not read what they asked for."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

from tests.hostile.apart import CONNECTIONS, HEARTBEAT_S, LONG, Apart
from tests.hostile.sockets import Refused, Socket
from tests.hostile.wire import connection
from tests.hostile.world import World, new_id
from tests.hostile.world import refused as http_refused
from tests.support.client import ENDS, Shown
from tests.support.polling import eventually
from tests.support.questions import gated
from tests.support.stack import fetch
from tests.support.websocket import CLOSE, PING

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

READERS = 30
ANSWER_BYTES = 768 * 1024


@pytest.fixture(scope="module")
def silent(world_session: World, apart: Apart) -> Iterator[socket.socket]:
    """A connection that was opened before everything else here and has said nothing since, not even a pong."""
    request = (
        f"GET /v1/ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEA==\r\nAuthorization: Bearer {world_session.stranger.token}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", apart.ws_port), timeout=30) as opened:
        opened.sendall(request.encode())
        yield opened


# --- the handshake --------------------------------------------------------------------------------------------------


async def refused(world: World, status: int, code: str, **how: object) -> None:
    with pytest.raises(Refused) as refusal:
        (await Socket.open(world.ws_port, **how)).reset()  # type: ignore[arg-type]
    error = refusal.value.error
    assert (refusal.value.status, error.get("code")) == (status, code), refusal.value
    assert error.keys() == {"code", "message", "type", "param", "retryable", "retry_after_ms"}


async def test_handshakes_without_a_right(world: World, silent: socket.socket) -> None:
    """Refused with HTTP and the error's JSON before any frame."""
    await refused(world, 401, "unauthorized")
    for value in ("", "Bearer", "Bearer x", "Basic dXNlcg==", f"Bearer {world.owner.token}x", "Bearer " + "x" * 4_000):
        await refused(world, 401, "unauthorized", headers=[("Authorization", value)])
    for path in ("/", "/v1/ws/", "/v1/ws/x", "/v1/../v1/ws", "/v1/%77s", "/" + "x" * 3_000):
        await refused(world, 404, "not_found", token=world.owner.token, path=path)
    token = world.owner.token
    for query in (f"?token={token}", f"?access_token={token}", f"?authorization=Bearer%20{token}"):
        await refused(world, 401, "unauthorized", path=f"/v1/ws{query}")
    for ticket in ("", "x", "x" * 43, "x" * 2_000):
        offered = f"parley.v1, parley.ticket.{ticket}"
        await refused(world, 401, "unauthorized", headers=[("Sec-WebSocket-Protocol", offered)])
    await refused(world, 403, "forbidden", token=world.keys["account"])


async def test_a_cookie_needs_an_origin_of_ours(world: World) -> None:
    """Reading a socket across origins is what the same-origin policy does not forbid: the Origin is asked for."""
    cookie = ("Cookie", f"parley_session={world.owner.token}")
    await refused(world, 403, "forbidden", headers=[cookie])
    host = f"127.0.0.1:{world.ws_port}"
    for origin in ("https://evil.example", "null", "", f"https://{host}", f"http://{host}.evil.example", "http://[::1"):
        await refused(world, 403, "forbidden", headers=[cookie, ("Origin", origin)])
    # A page that a gateway of this host serves, on the port for pages.
    page = f"http://127.0.0.1:{world.stack.port}"
    opened = await Socket.open(world.ws_port, headers=[cookie, ("Origin", page)])
    assert (await opened.next())["user"] == world.owner.user_id
    opened.reset()


async def test_a_ticket_opens_one_connection(world: World) -> None:
    """Offered ten times at once, at both gateways, it works once, and is not repeated in the answer."""
    ticket = fetch("POST", f"{world.url}/v1/ws/tickets", {}, **world.owner.headers)["ticket"]
    ports = [world.stack.ports[f"{gateway}.own_ws"] for gateway in ("gateway-1", "gateway-2")] * 5
    offered = [("Sec-WebSocket-Protocol", f"parley.v1, parley.ticket.{ticket}")]
    results = await asyncio.gather(*(Socket.open(port, headers=offered) for port in ports), return_exceptions=True)
    opened = [result for result in results if isinstance(result, Socket)]
    assert len(opened) == 1
    assert (await opened[0].next())["user"] == world.owner.user_id
    opened[0].reset()
    others = [result for result in results if not isinstance(result, Socket)]
    assert {(result.status, result.error["code"]) for result in others if isinstance(result, Refused)} == {
        (401, "unauthorized")
    }
    assert all(ticket not in str(result) for result in others)


# --- too many, too silent, too slow ---------------------------------------------------------------------------------


async def test_too_many_connections_of_one_user(world: World, apart: Apart) -> None:
    """One more is told so and when to come back, then closed; others' connections are none of theirs."""
    opened = [await Socket.open(apart.ws_port, world.owner.token) for _ in range(CONNECTIONS)]
    for one in opened:
        assert (await one.next())["type"] == "welcome"
    more = await Socket.open(apart.ws_port, world.owner.token)
    seen, closed = await more.end()
    assert [(frame["type"], frame["code"]) for frame in seen] == [("error", "rate_limited")]
    assert seen[0]["retry_after_ms"] > 0
    assert (closed.code, f"retry_after_ms={seen[0]['retry_after_ms']}" in closed.reason) == (4429, True)
    other = await Socket.open(apart.ws_port, world.stranger.token)
    assert (await other.next())["type"] == "welcome"
    for one in (*opened, other, more):
        one.reset()

    async def admitted() -> bool:
        again = await Socket.open(apart.ws_port, world.owner.token)
        try:
            return (await again.next())["type"] == "welcome"
        finally:
            again.reset()

    await eventually(admitted, 10, "the places are free again")


async def test_too_many_event_streams_of_one_user(world: World, apart: Apart) -> None:
    """Also where they are opened at the same moment; another user's are none of theirs."""
    mark = new_id()
    url = f"http://127.0.0.1:{apart.port}"
    headers, others = ([("Authorization", f"Bearer {one.token}")] for one in (world.owner, world.stranger))
    path = f"/v1/conversations/{world.conversation(world.owner)}/messages"
    generation = fetch("POST", url + path, {"content": gated(mark)}, **world.owner.headers)["generation_id"]
    events = f"GET /v1/generations/{generation}/events HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {world.owner.token}"
    writers: list[asyncio.StreamWriter] = []

    async def opened() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", apart.port)
        writers.append(writer)
        writer.write(f"{events}\r\n\r\n".encode())
        async with asyncio.timeout(15):
            return (await reader.readuntil(b"\r\n"))[9:12]

    answers = await asyncio.gather(*(opened() for _ in range(CONNECTIONS + 20)))
    assert {status: answers.count(status) for status in answers} == {b"200": CONNECTIONS, b"429": 20}
    async with connection(apart.port) as http:
        answer = await http.ask("GET", f"/v1/generations/{generation}/events", headers)
        assert (http_refused(answer)["code"], answer.headers["retry-after"]) == ("rate_limited", "30")
        assert (
            http_refused(await http.ask("GET", f"/v1/generations/{generation}/events", others))["code"] == "not_found"
        )
        for writer in writers:
            writer.transport.abort()
        fetch("POST", f"{world.stack.mock.url}/_gate/{mark}")

        async def admitted() -> bool:
            return (await http.ask("GET", f"/v1/generations/{generation}/events", headers)).status == 200

        await eventually(admitted, 10, "the places are free again")


async def test_slow_readers_cost_a_place_and_not_a_copy(world: World, apart: Apart) -> None:
    """Thirty connections ask for the same long answer and do not read; the gateway keeps one text. Then they read it
    all, without hole or repeat.
    """
    mark, url = new_id(), f"http://127.0.0.1:{apart.port}"
    text = " ".join(f"{mark}-{number}" for number in range(ANSWER_BYTES // 43))
    world.stack.mock.script({"text": text, "coalesce": 20, "gate": mark, "gate_after": 1}, contains=mark)
    conversation = world.conversation(world.owner)
    fast = await Socket.open(apart.ws_port, world.owner.token)
    send = {"type": "send", "message_id": new_id(), "conversation_id": conversation, "content": mark, "model": LONG}
    fast.tell(send)
    generation = (await fast.of("accepted"))["generation_id"]
    resume = {"type": "resume", "generation_id": generation, "epoch": 0, "seq": -1}
    slow = [await Socket.open(apart.ws_port, world.owner.token, receive_bytes=4_096) for _ in range(READERS)]
    for reader in slow:
        assert (await reader.next())["type"] == "welcome"
        reader.tell(resume)
        await reader.of("resumed")
    before = apart.resident_bytes
    fetch("POST", f"{world.stack.mock.url}/_gate/{mark}")
    shown = await read_all(fast, generation)
    assert shown.text == text
    grown = apart.resident_bytes - before
    assert grown < READERS * ANSWER_BYTES / 2, f"{grown / 2**20:.1f} MiB for one answer of {ANSWER_BYTES} bytes"
    for reader, read in zip(slow, await asyncio.gather(*(read_all(one, generation) for one in slow)), strict=True):
        assert read.text == text
        reader.reset()
    fast.reset()
    assert fetch("GET", f"{url}/v1/generations/{generation}", **world.owner.headers)["text"] == text


async def read_all(reader: Socket, generation: str) -> Shown:
    """The answer as this connection is told it, up to its end."""
    shown = Shown(generation)
    while shown.end is None:
        frame = await reader.next()
        if generation in (frame.get("g"), frame.get("generation_id")) and frame["type"] != "resumed":
            shown.take(frame)
        assert frame["type"] in ENDS | {"delta", "snapshot", "resumed", "notice"}, frame
    return shown


async def test_a_missed_heartbeat(silent: socket.socket) -> None:
    """Pinged after a silence, closed with 4408 after another one."""
    silent.setblocking(False)
    reader, writer = await asyncio.open_connection(sock=silent)
    client = Socket(reader, writer)
    assert (await client.answer())[0] == 101
    opcodes = []
    while CLOSE not in opcodes:
        opcode, payload = await client.frame(within_s=HEARTBEAT_S + 25)
        opcodes.append(opcode)
    assert PING in opcodes
    assert int.from_bytes(payload[:2], "big") == 4408
    client.reset()

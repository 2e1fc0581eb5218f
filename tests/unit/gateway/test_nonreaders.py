"""Clients that read nothing, on real sockets: whatever they, or others, say to the gateway, little waits for them."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, cast

import pytest

from core.model import Event, Notice
from ext.ws import Accept, Connection, Limits, Listener, listen
from gateway.connection import Client, Shared
from gateway.transports.websocket import WRITE_MAX
from gateway.turns import Turns
from tests.support.polling import eventually
from tests.support.websocket import PING, PONG, REQUEST, TEXT, RawClient, client_frame

KIB = 1024
# The mark at which writing stops, and what one read of 64 KiB can still bring in replies.
BOUND = 96 * KIB
CONTROL = "\\u0001" * 128
HOSTILE = f'{{"type":"send","message_id":"{CONTROL}","turn_id":"{CONTROL}","generation_id":"{CONTROL}"}}'.encode()


@dataclass
class Gateway:
    listener: Listener
    clients: list[Client]
    connections: list[Connection]
    most: int = 0

    def look(self) -> int:
        self.most = max(self.most, *(connection.buffered for connection in self.connections))
        return self.most

    async def narrow(self) -> RawClient:
        """An open client whose kernel takes little, and nothing further until it is read."""
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * KIB)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.listener.port))
        raw = RawClient(*await asyncio.open_connection(sock=sock, limit=2 * KIB))
        raw.send(REQUEST)
        assert (await raw.answer())[0] == 101
        return raw


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    clients: list[Client] = []
    connections: list[Connection] = []
    shared = Shared(cast(Turns, None), lambda: ("gw-1.1", 5, 25.0, {}), lambda client: None)

    class Kept(Client):
        __slots__ = ()

        def on_open(self, connection: Connection) -> None:
            connections.append(connection)
            super().on_open(connection)

    async def accept(request: object) -> Accept:
        clients.append(Kept("u", "s", shared))
        return Accept(clients[-1])

    listener = await listen(accept, "127.0.0.1", 0, Limits(write_max=WRITE_MAX, so_sndbuf=16 * KIB, close_s=0.2))
    yield Gateway(listener, clients, connections)
    listener.stop_accepting()
    listener.close_all()
    await listener.wait_closed(0.2)


async def until(raw: RawClient, kind: str) -> list[dict[str, Any]]:
    """What is told up to a frame of this type."""
    told: list[dict[str, Any]] = []
    while not told or told[-1]["type"] != kind:
        opcode, payload = await raw.frame()
        assert opcode == TEXT
        told.append(json.loads(payload))
    return told


async def test_replies_to_one_who_reads_nothing_do_not_pile_up(gateway: Gateway) -> None:
    raw = await gateway.narrow()
    frames = 2_000
    await eventually(lambda: gateway.connections)
    for _ in range(frames // 20):
        raw.send(client_frame(TEXT, HOSTILE) * 20)
        await asyncio.sleep(0)
        gateway.look()
    raw.send(client_frame(TEXT, b'{"type":"ping","t":"last"}'))
    await eventually(lambda: gateway.look() and gateway.connections[0].buffered >= 4 * KIB, 5.0, "it is behind")
    unsent = cast(asyncio.WriteTransport, raw.writer.transport).get_write_buffer_size()
    assert unsent > 0, "it is not read on"
    assert gateway.look() < BOUND
    told = await until(raw, "pong")
    assert len(told) == 1 + frames + 1, "it reads again, and nothing was lost"
    assert gateway.look() < BOUND
    assert told[1]["message_id"] is None, "what has no form of an id is not repeated"
    assert len(json.dumps(told[1])) < 400
    await raw.leave()


async def test_events_to_one_who_reads_nothing_become_one(gateway: Gateway) -> None:
    raw, count = await gateway.narrow(), 1_000
    await eventually(lambda: gateway.connections)
    for number in range(count):
        gateway.clients[0].event(Event(name="conversation.updated", data={"conversation_id": "c" * 2000}))
        gateway.clients[0].notice(Notice(code="degraded", message=f"{number}", generation_id="g"))
        if number % 10 == 0:
            await asyncio.sleep(0)
        gateway.look()
    assert gateway.look() < BOUND
    raw.send(client_frame(PING, b"alive"))
    told: list[dict[str, Any]] = []
    while not told or told[-1].get("message") != f"{count - 1}":
        opcode, payload = await raw.frame()
        if opcode == TEXT:
            told.append(json.loads(payload))
        else:
            assert (opcode, payload) == (PONG, b"alive"), "the heartbeat goes on"
    missed = [frame for frame in told if frame.get("name") == "missed"]
    assert missed == [{"type": "event", "name": "missed", "data": {}}]
    assert told.index(missed[0]) == len(told) - 2, "after the last event that was told, before the last notice"
    assert len(told) < count
    raw.send(client_frame(TEXT, b'{"type":"ping","t":1}'))
    assert [frame["type"] for frame in await until(raw, "pong")] == ["pong"]
    await raw.leave()


async def test_one_who_speaks_and_reads_nothing_is_closed_in_time() -> None:
    shared = Shared(cast(Turns, None), lambda: ("gw-1.1", 5, 25.0, {}), lambda client: ended.set())
    ended = asyncio.Event()
    codes: list[tuple[int, str]] = []

    class Told(Client):
        __slots__ = ()

        def on_close(self, code: int, reason: str) -> None:
            codes.append((code, reason))
            super().on_close(code, reason)

    client = Told("u", "s", shared)

    async def accept(request: object) -> Accept:
        return Accept(client)

    limits = Limits(write_max=WRITE_MAX, so_sndbuf=16 * KIB, ping_s=0.2, pong_s=0.2, stuck_s=0.6, close_s=0.2)
    listener = await listen(accept, "127.0.0.1", 0, limits)
    raw = await Gateway(listener, [client], []).narrow()
    raw.send(client_frame(TEXT, HOSTILE) * 2_000)
    async with asyncio.timeout(10):
        await ended.wait()
    assert codes == [(4408, "reads too slowly")]
    raw.reset()
    listener.stop_accepting()
    await listener.wait_closed(0.5)

"""Our listener and clients that others wrote understand each other: the same conversation with each of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from ext.ws import Limits
from tests.peers.peers import PEERS, WITHIN_S, Peer
from tests.support.polling import eventually
from tests.support.websocket import Echo, Site

KIB = 1024

Open = Callable[..., Awaitable[tuple[Peer, Echo]]]


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    limits = Limits(message_bytes=1024 * KIB, write_max=4096 * KIB)
    site = await Site.start(Echo, limits, subprotocol="parley.v1")
    yield site
    await site.stop()


def name_of(kind: type[Peer]) -> str:
    return kind.name


@pytest.fixture(params=PEERS, ids=name_of)
async def peer(request: pytest.FixtureRequest, site: Site) -> AsyncIterator[Peer]:
    kind: type[Peer] = request.param
    async with asyncio.timeout(WITHIN_S), kind.open(site.listener.port, ["other", "parley.v1"]) as opened:
        yield opened


def handler_of(site: Site) -> Any:
    (handler,) = site.handlers
    return handler


async def test_subprotocol(peer: Peer, site: Site) -> None:
    assert peer.subprotocol == "parley.v1"
    assert handler_of(site).request.subprotocols == ("other", "parley.v1")


async def test_messages_come_back(peer: Peer) -> None:
    messages: list[str | bytes] = [
        "",
        b"",
        "short",
        b"\x00\xff",
        "é\N{GRINNING FACE}" * 30,
        bytes(range(256)) * 300,
        "x" * 125,
        b"y" * 126,
    ]
    for message in messages:
        await peer.send(message)
        assert await peer.receive() == message


async def test_many_messages_come_back_in_order(peer: Peer) -> None:
    for n in range(500):
        await peer.send(f"message {n}")
    assert [await peer.receive() for _ in range(500)] == [f"message {n}" for n in range(500)]


async def test_large_messages_come_back(peer: Peer) -> None:
    messages: list[str | bytes] = [bytes(range(256)) * (4 * KIB), "é" * (512 * KIB)]
    for message in messages:
        await peer.send(message)
        assert await peer.receive() == message


@pytest.mark.parametrize("peer", [kind for kind in PEERS if kind.fragments], ids=name_of, indirect=True)
async def test_fragments_are_joined(peer: Peer) -> None:
    await peer.send_fragments(["one, ", "", "zwölf, ", "\N{GRINNING FACE}"])
    assert await peer.receive() == "one, zwölf, \N{GRINNING FACE}"
    await peer.send_fragments([b"\x00" * 70_000, b"\xff"])
    assert await peer.receive() == b"\x00" * 70_000 + b"\xff"


async def test_pings_of_the_peer_are_answered(peer: Peer) -> None:
    for payload in (b"x", b"\xff" * 125):
        await peer.ping(payload)


async def test_our_pings_are_answered(peer: Peer, site: Site) -> None:
    handler = handler_of(site)
    receiving = asyncio.create_task(peer.receive())
    before = handler.connection.last_activity
    handler.connection.ping(b"alive?")
    await eventually(lambda: handler.connection.last_activity > before, what="a pong")
    handler.connection.send_text("thank you")
    assert await receiving == "thank you"


async def test_the_peer_closes(peer: Peer, site: Site) -> None:
    handler = handler_of(site)
    await peer.close(4001, "bye, ünd")
    assert (await peer.closed())[0] == 4001
    assert await handler.end() == (4001, "bye, ünd")
    await eventually(lambda: site.listener.connections == 0)


async def test_we_close(peer: Peer, site: Site) -> None:
    handler = handler_of(site)
    handler.connection.send_text("last words")
    handler.connection.close(4002, "go, ünd")
    assert await peer.receive() == "last words"
    assert await peer.closed() == (4002, "go, ünd")
    assert await handler.end() == (4002, "go, ünd")
    await eventually(lambda: site.listener.connections == 0)


async def test_we_drain(peer: Peer, site: Site) -> None:
    site.listener.stop_accepting()
    site.listener.close_all(1001, "draining")
    assert await peer.closed() == (1001, "draining")
    assert await site.listener.wait_closed(5)


async def test_text_that_is_not_utf8_is_1007(peer: Peer, site: Site) -> None:
    await peer.send_bad_text(b"fine \xed\xa0\x80")
    assert await peer.closed() == (1007, "text is not UTF-8")
    assert await handler_of(site).end() == (1007, "text is not UTF-8")


async def test_a_message_that_is_too_long_is_1009(peer: Peer, site: Site) -> None:
    await peer.send(bytes(1024 * KIB + 1))
    assert await peer.closed() == (1009, "message too long")
    assert await handler_of(site).end() == (1009, "message too long")

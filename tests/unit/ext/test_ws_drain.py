"""Leaving: nobody who was let in by the kernel is reset, everybody is told, and it ends in time."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from ext.ws import Accept, Limits, Listener, Refuse, Request, listen
from tests.support.polling import eventually
from tests.support.websocket import REQUEST, TEXT, Echo, RawClient, client_frame
from tests.unit.ext.conftest import StartSite

pytestmark = pytest.mark.usefixtures("quiet")


def dial_without_the_loop(port: int) -> socket.socket:
    """A connection that the kernel has completed and, as the loop did not run, nobody has accepted."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=5)
    sock.setblocking(False)
    return sock


async def client_of(sock: socket.socket) -> RawClient:
    return RawClient(*await asyncio.open_connection(sock=sock))


async def echo(request: Request) -> Accept | Refuse:
    return Accept(Echo())


async def ended(*listeners: Listener) -> None:
    for listener in listeners:
        listener.stop_accepting()
        assert await listener.wait_closed(5)


async def test_who_waits_in_the_queue_is_served_by_a_listener_that_leaves() -> None:
    leaving = await listen(echo, "127.0.0.1", 0)
    staying = await listen(echo, "127.0.0.1", leaving.port)
    waiting = [dial_without_the_loop(leaving.port) for _ in range(40)]
    leaving.stop_accepting()
    assert leaving.connections > 0, "the kernel spreads connections over both"
    later = [dial_without_the_loop(leaving.port) for _ in range(10)]
    clients = [await client_of(sock) for sock in (*waiting, *later)]
    for client in clients:
        client.send(REQUEST + client_frame(TEXT, b"here"))
        assert (await client.answer())[0] == 101
        assert await client.frame() == (TEXT, b"here")
    assert leaving.connections + staying.connections == 50
    for client in clients:
        client.reset()
    await ended(leaving, staying)


async def test_who_leaves_by_himself_is_waited_for(start_site: StartSite) -> None:
    site = await start_site()
    client = await site.open()
    site.listener.stop_accepting()
    assert not await site.listener.wait_left(0.05)
    client.send(client_frame(TEXT, b"still here"))
    assert await client.frame() == (TEXT, b"still here")
    waiting = asyncio.create_task(site.listener.wait_left(5))
    client.reset()
    assert await waiting


async def test_a_listener_that_left_is_not_there(start_site: StartSite) -> None:
    site = await start_site()
    client = await site.open()
    assert site.listener.accepting
    site.listener.stop_accepting()
    site.listener.stop_accepting()
    assert not site.listener.accepting
    with pytest.raises(ConnectionRefusedError):
        dial_without_the_loop(site.listener.port)
    client.send(client_frame(TEXT, b"still served"))
    assert await client.frame() == (TEXT, b"still served")


async def test_everybody_is_told(start_site: StartSite) -> None:
    site = await start_site()
    clients = [await site.open() for _ in range(300)]
    incomplete = await site.connect(REQUEST[:-1])
    await eventually(lambda: site.listener.connections == 301)
    site.listener.stop_accepting()
    site.listener.close_all(1001, "draining")
    for client in clients:
        assert (await client.frame())[1] == b"\x03\xe9draining"
        client.send(client_frame(8, b"\x03\xe9"))
    assert (await incomplete.answer())[0] == 503
    await incomplete.leave()
    assert await site.listener.wait_closed(5)
    assert {await handler.end() for handler in site.handlers} == {(1001, "draining")}


async def test_handshakes_of_a_draining_listener_are_told_503() -> None:
    asked: list[Request] = []

    async def never(request: Request) -> Accept | Refuse:
        asked.append(request)
        await asyncio.Event().wait()
        raise AssertionError

    listener = await listen(never, "127.0.0.1", 0, Limits(retry_after_s=3))
    authorising = await client_of(dial_without_the_loop(listener.port))
    authorising.send(REQUEST)
    await eventually(lambda: asked)
    queued = dial_without_the_loop(listener.port)
    listener.stop_accepting()
    listener.close_all()
    late = await client_of(queued)
    late.send(REQUEST)
    for client in (authorising, late):
        status, headers, _ = await client.answer()
        assert (status, headers["retry-after"]) == (503, "3")
        await client.leave()
    assert len(asked) == 1
    await ended(listener)


async def test_who_does_not_go_is_reset_at_the_deadline(start_site: StartSite) -> None:
    site = await start_site()
    silent, going = await site.open(), await site.open()
    site.listener.stop_accepting()
    site.listener.close_all(1001)
    assert await going.frame() == (8, b"\x03\xe9")
    going.send(client_frame(8, b"\x03\xe9"))
    assert await silent.frame() == (8, b"\x03\xe9")
    assert not await site.listener.wait_closed(0.1)
    assert site.listener.connections == 0
    with pytest.raises(ConnectionResetError):
        await silent.rest()
    assert [await handler.end() for handler in site.handlers] == [(1001, ""), (1001, "")]


async def test_nothing_to_wait_for_ends_at_once(start_site: StartSite) -> None:
    site = await start_site()
    client = await site.open()
    client.reset()
    await eventually(lambda: site.listener.connections == 0)
    site.listener.stop_accepting()
    assert await site.listener.wait_closed(0.01)


async def test_closing_all_refuses_codes_that_may_not_be_sent(start_site: StartSite) -> None:
    site = await start_site()
    client: Any = await site.open(client_frame(TEXT, b"unharmed"))
    with pytest.raises(ValueError, match="1006 may not be sent"):
        site.listener.close_all(1006)
    assert await client.frame() == (TEXT, b"unharmed")


async def test_closing_all_without_draining_lets_others_in(start_site: StartSite) -> None:
    site = await start_site()
    client = await site.open()
    site.listener.close_all(4000, "everybody out")
    assert (await client.frame())[1] == b"\x0f\xa0everybody out"
    await site.open()

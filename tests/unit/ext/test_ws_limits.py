"""Every limit and every deadline of the listener, at its edge."""

from __future__ import annotations

import asyncio
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from ext.ws import Accept, Limits, Listener, Refuse, Request, listen
from tests.support.polling import eventually
from tests.support.websocket import PING, PONG, REQUEST, TEXT, Echo, RawClient, Recorder, client_frame
from tests.unit.ext.conftest import StartSite

pytestmark = pytest.mark.usefixtures("quiet")


async def talk_for_ever(client: RawClient) -> None:
    while True:
        client.send(b"still here")
        await client.writer.drain()
        await asyncio.sleep(0)


async def refused(client: RawClient) -> tuple[int, dict[str, str]]:
    status, headers, _ = await client.answer()
    assert await client.rest() == b""
    client.writer.close()
    return status, headers


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (REQUEST.replace(b"GET", b"PUT"), 405),
        (REQUEST.replace(b"Version: 13", b"Version: 12"), 426),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (REQUEST[:-2] + b"X-A: b\r\n" * 9 + b"\r\n", 431),
        (b"GET /" + b"a" * 2000 + REQUEST[9:], 431),
        (b"X" * 2000, 431),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    ],
)
async def test_bad_handshakes_are_told_over_http(start_site: StartSite, data: bytes, status: int) -> None:
    site = await start_site(handshake_bytes=1000, headers=10)
    assert (await refused(await site.connect(data)))[0] == status
    assert site.handlers == []
    await eventually(lambda: site.listener.connections == 0)


async def test_handshake_of_exactly_the_limit(start_site: StartSite) -> None:
    site = await start_site(handshake_bytes=len(REQUEST), headers=5)
    await site.open()
    assert (await refused(await site.connect(REQUEST.replace(b"chat", b"chats"))))[0] == 431


@pytest.mark.parametrize("sent", [b"", REQUEST[:-1]], ids=["silent", "incomplete"])
async def test_slow_handshake_is_told_408(start_site: StartSite, sent: bytes) -> None:
    site = await start_site(handshake_s=0.1)
    assert (await refused(await site.connect(sent)))[0] == 408


async def test_client_that_ignores_its_refusal_is_reset(start_site: StartSite) -> None:
    site = await start_site(handshake_s=0.05, close_s=0.3)
    client = await site.connect()
    assert (await client.answer())[0] == 408
    await eventually(lambda: site.listener.connections == 0)
    with pytest.raises(ConnectionError):
        await talk_for_ever(client)


async def test_connections_above_the_limit_are_told_503(start_site: StartSite) -> None:
    site = await start_site(connections=2, refusals=1, retry_after_s=7)
    first = await site.open()
    await site.open()
    lingering = await site.connect()
    for client in (lingering, await site.connect()):
        status, headers, _ = await client.answer()
        assert (status, headers["retry-after"]) == (503, "7")
    assert site.listener.connections == 2
    first.reset()
    lingering.reset()
    await eventually(lambda: site.listener.connections == 1)
    await site.open(client_frame(TEXT, b"room again"))


async def test_who_is_closed_at_once_can_still_read_why(start_site: StartSite) -> None:
    site = await start_site(connections=1, refusals=0)
    await site.open()
    # Dialled and asked while the loop stands still: the request is there before the connection is accepted.
    clients = [socket.create_connection(("127.0.0.1", site.listener.port), timeout=5) for _ in range(20)]
    loop = asyncio.get_running_loop()
    for client in clients:
        client.send(REQUEST)
        client.setblocking(False)
    for client in clients:
        assert (await loop.sock_recv(client, 1000)).startswith(b"HTTP/1.1 503 ")
        assert await loop.sock_recv(client, 1000) == b""
        client.close()
    assert site.listener.connections == 1


async def test_handshakes_above_the_rate_are_told_when_to_come_back(start_site: StartSite) -> None:
    site = await start_site(handshakes_per_s=2.0, handshakes_at_once=3, retry_after_max_s=60)
    clients = [await site.connect(REQUEST) for _ in range(23)]
    answers = [await client.answer() for client in clients]
    told = [headers for status, headers, _ in answers if status == 503]
    assert [status for status, _, _ in answers[:3]] == [101] * 3
    assert 18 <= len(told) <= 20, "a busy machine may refill a place or two"
    assert [await client.rest() for client in clients[-3:]] == [b""] * 3
    waits = [int(headers["retry-after-ms"]) for headers in told]
    assert all(int(headers["retry-after"]) == -(-ms // 1000) for headers, ms in zip(told, waits, strict=True))
    assert all(place / 1.8 - 4 <= ms / 1000 <= place / 1.8 + 0.6 for place, ms in enumerate(waits, 1))
    assert site.listener.connections == 23 - len(told)


async def test_the_wait_for_the_answer_of_a_refused_client_is_bounded(start_site: StartSite) -> None:
    site = await start_site(handshakes_per_s=0.001, handshakes_at_once=1, close_s=0.3)
    await site.open()
    silent = await site.connect()
    assert (await silent.answer())[0] == 503
    with pytest.raises(ConnectionError):
        await talk_for_ever(silent)


async def test_files_kept_for_others_are_not_used(start_site: StartSite) -> None:
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    with socket.socket() as probe:
        site = await start_site(reserved_files=files - probe.fileno() - 8)
    clients = [await site.connect(REQUEST) for _ in range(12)]
    statuses = [(await client.answer())[0] for client in clients]
    assert set(statuses) == {101, 503}
    assert site.listener.connections == statuses.count(101)


async def test_no_room_for_files_is_told_at_once() -> None:
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    with pytest.raises(ValueError, match="leaves no room"):
        await listen(_never, "127.0.0.1", 0, Limits(reserved_files=files))


async def test_a_port_that_is_taken_is_told(start_site: StartSite) -> None:
    site = await start_site()
    with pytest.raises(OSError, match="in use"):
        await listen(_never, "127.0.0.1", site.listener.port, reuse_port=False)


async def _never(request: Request) -> Accept | Refuse:
    raise AssertionError("no connection is made here")


@contextmanager
def no_file_above(highest: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_out_of_files_everybody_is_told_and_nobody_is_harmed(start_site: StartSite) -> None:
    site = await start_site()
    old = await site.open()
    loop = asyncio.get_running_loop()
    clients = [socket.socket() for _ in range(20)]
    for client in clients:
        client.setblocking(False)
    with socket.socket() as probe:
        highest = probe.fileno()
    probe = socket.socket()
    with no_file_above(highest):
        for client in clients:
            await loop.sock_connect(client, ("127.0.0.1", site.listener.port))
            await loop.sock_sendall(client, REQUEST)
        for client in clients:
            assert (await loop.sock_recv(client, 1000)).startswith(b"HTTP/1.1 503 ")
            assert await loop.sock_recv(client, 1000) == b""
        assert site.listener.refused == len(clients)
        old.send(client_frame(TEXT, b"unharmed"))
        assert await old.frame() == (TEXT, b"unharmed")
    for sock in (*clients, probe):
        sock.close()
    await site.open()


async def test_without_any_file_it_pauses_and_goes_on(start_site: StartSite, caplog: pytest.LogCaptureFixture) -> None:
    site = await start_site()
    client = socket.socket()
    client.setblocking(False)
    with no_file_above(2):
        await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", site.listener.port))
        await eventually(lambda: len(caplog.records) >= 2, what="two pauses")
    assert len(caplog.records) < 20
    assert "accepting no connections" in caplog.records[0].getMessage()
    caplog.clear()
    await eventually(lambda: site.listener.connections == 1)
    client.close()
    await site.open()


async def test_silent_peer_is_pinged_then_dropped(start_site: StartSite) -> None:
    site = await start_site(ping_s=0.1, pong_s=0.1)
    client = await site.open()
    assert await client.frame() == (PING, b"")
    assert await client.closed() == (4408, "heartbeat missed")
    client.writer.close()
    assert await site.handlers[0].end() == (4408, "heartbeat missed")


async def test_any_sign_of_life_keeps_a_connection(start_site: StartSite) -> None:
    site = await start_site(ping_s=0.1, pong_s=0.3)
    client = await site.open()
    for sign in (client_frame(PONG), client_frame(TEXT, b"word"), client_frame(PONG, b"odd")):
        assert await client.frame() == (PING, b"")
        client.send(sign)
        if sign[0] & 15 == TEXT:
            assert await client.frame() == (TEXT, b"word")
    assert await client.frame() == (PING, b"")
    assert site.handlers[0].count("close") == 0


async def test_talking_peers_are_not_pinged(start_site: StartSite) -> None:
    site = await start_site(ping_s=0.6, pong_s=0.1)
    client = await site.open()
    loop = asyncio.get_running_loop()
    end = loop.time() + 1.0
    while loop.time() < end:
        client.send(client_frame(TEXT, b"word"))
        assert await client.frame() == (TEXT, b"word")
        await asyncio.sleep(0.02)  # talks more often than pings are due


@pytest.mark.parametrize("between", [b"", client_frame(PONG), client_frame(PING)], ids=["nothing", "pong", "ping"])
async def test_message_that_never_ends_is_dropped(start_site: StartSite, between: bytes) -> None:
    site = await start_site(ping_s=0.04, pong_s=1.0, message_s=0.2, fragments=1_000_000)
    client = await site.open(client_frame(TEXT, fin=False))

    async def drip() -> None:
        while True:
            client.send(client_frame(0, b"x", fin=False) + between)
            await asyncio.sleep(0.01)  # a slow writer, too slow for message_s

    dripping = asyncio.create_task(drip())
    async with asyncio.timeout(10):
        while (frame := await client.frame())[0] in (PING, PONG):
            pass
    assert frame == (8, b"\x11\x38message takes too long")
    dripping.cancel()
    client.reset()
    assert (await site.handlers[0].end())[0] == 4408


async def test_silent_close_partner_is_reset(start_site: StartSite) -> None:
    site = await start_site(close_s=0.3)
    client = await site.open()
    site.handlers[0].connection.close(4000, "bye")
    assert (await client.frame())[0] == 8
    assert await site.handlers[0].end() == (4000, "bye")
    with pytest.raises(ConnectionResetError):
        await client.rest()


async def test_abort_resets(start_site: StartSite) -> None:
    site = await start_site()
    client = await site.open()
    site.handlers[0].connection.send_text("lost")
    site.handlers[0].connection.abort()
    assert await site.handlers[0].end() == (1006, "")
    with pytest.raises(ConnectionResetError):
        await client.rest()


@pytest.mark.parametrize(
    "wrong",
    [
        {"message_bytes": 0},
        {"ping_s": -1},
        {"connections": 0},
        {"write_low": 10, "write_high": 10},
        {"write_high": 10, "write_low": 1, "write_max": 9},
        {"write_low": -1},
        {"handshakes_per_s": -1.0},
        {"ping_s": float("nan")},
        {"frames_per_s": float("nan")},
        {"handshakes_per_s": float("inf")},
        {"bytes_per_s": 1.0, "bytes_at_once": 131_071},
    ],
)
def test_impossible_limits_are_told(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"of Limits must|Limits needs"):
        Limits(**wrong)


class Gate:
    """An accept callback that waits to be told its answer."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.cancelled = 0
        self.answer: asyncio.Future[Accept | Refuse] = asyncio.get_running_loop().create_future()

    async def __call__(self, request: Request) -> Accept | Refuse:
        self.requests.append(request)
        try:
            return await asyncio.shield(self.answer)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


async def gated(**limits: Any) -> tuple[Gate, Listener]:
    gate = Gate()
    return gate, await listen(gate, "127.0.0.1", 0, Limits(**limits))


async def dial(listener: Listener, data: bytes) -> RawClient:
    client = RawClient(*await asyncio.open_connection("127.0.0.1", listener.port))
    client.send(data)
    return client


async def finish(listener: Listener, *clients: RawClient) -> None:
    for client in clients:
        client.reset()
    listener.stop_accepting()
    assert await listener.wait_closed(5)


async def test_slow_accept_is_cancelled_and_told_503() -> None:
    gate, listener = await gated(handshake_s=0.3)
    client = await dial(listener, REQUEST)
    status, headers = await refused(client)
    assert (status, headers["retry-after"]) == (503, "2")
    assert gate.cancelled == 1
    await finish(listener)


async def test_accept_is_cancelled_when_the_peer_leaves() -> None:
    gate, listener = await gated()
    client = await dial(listener, REQUEST)
    await eventually(lambda: gate.requests)
    client.reset()
    await eventually(lambda: gate.cancelled == 1)
    await eventually(lambda: listener.connections == 0)
    await finish(listener)


async def test_accepts_at_once_are_bounded() -> None:
    gate, listener = await gated(authorising=1)
    waiting = await dial(listener, REQUEST)
    await eventually(lambda: gate.requests)
    assert (await refused(await dial(listener, REQUEST)))[0] == 503
    gate.answer.set_result(Refuse(401))
    assert (await refused(waiting))[0] == 401
    await finish(listener)


async def test_data_before_the_answer_is_kept_within_the_frame_limit() -> None:
    gate, listener = await gated(message_bytes=1000)
    handler = Echo()
    patient = await dial(listener, REQUEST)
    await eventually(lambda: gate.requests)
    patient.send(client_frame(TEXT, b"x" * 1000))
    flooding = await dial(listener, REQUEST)
    await eventually(lambda: len(gate.requests) == 2)
    flooding.send(client_frame(TEXT, b"x" * 1100))
    assert (await refused(flooding))[0] == 400
    gate.answer.set_result(Accept(handler))
    assert (await patient.answer())[0] == 101
    assert await patient.frame() == (TEXT, b"x" * 1000)
    await finish(listener, patient)


async def test_a_handler_whose_peer_left_is_told_once() -> None:
    handler = Recorder()
    arrived = asyncio.Event()

    async def stubborn(request: Request) -> Accept | Refuse:
        arrived.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return Accept(handler)
        raise AssertionError

    listener = await listen(stubborn, "127.0.0.1", 0)
    client = await dial(listener, REQUEST)
    await arrived.wait()
    client.reset()
    assert await handler.end() == (1006, "")
    assert handler.calls == [("close", 1006, "")]
    await finish(listener)

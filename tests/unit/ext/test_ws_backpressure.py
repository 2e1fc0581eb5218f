"""Peers that read slowly or not at all: what they cost is bounded, in this process and in the kernel."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator

import pytest

from tests.support.polling import eventually
from tests.support.websocket import BINARY, CLOSE, PING, PONG, REQUEST, TEXT, RawClient, Recorder, Site, client_frame
from tests.unit.ext.conftest import StartSite

pytestmark = pytest.mark.usefixtures("quiet")

KIB = 1024
PIECE = bytes(KIB)
ON_THE_WIRE = len(PIECE) + 4


async def open_narrow(site: Site) -> RawClient:
    """An open WebSocket whose client takes little into its kernel, and nothing further until it is read."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * KIB)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", site.listener.port))
    client = RawClient(*await asyncio.open_connection(sock=sock, limit=2 * KIB))
    site.clients.append(client)
    client.send(REQUEST)
    assert (await client.answer())[0] == 101
    return client


class Sender(Recorder):
    """Sends pieces whenever it may, up to `most`; `sent` counts them."""

    most = 100_000

    def __init__(self) -> None:
        super().__init__()
        self.sent = 0
        self.paused = asyncio.Event()

    def start(self) -> None:
        assert self.connection is not None
        while not self.paused.is_set() and self.sent < self.most:
            self.connection.send_binary(PIECE)
            self.sent += 1

    def pause_writing(self) -> None:
        super().pause_writing()
        self.paused.set()

    def resume_writing(self) -> None:
        super().resume_writing()
        self.paused.clear()
        self.start()


class Patient(Sender):
    """Sends until it is told to pause, and not again."""

    def resume_writing(self) -> None:
        Recorder.resume_writing(self)


class Deaf(Sender):
    """Sends on whether it is told to pause or not."""

    def start(self) -> None:
        assert self.connection is not None
        while not self.connection.closing and self.sent < self.most:
            self.connection.send_binary(PIECE)
            self.sent += 1


async def frames_of(client: RawClient, pause_s: float = 0.0) -> AsyncIterator[tuple[int, bytes]]:
    while True:
        yield await client.frame()
        await asyncio.sleep(pause_s)  # a slow reader's own time


async def test_a_slow_reader_is_waited_for_and_gets_everything(start_site: StartSite) -> None:
    class Brief(Sender):
        most = 1000

    site = await start_site(Brief)
    client = await open_narrow(site)
    sender = site.handlers[0]
    sender.start()
    assert sender.sent < 1000
    for _ in range(1000):
        assert await client.frame() == (BINARY, PIECE)
    assert sender.sent == 1000
    turns = [call[0] for call in sender.calls if call[0] in ("pause", "resume")]
    assert turns == ["pause", "resume"] * (len(turns) // 2)
    assert len(turns) > 2
    await eventually(lambda: sender.connection.buffered == 0)


async def test_what_waits_for_a_silent_reader_is_small(start_site: StartSite) -> None:
    site = await start_site(Patient, write_high=32 * KIB, write_low=8 * KIB)
    await open_narrow(site)
    sender = site.handlers[0]
    sender.start()
    # What the transport has is at most the mark; then comes the one write that passed it.
    assert sender.connection.buffered <= 2 * 32 * KIB + ON_THE_WIRE
    # Whatever the kernel takes of it now has left the process: SO_SNDBUF, the peer's buffer, nothing else.
    in_kernel = sender.sent * ON_THE_WIRE - sender.connection.buffered
    assert 0 < in_kernel <= 128 * KIB


async def test_who_ignores_the_pause_is_dropped(start_site: StartSite) -> None:
    site = await start_site(Deaf, write_high=16 * KIB, write_low=KIB, write_max=64 * KIB)
    client = await open_narrow(site)
    sender = site.handlers[0]
    sender.start()
    assert sender.connection.closing
    assert sender.sent * ON_THE_WIRE < 64 * KIB + 128 * KIB + 16 * KIB
    assert await sender.end() == (4408, "reads too slowly")
    with pytest.raises(ConnectionResetError):
        await client.rest()


async def test_who_pings_and_reads_nothing_is_owed_one_pong(start_site: StartSite) -> None:
    site = await start_site(Patient)
    client = await open_narrow(site)
    sender = site.handlers[0]
    sender.start()
    before = sender.connection.buffered
    since = sender.connection.last_activity
    client.send(b"".join(client_frame(PING, b"%d" % n) for n in range(5000)) + client_frame(TEXT, b"seen"))
    await eventually(lambda: sender.count("text") == 1)
    assert sender.connection.last_activity > since
    assert sender.connection.buffered <= before
    async for frame in frames_of(client):
        if frame != (BINARY, PIECE):
            assert frame == (PONG, b"4999")
            break


async def test_a_silent_reader_is_dropped_by_the_heartbeat(start_site: StartSite) -> None:
    site = await start_site(Patient, ping_s=0.1, pong_s=0.1, close_s=0.1)
    client = await open_narrow(site)
    site.handlers[0].start()
    assert await site.handlers[0].end() == (4408, "heartbeat missed")
    with pytest.raises(ConnectionResetError):
        await client.rest()


async def test_a_slow_reader_is_not_dropped_by_the_heartbeat(start_site: StartSite) -> None:
    site = await start_site(Patient, ping_s=0.1, pong_s=0.6, write_high=256 * KIB, write_low=0)
    client = await open_narrow(site)
    site.handlers[0].start()
    loop = asyncio.get_running_loop()
    end = loop.time() + 1.5
    async for frame in frames_of(client, 0.01):
        assert frame == (BINARY, PIECE)
        if loop.time() > end:
            break
    assert site.handlers[0].count("resume") == 0, "the reader was slow enough to show anything"
    assert not site.handlers[0].connection.closing


async def test_a_reader_that_never_catches_up_is_dropped_though_it_reads(start_site: StartSite) -> None:
    limits = {"ping_s": 0.1, "pong_s": 5.0, "stuck_s": 0.5, "close_s": 0.1}
    site = await start_site(Patient, write_high=256 * KIB, write_low=0, **limits)
    client = await open_narrow(site)
    sender = site.handlers[0]
    loop = asyncio.get_running_loop()
    sender.start()
    began = loop.time()

    async def read_on() -> None:
        async for frame in frames_of(client, 0.01):
            assert frame == (BINARY, PIECE)

    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        await read_on()
    assert 0.5 <= loop.time() - began < 4.0, "its time is counted from the pause; no silence of 5 s was waited for"
    assert await sender.end() == (4408, "reads too slowly")


async def test_a_reader_that_catches_up_in_time_begins_anew(start_site: StartSite) -> None:
    site = await start_site(Sender, ping_s=0.05, pong_s=5.0, stuck_s=1.0, write_high=32 * KIB, write_low=8 * KIB)
    client = await open_narrow(site)
    sender = site.handlers[0]
    sender.start()
    loop = asyncio.get_running_loop()
    end = loop.time() + 2.0
    while loop.time() < end:
        opcode, payload = await client.frame()
        assert opcode == PING or (opcode, payload) == (BINARY, PIECE)  # a machine that is busy makes us late to read
    assert sender.count("resume") > 3
    assert not sender.connection.closing


async def test_a_half_closed_peer_that_reads_nothing_is_reset(start_site: StartSite) -> None:
    site = await start_site(Patient, close_s=0.1)
    client = await open_narrow(site)
    site.handlers[0].start()
    client.writer.write_eof()
    assert await site.handlers[0].end() == (1006, "")
    with pytest.raises(ConnectionResetError):
        await client.rest()


async def test_a_close_that_is_not_read_is_reset(start_site: StartSite) -> None:
    site = await start_site(Patient, close_s=0.1)
    client = await open_narrow(site)
    site.handlers[0].start()
    client.send(client_frame(CLOSE, b"\x03\xe8"))
    assert await site.handlers[0].end() == (1000, "")
    with pytest.raises(ConnectionResetError):
        await client.rest()


async def test_reading_can_be_paused(start_site: StartSite) -> None:
    site = await start_site(Recorder, ping_s=0.2, pong_s=0.2)
    client = await site.open(client_frame(TEXT, b"0"))
    handler = site.handlers[0]
    await eventually(lambda: handler.count("text") == 1)
    handler.connection.pause_reading()
    handler.connection.pause_reading()
    for n in itertools.count(1):
        client.send(client_frame(TEXT, b"%d" % n))
        # Until the heartbeat would have dropped a silent peer several times over.
        if (await client.frame()) == (PING, b"") and n == 3:
            break
    assert handler.count("text") == 1
    handler.connection.resume_reading()
    await eventually(lambda: handler.count("text") == 4)
    assert [call[1] for call in handler.calls if call[0] == "text"] == [str(n) for n in range(4)]

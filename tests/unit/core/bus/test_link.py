"""The connection to NATS under faults of a real server."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from nats.aio.msg import Msg

from core.bus import link as link_module
from core.bus.link import Bounds, Link
from core.bus.nats import NatsBus
from core.errors import Unavailable
from core.events import CancelRun, EdgeMessage, Taken
from tests.support.child import free_port
from tests.support.nats import NatsServer
from tests.support.polling import eventually

ROOMY = Bounds(10_000, 1024 * 1024)

Open = Callable[[str], Awaitable[Link]]


@pytest.fixture
async def open_link(nats_server: NatsServer) -> AsyncIterator[Open]:
    async with contextlib.AsyncExitStack() as stack:

        async def make(name: str) -> Link:
            link = await Link.open([nats_server.url], name)
            stack.push_async_callback(link.close)
            return link

        yield make
        nats_server.thaw()
        nats_server.start()


@pytest.fixture(autouse=True)
async def no_task_left() -> AsyncIterator[None]:
    yield
    await eventually(lambda: len(asyncio.all_tasks()) == 1, 3.0)


async def test_no_server_is_told_within_the_timeout() -> None:
    start = time.monotonic()
    with pytest.raises(Unavailable, match="no NATS server answered"):
        await Link.open([f"nats://127.0.0.1:{free_port()}"], "x", timeout_s=0.3)
    assert time.monotonic() - start < 1.0


async def test_a_server_that_says_nothing_is_not_waited_for() -> None:
    silent = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    async with silent:
        port = silent.sockets[0].getsockname()[1]
        start = time.monotonic()
        with pytest.raises(Unavailable):
            await Link.open([f"nats://127.0.0.1:{port}"], "x", timeout_s=0.3)
        assert time.monotonic() - start < 2.0


async def test_a_restart_is_told_and_outlived(nats_server: NatsServer, open_link: Open) -> None:
    gateway, router = NatsBus(await open_link("gateway")), NatsBus(await open_link("router"))
    got: list[EdgeMessage] = []
    runs: list[object] = []
    states: list[bool] = []
    gateway.on_state(states.append)
    await gateway.serve_edge("gw", got.extend, lambda _: None)
    await router.serve_run("gen_1", runs.append)
    gone = await router.serve_run("gen_2", runs.append)

    nats_server.kill()
    await eventually(lambda: not gateway.connected and not router.connected, 1.0)
    with pytest.raises(Unavailable):
        await router.to_edge("gw", [Taken("lost", 0, "run", "rt")])
    with pytest.raises(Unavailable):
        await router.serve_run("gen_3", runs.append)
    with pytest.raises(Unavailable):
        await router.round_trip(1.0)
    await gone.stop()

    nats_server.start()
    back = time.monotonic()
    await eventually(lambda: gateway.connected and router.connected, 2.0)
    assert time.monotonic() - back < 1.0
    assert states == [False, True]
    await router.to_edge("gw", [Taken("gen_1", 0, "run", "rt")])
    await gateway.to_run("gen_2", CancelRun("gen_2"))
    await gateway.to_run("gen_1", CancelRun("gen_1"))
    await eventually(lambda: got and runs)
    assert got == [Taken("gen_1", 0, "run", "rt")]
    assert runs == [CancelRun("gen_1")]


async def test_a_short_silence_breaks_a_round_trip_but_not_the_connection(
    nats_server: NatsServer, open_link: Open
) -> None:
    link = await open_link("x")
    states: list[bool] = []
    link.on_state(states.append)
    nats_server.freeze()
    start = time.monotonic()
    with pytest.raises(Unavailable):
        await link.round_trip(0.2)
    assert time.monotonic() - start < 0.5
    nats_server.thaw()
    assert await link.round_trip(2.0) < 2.0
    assert await link.round_trip(2.0) < 0.5
    assert states == []


async def test_a_silent_server_is_given_up_and_its_full_buffer_refused(
    nats_server: NatsServer, open_link: Open
) -> None:
    link, other = await open_link("x"), await open_link("y")
    got: list[Msg] = []
    await other.subscribe("news", got.append, ROOMY)
    nats_server.freeze()
    start = time.monotonic()
    taken: list[int] = []
    with pytest.raises(Unavailable, match="buffer is full"):
        await flood(link, taken)
    assert sum(taken) < 4 * link_module.MAX_PENDING_BYTES
    await eventually(lambda: not link.connected and not other.connected, 5.0)
    assert time.monotonic() - start < 4.0
    nats_server.thaw()
    await eventually(lambda: link.connected and other.connected, 5.0)
    await link.publish("news", b"again")
    await eventually(lambda: [message.data for message in got] == [b"again"])


async def test_closing_against_a_silent_server_is_bounded(nats_server: NatsServer, open_link: Open) -> None:
    link = await open_link("x")
    for _ in range(24):
        await link.publish("bulk", b"x" * 256 * 1024)
    nats_server.freeze()
    start = time.monotonic()
    await link.close()
    assert time.monotonic() - start < link_module.CLOSE_S + link_module.DISCARD_S + 1.0


async def test_an_error_from_the_server_ends_in_a_new_connection(nats_server: NatsServer) -> None:
    """The client library closes itself for good when it reads `-ERR`; the link does not."""
    proxy = Proxy(nats_server.port)
    async with proxy.serving() as url:
        link = await Link.open([url], "x")
        states: list[bool] = []
        got: list[Msg] = []
        link.on_state(states.append)
        await link.subscribe("news", got.append, ROOMY)
        proxy.say(b"-ERR 'Maximum Subscriptions Exceeded'\r\n")
        await eventually(lambda: states == [False, True], 2.0)
        await link.publish("news", b"again")
        await eventually(lambda: len(got) == 1)
        await link.close()


async def test_subscriptions_of_one_loop_turn_share_a_round_trip(open_link: Open) -> None:
    link, watcher = await open_link("x"), await open_link("y")
    echoes: list[Msg] = []
    await watcher.subscribe(f"{link.inbox}.*", echoes.append, ROOMY)
    await asyncio.gather(*(link.subscribe(f"run.{i}", lambda _: None, ROOMY) for i in range(200)))
    await watcher.round_trip(2.0)
    assert 1 <= len(echoes) <= 3


async def test_too_many_messages_for_a_callback_are_dropped_and_counted(
    open_link: Open, caplog: pytest.LogCaptureFixture
) -> None:
    link, sender = await open_link("x"), await open_link("y")
    got: list[Msg] = []
    await link.subscribe("flood", got.append, Bounds(10, 1024 * 1024))
    with caplog.at_level(logging.WARNING):
        for _ in range(2_000):
            await sender.publish("flood", b"x")
        await sender.round_trip(2.0)
        await link.round_trip(2.0)
    await eventually(lambda: len(got) + link.slow_drops == 2_000)
    assert link.slow_drops > 0
    assert 0 < len([record for record in caplog.records if "too slow" in record.message]) <= 3
    await sender.publish("flood", b"last")
    await eventually(lambda: got[-1].data == b"last")


async def test_a_malformed_payload_is_dropped_and_counted(open_link: Open) -> None:
    link = await open_link("x")
    bus = NatsBus(link)
    got: list[object] = []
    await bus.serve_run("gen_1", got.append)
    for payload in (b"", b"\xc1", b"\x91\xa4Nope", b"\x92\xa9CancelRun\x07"):
        await link.publish("run.gen_1", payload)
    await bus.to_run("gen_1", CancelRun("gen_1"))
    await eventually(lambda: got)
    assert got == [CancelRun("gen_1")]
    assert bus.malformed == 4


async def test_cancelling_a_subscriber_leaves_no_subscription(nats_server: NatsServer, open_link: Open) -> None:
    link, sender = await open_link("x"), await open_link("y")
    got: list[Msg] = []
    nats_server.freeze()
    waiting = asyncio.create_task(link.subscribe("news", got.append, ROOMY))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    nats_server.thaw()
    await link.round_trip(2.0)
    await sender.publish("news", b"x")
    await sender.round_trip(2.0)
    await link.round_trip(2.0)
    assert got == []


async def flood(link: Link, taken: list[int]) -> None:
    """Publishes until it is refused; `taken` gets the bytes of each message that was not."""
    block = b"x" * 256 * 1024
    while True:
        for _ in range(8):
            await link.publish("bulk", block)
            taken.append(len(block))
        await asyncio.sleep(0)


class Proxy:
    """Passes bytes to a server on loopback and can say something to its clients in the server's name."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._clients: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        async with server:
            yield f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            for task in self._tasks:
                task.cancel()
            for client in self._clients:
                client.close()

    def say(self, data: bytes) -> None:
        for client in self._clients:
            client.write(data)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._clients.add(writer)
        for source, target in ((reader, far_writer), (far_reader, writer)):
            self._tasks.add(asyncio.create_task(_copy(source, target)))


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, asyncio.CancelledError):
        while data := await source.read(65_536):
            target.write(data)
            await target.drain()
    target.close()

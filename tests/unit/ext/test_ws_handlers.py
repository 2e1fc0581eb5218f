"""What a handler and an accept callback may do, and what their mistakes do: one connection ends, and it is logged."""

from __future__ import annotations

import asyncio
import gc
import socket
import weakref
from collections.abc import Awaitable
from typing import Any

import pytest

from ext.ws import Accept, Connection, Limits, Listener, Refuse, Request, listen
from ext.ws_frames import encode_frame
from tests.support.polling import eventually
from tests.support.websocket import BINARY, CLOSE, REQUEST, TEXT, Echo, RawClient, Recorder, client_frame, close_body
from tests.unit.ext.conftest import StartSite

OFFER = REQUEST[:-2] + b"Sec-WebSocket-Protocol: one, two\r\nSec-WebSocket-Protocol: ,three\r\n\r\n"


def failing(method: str) -> type[Recorder]:
    """A handler that fails in `method`, after writing the call down."""

    def fail(self: Any, *args: Any) -> None:
        getattr(Echo, method)(self, *args)
        raise RuntimeError(f"broken {method}")

    return type("Failing", (Echo,), {method: fail})


def failures(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [str(record.exc_info[1]) for record in caplog.records if record.exc_info and record.name == "ext.ws"]


@pytest.mark.parametrize(
    ("method", "frames"),
    [
        ("on_open", b""),
        ("on_text", client_frame(TEXT, b"once") + client_frame(TEXT, b"twice")),
        ("on_binary", client_frame(BINARY, b"once") + client_frame(BINARY, b"twice")),
    ],
)
async def test_a_handler_that_fails_closes_its_connection(
    start_site: StartSite, caplog: pytest.LogCaptureFixture, method: str, frames: bytes
) -> None:
    site = await start_site(failing(method))
    client = await site.open(frames)
    while (frame := await client.frame())[0] != 8:
        assert frame[1] == b"once"
    assert frame[1] == b"\x03\xf3internal error"
    await client.leave()
    assert await site.handlers[0].end() == (1011, "internal error")
    assert site.handlers[0].count(method.removeprefix("on_")) == 1
    assert failures(caplog) == [f"broken {method}"]


@pytest.mark.parametrize("method", ["pause_writing", "resume_writing"])
async def test_a_handler_that_fails_under_back_pressure(
    start_site: StartSite, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    site = await start_site(failing(method), write_high=1000, write_low=0, write_max=10_000_000)
    client = await site.open()
    site.handlers[0].connection.send_binary(bytes(1_000_000))
    assert await client.frame() == (BINARY, bytes(1_000_000))
    assert await client.closed() == (1011, "internal error")
    await client.leave()
    assert await site.handlers[0].end() == (1011, "internal error")
    assert failures(caplog) == [f"broken {method}"]


async def test_a_failure_in_on_close_is_logged(start_site: StartSite, caplog: pytest.LogCaptureFixture) -> None:
    site = await start_site(failing("on_close"))
    (await site.open()).reset()
    await site.handlers[0].end()
    await eventually(lambda: site.listener.connections == 0)
    assert failures(caplog) == ["broken on_close"]


async def test_a_handler_may_end_its_connection_at_once(start_site: StartSite) -> None:
    class Curt(Echo):
        def on_open(self, connection: Connection) -> None:
            super().on_open(connection)
            connection.send_text("no")
            connection.close(4403, "not you")

    class Rude(Echo):
        def on_text(self, message: str) -> None:
            super().on_text(message)
            assert self.connection is not None
            self.connection.abort()

    curt = await start_site(Curt)
    client = await curt.connect(REQUEST + client_frame(TEXT, b"early"))
    assert (await client.answer())[0] == 101
    assert await client.frame() == (TEXT, b"no")
    assert (await client.frame())[1] == b"\x11\x33not you"
    await client.leave()
    assert await curt.handlers[0].end() == (4403, "not you")
    assert curt.handlers[0].count("text") == 0

    rude = await start_site(Rude)
    client = await rude.open(client_frame(TEXT, b"a") + client_frame(TEXT, b"b") + client_frame(8))
    with pytest.raises(ConnectionResetError):
        await client.rest()
    await rude.handlers[0].end()
    assert rude.handlers[0].count("text") == 1


async def test_the_request_is_there_in_on_open_only(start_site: StartSite) -> None:
    site = await start_site()
    client = await site.connect(OFFER.replace(b"Host", b"Authorization: Bearer secret\r\nHost"))
    assert (await client.answer())[0] == 101
    request = site.handlers[0].request
    assert (request.path, request.query, request.subprotocols) == ("/chat", "room=1", ("one", "two", "three"))
    assert request.headers["host"] == "localhost"
    assert request.peer == client.writer.get_extra_info("sockname")
    assert site.handlers[0].connection.request is None
    assert "secret" not in repr(request)
    assert "room" not in repr(request)


async def start(answer: Any, at_once: bool = False) -> tuple[Listener, RawClient]:
    """A listener whose accept callback answers or raises `answer`, and a client that has offered three subprotocols.
    `at_once`: the callback is a plain function.
    """

    def decide(request: Request) -> Accept | Refuse:
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def accept(request: Request) -> Accept | Refuse:
        return decide(request)

    listener = await listen(decide if at_once else accept, "127.0.0.1", 0)
    client = RawClient(*await asyncio.open_connection("127.0.0.1", listener.port))
    client.send(OFFER)
    return listener, client


async def stop(listener: Listener, client: RawClient) -> None:
    await client.leave()
    listener.stop_accepting()
    assert await listener.wait_closed(5)


@pytest.mark.parametrize("at_once", [False, True])
async def test_an_answer_is_sent_as_it_is_given(at_once: bool) -> None:
    listener, client = await start(Accept(Recorder(), "two", (("Set-Cookie", "a=b"),)), at_once)
    status, headers, _ = await client.answer()
    assert (status, headers["sec-websocket-protocol"], headers["set-cookie"]) == (101, "two", "a=b")
    assert "sec-websocket-extensions" not in headers
    client.reset()
    await stop(listener, client)
    listener, client = await start(Refuse(401, (("WWW-Authenticate", "Bearer"),), b"who are you?"), at_once)
    status, headers, body = await client.answer()
    assert (status, headers["www-authenticate"], body) == (401, "Bearer", b"who are you?")
    assert headers["connection"] == "close"
    await stop(listener, client)


async def test_what_was_encoded_before_goes_out_in_its_turn(start_site: StartSite) -> None:
    site = await start_site()
    client = await site.open()
    connection = site.handlers[0].connection
    connection.send_text("one")
    connection.send_encoded(encode_frame(TEXT, b"two") + encode_frame(BINARY, b"three"))
    connection.send_encoded(b"")
    connection.send_text("four")
    told = [await client.frame() for _ in range(4)]
    assert told == [(TEXT, b"one"), (TEXT, b"two"), (BINARY, b"three"), (TEXT, b"four")]
    connection.close()
    connection.send_encoded(encode_frame(TEXT, b"late"))
    client.send(client_frame(CLOSE, close_body(1000)))
    assert (await client.closed())[0] == 1000


async def test_who_is_answered_at_once_costs_no_task() -> None:
    tasks: list[object] = []

    def accept(request: Request) -> Accept | Refuse:
        tasks.append(asyncio.current_task())
        return Accept(Recorder())

    listener = await listen(accept, "127.0.0.1", 0)
    client = RawClient(*await asyncio.open_connection("127.0.0.1", listener.port))
    client.send(OFFER + client_frame(CLOSE, close_body(1000)))
    assert (await client.answer())[0] == 101
    assert (await client.closed())[0] == 1000
    await stop(listener, client)
    assert tasks == [None]


async def test_who_is_dropped_before_its_task_ran_leaves_nothing_behind() -> None:
    asked: list[Request] = []

    async def answer() -> Accept:
        return Accept(Recorder())

    def accept(request: Request) -> Awaitable[Accept | Refuse]:
        asked.append(request)
        # The listener closes before the task that awaits this has had its first step.
        loop.call_soon(listener.close_all, 1001, "")
        return answer()

    loop = asyncio.get_running_loop()
    listener = await listen(accept, "127.0.0.1", 0)
    client = RawClient(*await asyncio.open_connection("127.0.0.1", listener.port))
    client.send(OFFER)
    assert (await client.answer())[0] == 503
    await stop(listener, client)
    gc.collect()
    assert len(asked) == 1, "and no coroutine was reported as never awaited"


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (RuntimeError("no database"), "no database"),
        (None, "accept returned NoneType, not Accept or Refuse"),
        (Accept(Recorder(), "four"), "subprotocol 'four' was not offered"),
        (Accept(Recorder(), None, (("X-A", "1\r\nX-B: 2"),)), "header 'X-A' cannot be sent"),
        (Refuse(200), "a handshake cannot be refused with status 200"),
    ],
)
async def test_an_answer_that_cannot_be_sent_is_500(
    caplog: pytest.LogCaptureFixture, answer: object, told: str, at_once: bool
) -> None:
    if isinstance(answer, Accept):
        # Each run has its own handler: the parameters are made once.
        answer = Accept(Recorder(), answer.subprotocol, answer.headers)
    listener, client = await start(answer, at_once)
    status, _, body = await client.answer()
    assert (status, body) == (500, b"")
    await stop(listener, client)
    assert failures(caplog) == [told]
    if isinstance(answer, Accept):
        assert isinstance(answer.handler, Recorder)
        assert answer.handler.calls == [("close", 1006, "")]


async def test_nothing_keeps_a_connection_that_has_gone(start_site: StartSite) -> None:
    site = await start_site()
    client = await site.open(client_frame(TEXT, b"whole") + client_frame(TEXT, b"half")[:-1])
    assert await client.frame() == (TEXT, b"whole")
    kept = weakref.ref(site.handlers[0])
    client.reset()
    await eventually(lambda: site.listener.connections == 0)
    site.handlers.clear()
    gc.collect()
    assert kept() is None


def timers() -> int:
    return sum(type(found).__name__ == "TimerHandle" and not found.cancelled() for found in gc.get_objects())


async def test_idle_connections_have_no_task_and_no_timer(start_site: StartSite) -> None:
    site = await start_site()
    clients = [await site.open()]
    tasks, armed = len(asyncio.all_tasks()), timers()
    clients += [await site.open() for _ in range(50)]
    await eventually(lambda: len(asyncio.all_tasks()) == tasks)
    gc.collect()
    assert timers() <= armed + 2, "the wheel's own, and a poller's"


async def test_connections_take_no_delay_and_small_buffers() -> None:
    limits = Limits(so_sndbuf=20_000, notsent_lowat=5000)
    seen: list[tuple[int, ...]] = []

    class Loop:
        """The running loop, looked at where it is given an accepted socket."""

        def __getattr__(self, name: str) -> Any:
            return getattr(asyncio.get_running_loop(), name)

        async def connect_accepted_socket(self, factory: Any, sock: socket.socket) -> Any:
            tcp = (socket.TCP_NODELAY, socket.TCP_NOTSENT_LOWAT)
            seen.append(
                (
                    sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF),
                    *(sock.getsockopt(socket.IPPROTO_TCP, option) for option in tcp),
                )
            )
            return await asyncio.get_running_loop().connect_accepted_socket(factory, sock)

    async def accept(request: Request) -> Accept | Refuse:
        return Refuse(403)

    loop: Any = Loop()
    listener = await listen(accept, "127.0.0.1", 0, limits, loop=loop)
    client = RawClient(*await asyncio.open_connection("127.0.0.1", listener.port))
    client.send(REQUEST)
    assert (await client.answer())[0] == 403
    await stop(listener, client)
    assert seen == [(40_000, 1, 5000)]

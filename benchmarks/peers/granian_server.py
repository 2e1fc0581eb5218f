"""Granian's own WebSockets: one worker, uvloop, HTTP/1. `backpressure` is how many connections it serves at once, so
it is above what is opened here; it offers no setting for buffers, compression or pings.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from granian import Granian
from granian.constants import HTTPModes, Interfaces, Loops
from granian.rsgi import Scope, WebsocketMessageType

from benchmarks.peers.common import BACKLOG, HOST, command, send_steps

CONNECTIONS = 32_768

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]

texts: set[Callable[[str], Awaitable[None]]] = set()


async def asgi(scope: Message, receive: Callable[[], Awaitable[Message]], send: Send) -> None:
    if scope["type"] != "websocket":
        return

    async def send_text(text: str) -> None:
        await send({"type": "websocket.send", "text": text})

    await receive()
    await send({"type": "websocket.accept"})
    texts.add(send_text)
    try:
        while (message := await receive())["type"] == "websocket.receive":
            await _serve(message["text"], send_text)
    finally:
        texts.discard(send_text)


async def rsgi(scope: Scope, protocol: Any) -> None:
    transport = await protocol.accept()
    texts.add(transport.send_str)
    try:
        while (message := await transport.receive()).kind != WebsocketMessageType.close:
            await _serve(message.data, transport.send_str)
    finally:
        texts.discard(transport.send_str)
        protocol.close(1000)


async def _serve(text: str, send: Callable[[str], Awaitable[None]]) -> None:
    given = command(text)
    if given is None:
        await send(text)
    else:
        await send_steps(given, [send] if given.to == "push" else texts)


def run_asgi(port: int) -> None:
    _run("asgi", Interfaces.ASGINL, port)


def run_rsgi(port: int) -> None:
    _run("rsgi", Interfaces.RSGI, port)


def _run(name: str, interface: Interfaces, port: int) -> None:
    Granian(
        f"{__name__}:{name}",
        address=HOST,
        port=port,
        interface=interface,
        workers=1,
        loop=Loops.uvloop,
        http=HTTPModes.http1,
        backlog=BACKLOG,
        backpressure=CONNECTIONS,
        log_enabled=False,
    ).serve()

"""Four foreign WebSocket clients behind one interface: `websockets`, `aiohttp`, `wsproto` and Node's `ws`.

Each offers what it offers by itself (compression too) and takes messages of any size. What a client cannot be made to
send by its own means, such as text that is not UTF-8, is written to its socket as bytes.
"""

from __future__ import annotations

import abc
import asyncio
import base64
import contextlib
import json
import shutil
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import aiohttp
import wsproto
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Message,
    Ping,
    Pong,
    RejectConnection,
    Request,
    TextMessage,
)

from tests.support.websocket import TEXT, client_frame

NODE = Path(__file__).parent / "node_ws.mjs"
WITHIN_S = 20.0


class Peer(abc.ABC):
    """An open connection to a listener. Nothing waits longer than `WITHIN_S`."""

    name: ClassVar[str]
    fragments: ClassVar[bool] = True
    """Whether the client can send a message in parts."""
    subprotocol: str | None = None

    @classmethod
    @abc.abstractmethod
    def open(cls, port: int, subprotocols: Sequence[str] = ()) -> contextlib.AbstractAsyncContextManager[Self]: ...

    @abc.abstractmethod
    async def send(self, message: str | bytes) -> None: ...

    async def send_fragments(self, parts: Sequence[str | bytes]) -> None:
        raise NotImplementedError(f"{self.name} sends whole messages only")

    @abc.abstractmethod
    async def send_bad_text(self, payload: bytes) -> None:
        """A text message that is not UTF-8."""

    @abc.abstractmethod
    async def receive(self) -> str | bytes: ...

    @abc.abstractmethod
    async def ping(self, payload: bytes) -> None:
        """Sends a ping and returns when its pong has come."""

    @abc.abstractmethod
    async def close(self, code: int, reason: str) -> None: ...

    @abc.abstractmethod
    async def closed(self) -> tuple[int, str]:
        """Code and reason of the listener's close frame, once the connection has ended."""


class Websockets(Peer):
    name = "websockets"

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self.subprotocol = socket.subprotocol

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, port: int, subprotocols: Sequence[str] = ()) -> AsyncIterator[Self]:
        offered: Any = list(subprotocols) or None
        async with connect(f"ws://127.0.0.1:{port}/", subprotocols=offered, max_size=None) as socket:
            yield cls(socket)

    async def send(self, message: str | bytes) -> None:
        # What has failed to be sent is told by `closed`.
        with contextlib.suppress(ConnectionClosed):
            await self._socket.send(message)

    async def send_fragments(self, parts: Sequence[str | bytes]) -> None:
        await self._socket.send(parts)

    async def send_bad_text(self, payload: bytes) -> None:
        await self._socket.send(payload, text=True)

    async def receive(self) -> str | bytes:
        return await self._socket.recv()

    async def ping(self, payload: bytes) -> None:
        await (await self._socket.ping(payload))

    async def close(self, code: int, reason: str) -> None:
        await self._socket.close(code, reason)

    async def closed(self) -> tuple[int, str]:
        await self._socket.wait_closed()
        received = self._socket.protocol.close_rcvd
        return (received.code, received.reason) if received else (1006, "")


class Aiohttp(Peer):
    name = "aiohttp"
    fragments = False

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self.subprotocol = socket.protocol

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, port: int, subprotocols: Sequence[str] = ()) -> AsyncIterator[Self]:
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(
                f"http://127.0.0.1:{port}/", protocols=subprotocols, autoping=False, compress=15, max_msg_size=0
            ) as socket,
        ):
            yield cls(socket)

    async def send(self, message: str | bytes) -> None:
        if isinstance(message, str):
            await self._socket.send_str(message)
        else:
            await self._socket.send_bytes(message)

    async def send_bad_text(self, payload: bytes) -> None:
        await self._socket.send_frame(payload, aiohttp.WSMsgType.TEXT)

    async def _next(self) -> aiohttp.WSMessage:
        # Pings are answered here, so that pongs are not swallowed there.
        while (message := await self._socket.receive()).type is aiohttp.WSMsgType.PING:
            await self._socket.pong(message.data)
        return message

    async def receive(self) -> str | bytes:
        data: str | bytes = (await self._next()).data
        return data

    async def ping(self, payload: bytes) -> None:
        await self._socket.ping(payload)
        message = await self._next()
        assert (message.type, bytes(message.data)) == (aiohttp.WSMsgType.PONG, payload)

    async def close(self, code: int, reason: str) -> None:
        await self._socket.close(code=code, message=reason.encode())

    async def closed(self) -> tuple[int, str]:
        if self._socket.closed:
            return self._socket.close_code or 1006, ""
        message = await self._next()
        assert message.type is aiohttp.WSMsgType.CLOSE, message
        return message.data, message.extra or ""


class Wsproto(Peer):
    """wsproto does no input or output of its own: here it sits on asyncio's streams."""

    name = "wsproto"

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._connection = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
        self._pending: list[wsproto.events.Event] = []

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, port: int, subprotocols: Sequence[str] = ()) -> AsyncIterator[Self]:
        peer = cls(*await asyncio.open_connection("127.0.0.1", port))
        peer._send(Request(host="127.0.0.1", target="/", subprotocols=list(subprotocols)))
        accepted = await peer._next()
        assert isinstance(accepted, AcceptConnection), accepted
        peer.subprotocol = accepted.subprotocol
        try:
            yield peer
        finally:
            peer._writer.transport.abort()

    def _send(self, event: wsproto.events.Event) -> None:
        self._writer.write(self._connection.send(event))

    async def _next(self) -> wsproto.events.Event:
        while not self._pending:
            self._connection.receive_data(await self._reader.read(65_536) or None)
            for event in self._connection.events():
                assert not isinstance(event, RejectConnection)
                if isinstance(event, Ping):
                    self._send(event.response())
                self._pending.append(event)
        return self._pending.pop(0)

    async def send(self, message: str | bytes) -> None:
        self._send(TextMessage(data=message) if isinstance(message, str) else BytesMessage(data=message))
        await self._writer.drain()

    async def send_fragments(self, parts: Sequence[str | bytes]) -> None:
        for number, part in enumerate(parts, 1):
            last = number == len(parts)
            if isinstance(part, str):
                self._send(TextMessage(data=part, message_finished=last))
            else:
                self._send(BytesMessage(data=part, message_finished=last))
        await self._writer.drain()

    async def send_bad_text(self, payload: bytes) -> None:
        self._writer.write(client_frame(TEXT, payload))

    async def receive(self) -> str | bytes:
        parts: list[Any] = []
        while True:
            event = await self._next()
            if isinstance(event, Message):
                parts.append(event.data)
                if event.message_finished:
                    whole: str | bytes = type(parts[0])().join(parts)
                    return whole
            else:
                assert isinstance(event, Ping), event

    async def ping(self, payload: bytes) -> None:
        self._send(Ping(payload=payload))
        event = await self._next()
        assert isinstance(event, Pong)
        assert event.payload == payload

    async def close(self, code: int, reason: str) -> None:
        self._send(CloseConnection(code=code, reason=reason))

    async def closed(self) -> tuple[int, str]:
        event = await self._next()
        assert isinstance(event, CloseConnection), event
        if self._connection.state is wsproto.connection.ConnectionState.REMOTE_CLOSING:
            self._send(event.response())
        assert await self._reader.read() == b""
        self._writer.close()
        return event.code, event.reason or ""


class NodeWs(Peer):
    name = "ws"

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, port: int, subprotocols: Sequence[str] = ()) -> AsyncIterator[Self]:
        node = shutil.which("node")
        assert node is not None, "Node.js is needed: make test sets it up"
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(node, NODE, stdin=pipe, stdout=pipe, limit=1 << 22)
        peer = cls(process)
        try:
            peer._tell("open", url=f"ws://127.0.0.1:{port}/", subprotocols=list(subprotocols))
            opened = await peer._event("open")
            assert opened["extensions"] == ""
            peer.subprotocol = opened["subprotocol"] or None
            yield peer
        finally:
            assert process.stdin is not None
            process.stdin.close()
            async with asyncio.timeout(WITHIN_S):
                await process.wait()

    def _tell(self, command: str, **fields: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"command": command, **fields}).encode() + b"\n")

    def _send(self, data: bytes, binary: bool, fin: bool = True) -> None:
        self._tell("send", data=base64.b64encode(data).decode(), binary=binary, fin=fin)

    async def _event(self, name: str) -> dict[str, Any]:
        assert self._process.stdout is not None
        event: dict[str, Any] = json.loads(await self._process.stdout.readline())
        assert event["event"] == name, event
        return event

    async def send(self, message: str | bytes) -> None:
        self._send(message.encode() if isinstance(message, str) else message, isinstance(message, bytes))

    async def send_fragments(self, parts: Sequence[str | bytes]) -> None:
        for number, part in enumerate(parts, 1):
            data = part.encode() if isinstance(part, str) else part
            self._send(data, isinstance(part, bytes), number == len(parts))

    async def send_bad_text(self, payload: bytes) -> None:
        self._send(payload, binary=False)

    async def receive(self) -> str | bytes:
        event = await self._event("message")
        data = base64.b64decode(event["data"])
        return data if event["binary"] else data.decode()

    async def ping(self, payload: bytes) -> None:
        self._tell("ping", data=base64.b64encode(payload).decode())
        assert base64.b64decode((await self._event("pong"))["data"]) == payload

    async def close(self, code: int, reason: str) -> None:
        self._tell("close", code=code, reason=reason)

    async def closed(self) -> tuple[int, str]:
        event = await self._event("close")
        return event["code"], event["reason"]


PEERS: tuple[type[Peer], ...] = (Websockets, Aiohttp, Wsproto, NodeWs)

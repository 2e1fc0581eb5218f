"""The terminal's side of a conversation: HTTP calls, and one answer over WebSockets that come and go."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Iterable
from typing import Any

import aiohttp
import msgspec

from cli.chat_answer import Answer, Frame, Out
from core.ids import uuid7
from core.model import ClientFrame, Drain, Send, Welcome

CONNECT_S = 10.0
GIVE_UP_S = 60.0
BACKOFF_S = 0.2
BACKOFF_MAX_S = 5.0
HEARTBEAT_S = 20.0
FINAL_CODES = {1009, 4400, 4401, 4403}

_decoder: msgspec.json.Decoder[Frame] = msgspec.json.Decoder(Frame)


class ChatError(Exception):
    """It cannot go on; the message says why and what to do."""


class Client:
    """One user at one server. Use as an async context manager."""

    def __init__(self, url: str, token: str, say: Callable[[Out], None]) -> None:
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"}
        self._say = say
        self._session: aiohttp.ClientSession | None = None
        self._ws_url: str | None = None
        self._cancel = asyncio.Event()
        self._welcomed = False

    async def __aenter__(self) -> Client:
        self._session = aiohttp.ClientSession(
            headers=self._headers, timeout=aiohttp.ClientTimeout(total=None, connect=CONNECT_S)
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._session is not None
        await self._session.close()

    def cancel(self) -> None:
        """Stops the answer that is under way."""
        self._cancel.set()

    async def create_conversation(self) -> str:
        """A new conversation's id. Raises `ChatError`."""
        wanted = uuid7(time.time_ns() // 1_000_000)
        await self._call("POST", "/v1/conversations", {"id": wanted})
        return wanted

    async def ask(self, conversation_id: str, content: str, parent_id: str | None, model: str | None) -> Answer:
        """Sends a message and follows its answer to the end; `say` gets the text as it comes. Raises `ChatError`."""
        message_id = uuid7(time.time_ns() // 1_000_000)
        answer = Answer(
            Send(
                message_id=message_id,
                conversation_id=conversation_id,
                content=content,
                parent_id=parent_id,
                model=model,
            )
        )
        self._cancel.clear()
        attempt, deadline = 0, time.monotonic() + GIVE_UP_S
        while True:
            self._welcomed = False
            await self._follow(answer)
            if answer.ended:
                return answer
            if self._welcomed:
                attempt, deadline = 0, time.monotonic() + GIVE_UP_S
            if time.monotonic() > deadline:
                raise ChatError(f"no connection to {self._url} for {GIVE_UP_S:.0f} s; what was accepted goes on there")
            if attempt == 0:
                self._say(Out(remark="the connection is lost; trying again"))
            delay = min(BACKOFF_S * 2.0**attempt, BACKOFF_MAX_S)
            attempt += 1
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))  # noqa: S311 - jitter

    async def _follow(self, answer: Answer) -> None:
        """One connection, to its end."""
        assert self._session is not None
        try:
            if self._ws_url is None:
                self._ws_url = (await self._call("GET", "/v1/config"))["ws_url"]
            async with self._session.ws_connect(
                self._ws_url, protocols=("parley.v1",), heartbeat=HEARTBEAT_S, max_msg_size=0
            ) as socket:
                canceller = asyncio.create_task(self._pass_on_cancel(socket, answer))
                try:
                    await self._receive(socket, answer)
                finally:
                    canceller.cancel()
                    await asyncio.wait([canceller])
            if not answer.ended:
                _check_close(socket.close_code)
        except aiohttp.WSServerHandshakeError as error:
            if error.status in (401, 403):
                raise ChatError(f"{self._url} does not accept the credential (HTTP {error.status})") from error
        except (aiohttp.ClientError, OSError, TimeoutError):
            # The address may have changed with the server.
            self._ws_url = None

    async def _pass_on_cancel(self, socket: aiohttp.ClientWebSocketResponse, answer: Answer) -> None:
        await self._cancel.wait()
        with contextlib.suppress(aiohttp.ClientError, OSError):
            await _send(socket, answer.cancel())

    async def _receive(self, socket: aiohttp.ClientWebSocketResponse, answer: Answer) -> None:
        """Follows the answer until it ends, the connection does, or the moment comes at which a server that goes away
        asked to be left.
        """
        try:
            async with asyncio.timeout(None) as stay:
                async for message in socket:
                    frame = _decoded(message)
                    if isinstance(frame, Welcome):
                        self._welcomed = True
                        await _send(socket, answer.connected())
                    elif isinstance(frame, Drain):
                        # What is not accepted yet is refused from now on: it is sent again elsewhere at once.
                        stay_s = frame.reconnect_after_ms / 1000 if answer.generation_id is not None else 0.0
                        stay.reschedule(asyncio.get_running_loop().time() + stay_s)
                    elif frame is not None:
                        await self._take(socket, answer, frame)
                    if answer.ended:
                        return
        except TimeoutError:
            if not stay.expired():
                raise

    async def _take(self, socket: aiohttp.ClientWebSocketResponse, answer: Answer, frame: Frame) -> None:
        out = answer.take(frame)
        if out.text or out.remark:
            self._say(out)
        if out.again_ms:
            await asyncio.sleep(out.again_ms / 1000)
        await _send(socket, out.frames)

    async def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        assert self._session is not None
        try:
            async with self._session.request(method, self._url + path, json=body) as response:
                answer = await response.json(content_type=None)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            if method == "GET":
                raise
            raise ChatError(f"cannot reach {self._url}: {error}") from error
        except ValueError as error:
            raise ChatError(f"{self._url} does not answer as Parley does") from error
        if response.status >= 400:
            told = answer.get("error", {}) if isinstance(answer, dict) else {}
            raise ChatError(told.get("message") or f"{method} {path}: HTTP {response.status}")
        return dict(answer)


def _decoded(message: aiohttp.WSMessage) -> Frame | None:
    """A frame; None for what is not one that we know: servers may be newer."""
    if message.type is not aiohttp.WSMsgType.TEXT:
        return None
    try:
        return _decoder.decode(message.data)
    except msgspec.DecodeError:
        return None


async def _send(socket: aiohttp.ClientWebSocketResponse, frames: Iterable[ClientFrame]) -> None:
    for frame in frames:
        await socket.send_str(msgspec.json.encode(frame).decode())


def _check_close(code: int | None) -> None:
    if code in FINAL_CODES:
        meaning = {1009: "a message was too long", 4401: "the credential has expired", 4403: "access is forbidden"}
        raise ChatError(meaning.get(code, f"the server closed the connection (code {code})"))

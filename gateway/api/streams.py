"""Answers as server-sent events: what a generation's frames look like, and the streams that are open.

The server below never makes a sender wait: what a slow reader has not taken lies in its buffers. So a stream is ended
after `STREAM_BYTES`, and its reader comes back with the id of the last event that it saw.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from typing import Any, Final, TypeVar

import msgspec
from litestar import Request, Response
from litestar.types import Receive, Scope, Send

from core.accounts.model import Reason
from core.errors import ParleyError
from core.model import (
    Delta,
    Drain,
    EndFrame,
    ErrorFrame,
    Restart,
    Resumed,
    ServerFrame,
    Snapshot,
)
from gateway.api.errors import send_error, to_error
from gateway.api.scope import request_id
from gateway.identity import Identity
from gateway.revocations import Revocations, refusal_code

STREAM_BYTES: Final = 2 * 1024 * 1024
KEEP_ALIVE_S: Final = 15.0
FIRST_FRAME_S: Final = 0.25
CLOSE_S: Final = 1.0
RECONNECT_MS: Final = 1_000
CROWDED_MS: Final = 30_000
EVENT_STREAM: Final = "text/event-stream"
KEEP_ALIVE: Final = b": keep-alive\n\n"

STREAM_HEADERS: Final = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
)
_EVENT_ID: Final = re.compile(r"([A-Za-z0-9_-]{1,128}):(-1|\d{1,9}):(-1|\d{1,9})")

_encode = msgspec.json.Encoder().encode

log = logging.getLogger(__name__)

T = TypeVar("T")


def wants_events(request: Request[Any, Any, Any]) -> bool:
    """Whether the client asked for an event stream."""
    return EVENT_STREAM in request.headers.get("accept", "")


def event_id(frame: ServerFrame) -> str | None:
    """The address of the last text that a reader of this frame has seen; None where it moves no place."""
    if isinstance(frame, Delta):
        return f"{frame.g}:{frame.e}:{frame.n}"
    if isinstance(frame, Restart):
        return f"{frame.generation_id}:{frame.epoch}:-1"
    if isinstance(frame, Resumed | EndFrame) or (isinstance(frame, Snapshot) and not frame.more):
        return f"{frame.generation_id}:{frame.epoch}:{frame.seq}"
    return None


def parse_event_id(text: str | None, generation_id: str) -> tuple[int, int]:
    """`(epoch, seq)` of a Last-Event-ID; (-1, -1) where there is none. Raises `invalid` where it is no id of this."""
    if not text:
        return -1, -1
    match = _EVENT_ID.fullmatch(text)
    if match is None or match[1] != generation_id:
        message = "Last-Event-ID must be the id of an event of this generation: generation:epoch:seq."
        raise ParleyError("invalid", message, param="Last-Event-ID")
    return int(match[2]), int(match[3])


def encode_event(frame: ServerFrame) -> bytes:
    """One frame as an event: its type, its id where it has one, its JSON."""
    identifier = event_id(frame)
    head = f"event: {type(frame).__struct_config__.tag}\n" + (f"id: {identifier}\n" if identifier else "")
    return head.encode() + b"data: " + _encode(frame) + b"\n\n"


def drain_frame() -> Drain:
    """What a stream ends with that is ended by a drain: its moment was its own already."""
    return Drain(reconnect_after_ms=random.randint(0, RECONNECT_MS))  # noqa: S311 - jitter, not a secret


class EventStreams:
    """The streams that are open in this process: at most `limit`, of which `per_user` of one user (0: as many as it
    likes). All are ended by `drain`, a caller's by a revocation.
    """

    def __init__(self, limit: int, per_user: int = 100) -> None:
        self._limit = limit
        self._per_user = per_user
        self._revocations: Revocations | None = None
        self._watched: dict[str, dict[asyncio.Future[ParleyError], Identity]] = {}
        self._draining = False
        self._open: set[asyncio.Event] = set()
        self._empty = asyncio.Event()
        self._empty.set()

    def check(self, identity: Identity | None = None) -> None:
        """Raises `overloaded` where no stream may be opened now, `rate_limited` where this caller has too many: asked
        before anything is spent on one.
        """
        if identity is not None:
            self.check_caller(identity)
        if self._draining:
            raise ParleyError("overloaded", "This gateway is going away; connect again.", retry_after_ms=RECONNECT_MS)
        if self.count >= self._limit:
            message = "Too many event streams are open here; use the WebSocket, or try again."
            raise ParleyError("overloaded", message, retry_after_ms=RECONNECT_MS)

    def check_caller(self, identity: Identity) -> None:
        """Raises `rate_limited` where this caller has as many streams open as may be."""
        if 0 < self._per_user <= len(self._watched.get(identity.user_id, ())):
            message = "You have too many event streams open; close one first, or use the WebSocket."
            raise ParleyError("rate_limited", message, retry_after_ms=CROWDED_MS)

    def respond(
        self, identity: Identity, frames: AsyncIterator[ServerFrame], first: ServerFrame | None = None
    ) -> EventStreamResponse:
        """A response that tells `first`, then `frames` until they end or the caller's session or key does."""
        return EventStreamResponse(EventStream(self, identity, frames, first))

    def follow_revocations(self, revocations: Revocations) -> None:
        """From now on a revocation ends the streams that were opened with what it names."""
        self._revocations = revocations
        revocations.on_revoked(self._revoke)

    @contextmanager
    def until_revoked(self, identity: Identity) -> Iterator[asyncio.Future[ParleyError]]:
        """A future that is done, with what the client is told, once the caller's session or key has ended."""
        ended: asyncio.Future[ParleyError] = asyncio.get_running_loop().create_future()
        mine = self._watched.setdefault(identity.user_id, {})
        mine[ended] = identity
        # It may have ended since the caller was identified.
        if self._revocations is not None:
            reason = self._revocations.reason(identity.user_id, identity.subject)
            if reason is not None:
                ended.set_result(_ended(reason))
        try:
            yield ended
        finally:
            del mine[ended]
            if not mine:
                self._watched.pop(identity.user_id, None)

    def _revoke(self, user_id: str, subject: str | None, reason: Reason) -> None:
        for ended, identity in self._watched.get(user_id, {}).items():
            if identity.ended_by(user_id, subject) and not ended.done():
                ended.set_result(_ended(reason))

    @property
    def count(self) -> int:
        return len(self._open)

    async def drain(self, spread_s: float, wait_s: float) -> None:
        """Takes no new ones, and ends every stream at a moment of its own within `spread_s` seconds, telling it to
        reconnect elsewhere; waits for them at most `wait_s` seconds.
        """
        self._draining = True
        loop = asyncio.get_running_loop()
        for ending in self._open:
            loop.call_later(random.uniform(0, spread_s), ending.set)  # noqa: S311 - jitter, not a secret
        try:
            async with asyncio.timeout(wait_s):
                await self._empty.wait()
        except TimeoutError:
            log.warning("%d event streams did not end within %.1f s", self.count, wait_s)

    def opened(self) -> asyncio.Event:
        """Counts one in; returns the event that says that it must end."""
        ending = asyncio.Event()
        self._open.add(ending)
        self._empty.clear()
        if self._draining:
            ending.set()
        return ending

    def closed(self, ending: asyncio.Event) -> None:
        """Counts it out again."""
        self._open.discard(ending)
        if not self._open:
            self._empty.set()


class EventStream:
    """One stream, an ASGI application. Ends with its frames, its reader, its byte budget, the caller's session or key,
    or the gateway's drain.
    """

    def __init__(
        self,
        streams: EventStreams,
        identity: Identity,
        frames: AsyncIterator[ServerFrame],
        first: ServerFrame | None,
    ) -> None:
        self._streams = streams
        self._identity = identity
        self._frames = frames
        self._first = first
        self._written = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            # Once more: others of the same caller may have come in between.
            self._streams.check_caller(self._identity)
        except ParleyError as error:
            await _close(self._frames)
            await send_error(scope, send, error)
            return
        draining = self._streams.opened()
        gone = asyncio.create_task(disconnected(receive), name="stream reader")
        ending = asyncio.create_task(draining.wait(), name="stream drain")
        try:
            with self._streams.until_revoked(self._identity) as ended:
                await self._run(scope, send, gone, ending, ended)
        finally:
            self._streams.closed(draining)
            gone.cancel()
            ending.cancel()
            await asyncio.wait([gone, ending])

    async def _run(
        self,
        scope: Scope,
        send: Send,
        gone: asyncio.Task[None],
        ending: asyncio.Task[Any],
        ended: asyncio.Future[ParleyError],
    ) -> None:
        started = False
        stops = [gone, ending, ended]
        try:
            if self._first is not None:
                started = True
                await _start(send, encode_event(self._first))
            async with aclosing(follow(self._frames, stops, FIRST_FRAME_S, KEEP_ALIVE_S)) as following:
                async for frame in following:
                    if not started:
                        started = True
                        await _start(send, b"")
                    if not await self._tell(send, frame):
                        break
                else:
                    if ended.done():
                        raise ended.result()
                    if ending.done() and started:
                        await write(send, encode_event(drain_frame()))
        except Exception as failure:
            await _refuse(scope, send, failure, started)
            if not started:
                return
        if not started:
            await _start(send, encode_event(drain_frame()) if ending.done() else b"")
        if not gone.done():
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _tell(self, send: Send, frame: ServerFrame | None) -> bool:
        """Writes a frame, or a sign of life where there is none; False: it was the last one."""
        if frame is None:
            await write(send, KEEP_ALIVE)
            return True
        event = encode_event(frame)
        self._written += len(event)
        await write(send, event)
        return self._written < STREAM_BYTES and not isinstance(frame, EndFrame)


class EventStreamResponse(Response[None]):
    """What a handler returns to stream."""

    def __init__(self, stream: EventStream) -> None:
        super().__init__(None, media_type=EVENT_STREAM)
        self._stream = stream

    def to_asgi_response(self, *_: Any, **__: Any) -> Any:
        return self._stream


async def follow(
    source: AsyncIterator[T], stops: Sequence[asyncio.Future[Any]], first_s: float, idle_s: float
) -> AsyncGenerator[T | None, None]:
    """What `source` yields, and None whenever it is silent: for `first_s` at the beginning, for `idle_s` later.

    Ends with the source or as soon as one of `stops` is done; raises what the source raises. Closes the source.
    """
    following = asyncio.create_task(_next(source), name="stream source")
    wait_s = first_s
    try:
        while True:
            await asyncio.wait([following, *stops], timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
            wait_s = idle_s
            if following.done():
                item = following.result()
                if item is None:
                    return
                yield item
                following = asyncio.create_task(_next(source), name="stream source")
            elif any(stop.done() for stop in stops):
                return
            else:
                yield None
    finally:
        following.cancel()
        await asyncio.wait([following])
        await _close(source)


def _ended(reason: Reason) -> ParleyError:
    message = "This account is suspended." if reason == "suspended" else "The session was ended or the key deleted."
    return ParleyError(refusal_code(reason), message)


async def disconnected(receive: Receive) -> None:
    """Returns when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def write(send: Send, data: bytes) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": True})


async def _next(source: AsyncIterator[T]) -> T | None:
    return await anext(source, None)


async def _close(source: AsyncIterator[Any]) -> None:
    close = getattr(source, "aclose", None)
    if close is None:
        return
    try:
        async with asyncio.timeout(CLOSE_S):
            await close()
    except TimeoutError:
        log.warning("the source of a stream did not close within %.1f s", CLOSE_S)


async def _start(send: Send, first: bytes) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": list(STREAM_HEADERS)})
    await write(send, f"retry: {RECONNECT_MS}\n\n".encode() + first)


async def _refuse(scope: Scope, send: Send, failure: Exception, started: bool) -> None:
    """An ordinary error response where nothing was sent yet, else an error event: the last one of the stream."""
    error = to_error(failure)
    if error.code == "internal":
        log.error("the stream of request %s failed", request_id(scope), exc_info=failure)
    if not started:
        await send_error(scope, send, error)
        return
    frame = ErrorFrame(
        code=error.code,
        message=error.message,
        retryable=error.kind.retryable,
        retry_after_ms=error.retry_after_ms,
        param=error.param,
    )
    await write(send, encode_event(frame))

"""`POST /v1/chat/completions`: OpenAI's chat completions for API keys. Nothing is stored, and who leaves cancels.

A raw ASGI application beside the REST resources: this is the hot way for programs.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, Final

import msgspec
from litestar.types import Receive, Scope, Send

from core.clock import Clock
from core.errors import ParleyError, Unavailable
from core.idempotency.port import MAX_ANSWER_BYTES, Begun, Finished, Idempotency, Running
from core.model import Piece
from gateway.api.completions_port import Admitted, Completed, CompletionEvent, CompletionRequest, Completions
from gateway.api.errors import envelope, send_error, to_error
from gateway.api.openai_wire import Answer, ChatRequest, Chunks, decode_request, replay
from gateway.api.scope import headers_of, request_id
from gateway.api.streams import KEEP_ALIVE, KEEP_ALIVE_S, STREAM_HEADERS, EventStreams, disconnected, follow, write
from gateway.identity import Identities, Identity, require_scope

PATH: Final = "/v1/chat/completions"
MAX_CHAT_BYTES: Final = 1024 * 1024
BODY_S: Final = 30.0
RENEW_S: Final = 10.0
MAX_KEY_CHARS: Final = 256

log = logging.getLogger(__name__)


class ChatCompletions:
    """The resource as an ASGI application."""

    def __init__(
        self,
        identities: Identities,
        completions: Completions,
        idempotency: Idempotency,
        streams: EventStreams,
        clock: Clock,
    ) -> None:
        self._identities = identities
        self._completions = completions
        self._idempotency = idempotency
        self._streams = streams
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        reply = _Reply(scope, send)
        try:
            await self._serve(scope, receive, reply)
        except Exception as failure:
            await reply.fail(failure)

    async def _serve(self, scope: Scope, receive: Receive, reply: _Reply) -> None:
        if scope.get("method") != "POST":
            raise ParleyError("method_not_allowed", f"{PATH} takes POST.")
        headers = headers_of(scope)
        identity = await self._identities.of_http("POST", headers)
        require_scope(identity, "chat")
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise ParleyError("unsupported_media_type", "The body must be JSON, sent as application/json.")
        chat = decode_request(await _read(receive, headers))
        self._streams.check()
        request = chat.to_request(f"chatcmpl-{secrets.token_hex(16)}")
        lease = await self._lease(identity, headers.get("idempotency-key"), request)
        if isinstance(lease, Finished):
            await reply.replay(chat, lease.answer)
            return
        gone = asyncio.create_task(disconnected(receive), name="completion reader")
        opened = self._streams.opened()
        try:
            with self._streams.until_revoked(identity) as ended:
                await self._answer(identity, chat, request, reply, gone, ended, lease)
        finally:
            self._streams.closed(opened)
            if lease is not None:
                await lease.close()
            gone.cancel()
            await asyncio.wait([gone])

    async def _answer(
        self,
        identity: Identity,
        chat: ChatRequest,
        request: CompletionRequest,
        reply: _Reply,
        gone: asyncio.Task[None],
        ended: asyncio.Future[ParleyError],
        lease: _Lease | None,
    ) -> None:
        """Calls and tells. Leaving the loop, for whatever reason, cancels the call."""
        created = self._clock.wall_ms() // 1000
        answer = Answer(request.call, created, request.model)
        chunks = Chunks(request.call, created, request.model, chat.include_usage) if chat.stream else None
        events: AsyncIterator[list[CompletionEvent]] = self._completions.stream(identity, request)
        async with aclosing(follow(events, [gone, ended], KEEP_ALIVE_S, KEEP_ALIVE_S)) as following:
            async for batch in following:
                if batch is None:
                    await reply.keep_alive()
                    continue
                if chunks is not None:
                    await reply.chunks(chunks, batch)
                for event in batch:
                    if isinstance(event, Admitted):
                        reply.admitted(event)
                    elif isinstance(event, Completed):
                        if lease is not None:
                            await lease.finish(answer.body(event))
                        await reply.finish(event, answer, chunks)
                        return
                    elif chunks is None or lease is not None:
                        answer.take(event)
        if ended.done():
            raise ended.result()
        if not gone.done():
            raise ParleyError("provider_error", "The answer broke off.")

    async def _lease(self, identity: Identity, key: str | None, request: CompletionRequest) -> _Lease | Finished | None:
        """The right to make this call under its Idempotency-Key, or what it was answered with before."""
        if key is None:
            return None
        if not 1 <= len(key) <= MAX_KEY_CHARS:
            message = f"Idempotency-Key has 1 to {MAX_KEY_CHARS} characters."
            raise ParleyError("invalid", message, param="Idempotency-Key")
        body = msgspec.json.encode(msgspec.structs.replace(request, call=""), order="deterministic")
        state = await self._idempotency.begin(identity.user_id, key, hashlib.sha256(body).hexdigest())
        if isinstance(state, Begun):
            return _Lease(self._idempotency, identity.user_id, key, state.lease)
        if isinstance(state, Finished):
            return state
        if isinstance(state, Running):
            message = "The call with this Idempotency-Key is still under way."
            raise ParleyError("in_progress", message, param="Idempotency-Key", retry_after_ms=state.retry_after_ms)
        message = "This Idempotency-Key was used with another body; make a new one for a new call."
        raise ParleyError("conflict", message, param="Idempotency-Key")


class _Lease:
    """An Idempotency-Key held by this call, renewed until the answer is kept or the call has failed."""

    def __init__(self, idempotency: Idempotency, account: str, key: str, lease: str) -> None:
        self._idempotency = idempotency
        self._held = (account, key, lease)
        self._finished = False
        self._renewing = asyncio.create_task(self._renew(), name="idempotency lease")

    async def finish(self, answer: bytes) -> None:
        """Keeps the answer before it is told, so that a lost reply is found again. What cannot be kept is told all the
        same: the key is free again then.
        """
        if len(answer) > MAX_ANSWER_BYTES:
            return
        try:
            await self._idempotency.finish(*self._held, answer)
            self._finished = True
        except Unavailable as error:
            log.warning("a finished answer is not kept under its Idempotency-Key: %s", error)

    async def close(self) -> None:
        self._renewing.cancel()
        await asyncio.gather(self._renewing, return_exceptions=True)
        if not self._finished:
            await self._idempotency.abandon(*self._held)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(RENEW_S)
            try:
                if not await self._idempotency.renew(*self._held):
                    return
            except Unavailable as error:
                # It lapses only when this fails three times in a row.
                log.info("the lease of an Idempotency-Key is not renewed: %s", error)


class _Reply:
    """One answer on the wire: an object at the end, or chunks on the way."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._scope = scope
        self._send = send
        self._started = False
        self._over = False
        self._headers: list[tuple[bytes, bytes]] = []

    def admitted(self, admitted: Admitted) -> None:
        reset = f"{admitted.reset_ms / 1000:.3f}s"
        values = {
            "limit-requests": admitted.requests_limit,
            "remaining-requests": admitted.requests_remaining,
            "reset-requests": reset,
            "limit-tokens": admitted.tokens_limit,
            "remaining-tokens": admitted.tokens_remaining,
            "reset-tokens": reset,
        }
        self._headers = [(f"x-ratelimit-{name}".encode(), str(value).encode()) for name, value in values.items()]

    async def keep_alive(self) -> None:
        """A sign of life for a stream that has begun; before that there is nothing to send."""
        if self._started:
            await write(self._send, KEEP_ALIVE)

    async def chunks(self, chunks: Chunks, batch: list[CompletionEvent]) -> None:
        """The pieces of a batch, in one write."""
        data = b"".join([chunks.piece(event) for event in batch if isinstance(event, Piece)])
        if data:
            await self._write(data, chunks)

    async def finish(self, completed: Completed, answer: Answer, chunks: Chunks | None) -> None:
        if chunks is None:
            await self._object(answer.body(completed))
            return
        await self._write(chunks.last(completed), chunks)
        await self._end()

    async def replay(self, chat: ChatRequest, stored: bytes) -> None:
        """What the call was answered with before, in the form that is asked for now."""
        self._headers.append((b"idempotent-replayed", b"true"))
        if not chat.stream:
            await self._object(stored)
            return
        await self._begin(STREAM_HEADERS)
        await write(self._send, replay(stored, chat.include_usage))
        await self._end()

    async def fail(self, failure: Exception) -> None:
        """An ordinary refusal, or, in a stream that has begun, an error and no clean end."""
        error = to_error(failure)
        if error.code == "internal":
            log.error("request %s to %s failed", request_id(self._scope), PATH, exc_info=failure)
        if self._over:
            return
        if not self._started:
            await send_error(self._scope, self._send_with_limits, error)
            return
        body = msgspec.json.encode(envelope(error, request_id(self._scope)))
        await write(self._send, b"data: " + body + b"\n\n")
        await self._end()

    async def _send_with_limits(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], *self._headers]}
        await self._send(message)

    async def _write(self, data: bytes, chunks: Chunks) -> None:
        if not self._started:
            await self._begin(STREAM_HEADERS)
            data = chunks.first() + data
        await write(self._send, data)

    async def _object(self, body: bytes) -> None:
        await self._begin(((b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())))
        self._over = True
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def _begin(self, headers: tuple[tuple[bytes, bytes], ...]) -> None:
        self._started = True
        await self._send({"type": "http.response.start", "status": 200, "headers": [*headers, *self._headers]})

    async def _end(self) -> None:
        self._over = True
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})


async def _read(receive: Receive, headers: dict[str, str]) -> bytes:
    """The body, at most 1 MiB, within 30 s. Raises `too_large`, `malformed`."""
    too_large = ParleyError("too_large", f"The body is larger than {MAX_CHAT_BYTES} bytes.")
    if headers.get("content-length", "0").isdigit() and int(headers.get("content-length", "0")) > MAX_CHAT_BYTES:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            while True:
                message: Any = await receive()
                if message["type"] == "http.disconnect":
                    raise ParleyError("malformed", "The client left before its request was complete.")
                body += message.get("body", b"")
                if len(body) > MAX_CHAT_BYTES:
                    raise too_large
                if not message.get("more_body"):
                    return bytes(body)
    except TimeoutError as error:
        raise ParleyError("malformed", f"The body did not arrive within {BODY_S:.0f} s.") from error

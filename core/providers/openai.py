"""Any provider that speaks OpenAI's chat completions: OpenAI itself, vLLM, llama.cpp, gateways."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import aiohttp
import msgspec
from multidict import CIMultiDict
from yarl import URL

from core.providers.openai_wire import AnswerDecoder, encode_request, response_error
from core.providers.port import (
    ErrorKind,
    ProviderError,
    ProviderEvent,
    ProviderRequest,
    ProviderStream,
    StreamLimits,
)

_MAX_ERROR_BODY = 16 << 10
_LINGER_S = 1.0
# They announce keep-alive and close after every stream; a request sent meanwhile would be lost.
_CLOSE_AFTER_STREAM = ("llama.cpp",)


class OpenAIOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to reach one account at one OpenAI-compatible provider.

    `base_url` ends where `/chat/completions` begins (`https://api.openai.com/v1`). `api_key` is sent as a bearer
    token; empty sends no `Authorization`. `connect_timeout_s` bounds DNS, TCP and TLS together with the request's
    first-token deadline. `keepalive_s`: how long an unused connection is kept, less than the provider keeps it
    (uvicorn, and so vLLM: 5 s).
    `max_connections`: calls beyond it wait, within their first-token deadline. `extra_body` goes into every
    call, `continue_body` into calls that continue an answer (vLLM wants `continue_final_message`). `send_tags`:
    whether the request's tags are told to the provider.
    """

    name: str
    base_url: str
    api_key: str = ""
    connect_timeout_s: float = 1.0
    keepalive_s: float = 4.0
    max_connections: int = 1000
    max_tokens_field: str = "max_tokens"
    extra_body: dict[str, Any] = {}
    continue_body: dict[str, Any] = {}
    send_tags: bool = False
    limits: StreamLimits = StreamLimits()

    def __repr__(self) -> str:
        return f"OpenAIOptions(name={self.name!r}, base_url={self.base_url!r})"


class OpenAIProvider:
    """The Provider port over aiohttp. Made and closed on the event loop that uses it."""

    def __init__(self, options: OpenAIOptions) -> None:
        self._options = options
        self._url = URL(options.base_url.rstrip("/") + "/chat/completions")
        headers = CIMultiDict(
            {
                "Content-Type": "application/json",
                "Accept": "text/event-stream",
                # A compressor between us and the model would hold tokens back.
                "Accept-Encoding": "identity",
            }
        )
        if options.api_key:
            headers["Authorization"] = f"Bearer {options.api_key}"
        self._headers = headers
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=options.connect_timeout_s)
        self._session: aiohttp.ClientSession | None = None
        self._closed = False
        self._opening: set[asyncio.Timeout] = set()
        self._running: set[aiohttp.ClientResponse] = set()

    @property
    def name(self) -> str:
        return self._options.name

    def stream(self, request: ProviderRequest) -> ProviderStream:
        return self._stream(request)

    async def close(self) -> None:
        self._closed = True
        for opening in self._opening:
            opening.reschedule(0)
        for response in tuple(self._running):
            _abort(response)
        if self._session is not None:
            await self._session.close()

    async def _stream(self, request: ProviderRequest) -> AsyncGenerator[list[ProviderEvent], None]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + request.deadline_first_token_s
        response = await self._open(request, deadline)
        self._running.add(response)
        decoder = AnswerDecoder(self._options.limits)
        reader = _DeadlineReader(response.content, decoder)
        try:
            while not decoder.complete:
                events: list[ProviderEvent] = []
                failure = await self._next(reader, decoder, deadline, events)
                if failure is not None:
                    # The provider learns of it now, not when the consumer comes back.
                    _abort(response)
                if events:
                    yield events
                    deadline = loop.time() + request.deadline_idle_s
                if failure is not None:
                    raise failure
            _let_finish(response)
        finally:
            reader.close()
            self._running.discard(response)
            if not decoder.complete:
                _abort(response)

    async def _next(
        self, reader: "_DeadlineReader", decoder: AnswerDecoder, deadline: float, events: list[ProviderEvent]
    ) -> ProviderError | None:
        """Read until something happened. What came before a failure is in `events`."""
        try:
            while not (events or decoder.complete):
                decoder.feed(await reader.read(deadline), events)
        except ProviderError as error:
            return self._without_key(error)
        return None

    async def _open(self, request: ProviderRequest, deadline: float) -> aiohttp.ClientResponse:
        """The response whose body is the stream. Raises ProviderError for everything else."""
        body = encode_request(
            request,
            max_tokens_field=self._options.max_tokens_field,
            extra=self._options.extra_body,
            continue_extra=self._options.continue_body,
        )
        client = self._client()
        timeout = asyncio.timeout_at(deadline)
        self._opening.add(timeout)
        try:
            async with timeout:
                response = await client.post(
                    self._url,
                    data=body,
                    headers=self._headers_for(request),
                    timeout=self._timeout,
                    allow_redirects=False,
                )
                if response.status == 200 and response.content_type == "text/event-stream":
                    _forbid_reuse(response)
                    return response
                raise self._without_key(await _refusal(response))
        except (aiohttp.ConnectionTimeoutError, aiohttp.ClientConnectorError) as error:
            raise _before_text("connect", error) from None
        except TimeoutError:
            if self._closed:
                raise ProviderError("cut", "the provider was closed", before_text=True) from None
            message = f"no answer within {request.deadline_first_token_s} s"
            raise ProviderError("timeout_first", message, before_text=True) from None
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, ConnectionError) as error:
            raise _before_text("cut", error) from None
        except aiohttp.ClientError as error:
            raise _before_text("malformed", error) from None
        finally:
            self._opening.discard(timeout)

    def _headers_for(self, request: ProviderRequest) -> CIMultiDict[str]:
        if not (self._options.send_tags and request.tags):
            return self._headers
        headers = self._headers.copy()
        for tag, value in request.tags.items():
            headers[f"x-parley-{tag}"] = value
        return headers

    def _without_key(self, error: ProviderError) -> ProviderError:
        """Some providers quote the key that they refuse."""
        key = self._options.api_key
        if key and key in error.message:
            error.message = error.message.replace(key, "[key]")
            error.args = (f"{error.kind}: {error.message}",)
        return error

    def _client(self) -> aiohttp.ClientSession:
        if self._closed:
            raise ProviderError("connect", "the provider is closed", before_text=True)
        if self._session is None:
            options = self._options
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=options.max_connections, keepalive_timeout=options.keepalive_s),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
                skip_auto_headers=("User-Agent",),
            )
        return self._session


async def _refusal(response: aiohttp.ClientResponse) -> ProviderError:
    body = b""
    try:
        while len(body) < _MAX_ERROR_BODY and (chunk := await response.content.read(_MAX_ERROR_BODY)):
            body += chunk
    except aiohttp.ClientError:
        # The status is known and says enough.
        body += b" (the rest of the response was lost)"
    finally:
        _abort(response)
    return response_error(response.status, body, response.headers)


def _before_text(kind: ErrorKind, error: Exception) -> ProviderError:
    return ProviderError(kind, str(error) or type(error).__name__, before_text=True)


class _DeadlineReader:
    """Reads the body with a deadline and one timer per stream, not one per read.

    The timer is only moved when a deadline comes nearer; when it fires too early it is armed again.
    """

    def __init__(self, content: aiohttp.StreamReader, decoder: AnswerDecoder) -> None:
        self._loop = asyncio.get_running_loop()
        self._content = content
        self._decoder = decoder
        self._deadline = 0.0
        self._waiting = False
        self._timer: asyncio.TimerHandle | None = None

    async def read(self, deadline: float) -> bytes:
        """The next bytes. Raises ProviderError: `cut` at the end of the body, or a timeout."""
        self._deadline = deadline
        if self._timer is None or self._timer.when() > deadline:
            self._arm()
        self._waiting = True
        try:
            chunk = await self._content.readany()
        except (aiohttp.ClientError, ConnectionError, RuntimeError) as error:
            # RuntimeError: aiohttp's word for a connection that was closed on our side.
            raise self._decoder.error("cut", f"the connection broke: {error or type(error).__name__}") from None
        finally:
            self._waiting = False
        if not chunk:
            raise self._decoder.error("cut", "the connection ended before the answer")
        return chunk

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        self.close()
        self._timer = self._loop.call_at(self._deadline, self._expired)

    def _expired(self) -> None:
        self._timer = None
        if not self._waiting:
            return
        if self._loop.time() < self._deadline:
            self._arm()
            return
        if self._decoder.started:
            error = self._decoder.error("timeout_idle", "the answer paused for too long")
        else:
            error = self._decoder.error("timeout_first", "no first token in time")
        self._content.set_exception(error)


def _forbid_reuse(response: aiohttp.ClientResponse) -> None:
    connection = response.connection
    if connection is not None and response.headers.get("Server") in _CLOSE_AFTER_STREAM:
        protocol = connection.protocol
        # Compared with None: an idle protocol is an empty queue, and so false.
        if protocol is not None:
            protocol.force_close()


def _let_finish(response: aiohttp.ClientResponse) -> None:
    """After `[DONE]` the end of the HTTP body may still be under way: aiohttp gives the connection back for reuse
    when it comes; when it does not come soon, the connection is closed."""
    if response.connection is not None:
        asyncio.get_running_loop().call_later(_LINGER_S, _abort, response)


def _abort(response: aiohttp.ClientResponse) -> None:
    connection = response.connection
    if connection is not None:
        if connection.transport is not None:
            # close() would wait for TLS' farewell and for unsent bytes.
            connection.transport.abort()
        response.close()

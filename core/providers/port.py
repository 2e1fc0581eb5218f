"""The port to model providers: one request in, batches of events out.

An adapter speaks one vendor's protocol and knows nothing of turns, routes, retries or money. It makes
exactly one call per `stream`, never a hidden second one: whoever pays for attempts must see each of them.
"""

from collections.abc import AsyncIterator, Mapping
from typing import Any, Literal, Protocol, TypeAlias

import msgspec

from core.model import Usage

__all__ = [
    "ErrorKind",
    "FinishReason",
    "Finished",
    "PartKind",
    "Provider",
    "ProviderError",
    "ProviderEvent",
    "ProviderMessage",
    "ProviderRequest",
    "ProviderStream",
    "StreamLimits",
    "TextDelta",
    "Usage",
]

PartKind: TypeAlias = Literal["text", "reasoning", "tool_call"]
FinishReason: TypeAlias = Literal["stop", "length", "tool_calls", "content_filter"]
ErrorKind: TypeAlias = Literal[
    "connect",  # no connection: the provider has seen nothing of the request
    "timeout_first",  # nothing of an answer within `deadline_first_token_s`
    "timeout_idle",  # the answer began and then paused for more than `deadline_idle_s`
    "rate_limited",  # refused for now; `retry_after_ms` where the provider said it
    "server",  # the provider failed: HTTP 5xx, or an error event inside the stream
    "bad_request",  # the provider will refuse this request however often it is sent
    "auth",  # the provider refuses our key or our account
    "cut",  # the connection ended before the answer did
    "malformed",  # not the protocol that was expected, or more than the limits allow
]


class ProviderMessage(msgspec.Struct, frozen=True):
    """One message of the context. `role` is `system`, `user`, `assistant` or `tool`."""

    role: str
    content: str


class ProviderRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One call to a provider.

    `model` is the provider's own name of the model. `params` are sampling parameters in OpenAI's names
    (`temperature`, `top_p`, `stop`, `tools`, ...); they cannot override the other fields. Deadlines are in
    seconds: `deadline_first_token_s` bounds everything from the start of the call, connecting included, to
    the first event; `deadline_idle_s` bounds the wait for each later batch of events (the consumer's own
    time between two reads is not counted; comments and keep-alives of the provider are no events).
    `continue_from` is the beginning of the answer: it is sent as a trailing assistant message and is not
    repeated in the events. `tags` are told to providers that are configured to receive them, as headers
    `x-parley-<tag>`; they serve to find an attempt in a provider's own log.
    """

    model: str
    messages: tuple[ProviderMessage, ...]
    max_tokens: int | None = None
    params: Mapping[str, Any] = {}
    deadline_first_token_s: float = 2.0
    deadline_idle_s: float = 30.0
    continue_from: str | None = None
    tags: Mapping[str, str] = {}


class TextDelta(msgspec.Struct, frozen=True, gc=False):
    """Appends `text` (never empty) to part `part` of kind `kind`.

    Parts are numbered within their kind from 0, as `k` and `i` of docs/protocol.md: an answer's text is
    ("text", 0), its reasoning ("reasoning", 0), its tool calls ("tool_call", 0), ("tool_call", 1), ... in
    the order in which they began. The concatenated text of a tool-call part is one JSON document,
    `{"id": string, "name": string, "arguments": string}`, where `arguments` holds the arguments as the model
    wrote them (JSON inside a string, as OpenAI has it, because a model may write invalid JSON). It is complete
    once `Finished` was seen.
    """

    text: str
    kind: PartKind = "text"
    part: int = 0


class Finished(msgspec.Struct, frozen=True, gc=False):
    """The model stopped, and why. No `TextDelta` follows; a `Usage` may."""

    reason: FinishReason


ProviderEvent: TypeAlias = TextDelta | Usage | Finished


class ProviderError(Exception):
    """An attempt failed. `message` is the provider's or the adapter's, fit for a log: it never holds a key.

    `before_text` is true when the iterator has yielded no `TextDelta`. `status` is the HTTP status where there
    was one, `retry_after_ms` the provider's wish where it gave one.
    """

    def __init__(
        self,
        kind: ErrorKind,
        message: str,
        *,
        before_text: bool,
        status: int | None = None,
        retry_after_ms: int | None = None,
    ) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind: ErrorKind = kind
        self.message = message
        self.before_text = before_text
        self.status = status
        self.retry_after_ms = retry_after_ms


class StreamLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What one answer may cost in memory before it fails as `malformed`. Sizes in bytes."""

    line_bytes: int = 1 << 20
    total_bytes: int = 64 << 20
    parts: int = 128


class ProviderStream(Protocol):
    """An answer as it arrives. Every async generator of event lists is one."""

    def __aiter__(self) -> AsyncIterator[list[ProviderEvent]]: ...

    async def __anext__(self) -> list[ProviderEvent]: ...

    async def aclose(self) -> None: ...


class Provider(Protocol):
    """One account at one provider. Safe for any number of concurrent streams on one event loop."""

    @property
    def name(self) -> str:
        """The provider's name in routes, metrics and stored answers."""
        ...

    def stream(self, request: ProviderRequest) -> ProviderStream:
        """Call the provider and yield its answer in batches.

        Nothing is sent before the first `__anext__`.

        Ordering: batches and the events in them come in the provider's order; all `TextDelta`s before the one
        `Finished`. `Usage` is the provider's own count, never estimated; it may come more than once, before or
        after `Finished`: the last one counts.
        Delivery: a batch is never empty and holds every event of what one read of the socket brought. A slow
        consumer stops the reading, and so the provider, after a bounded buffer.
        End: the iterator ends normally only when `Finished` was seen and the provider then closed the
        stream in the way of its protocol (OpenAI: `[DONE]`). Everything else raises `ProviderError`, after the
        events that were read before the failure; a connection that merely ends raises kind `cut`. Where the
        connection breaks while the consumer is away, what had arrived but was not read may be lost.
        Cancellation: `aclose()`, or cancelling the task that awaits `__anext__`, closes the connection at once
        (before `aclose` returns, at latest in the loop's next turn), so that the provider stops generating.
        A consumer that may leave early wraps the stream in `contextlib.aclosing`. `aclose` must not be called
        while another task awaits `__anext__`: cancel that task instead.
        Idempotency: none; every stream is a new, separately charged attempt.
        """
        ...

    async def close(self) -> None:
        """Close all connections; streams still running raise kind `cut`. Calling it again does nothing."""
        ...

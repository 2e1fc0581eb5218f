"""OpenAI's chat completions as bytes: building requests, decoding the stream, reading errors. Sans-IO."""

from email.utils import parsedate_to_datetime
from typing import Any

import msgspec

from core.providers.port import (
    ErrorKind,
    Finished,
    FinishReason,
    PartKind,
    ProviderError,
    ProviderEvent,
    ProviderRequest,
    StreamLimits,
    TextDelta,
    Usage,
)
from core.providers.sse import SSELimitError, SSEParser

MAX_RETRY_AFTER_MS = 3_600_000
_MAX_MESSAGE = 500
# One choice only: deltas of several choices would be mixed into one text.
_NOT_FROM_PARAMS = ("n", "stream", "stream_options", "model", "messages")


class _Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(msgspec.Struct):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    delta: _Delta | None = None
    finish_reason: str | None = None


class _PromptDetails(msgspec.Struct, gc=False):
    cached_tokens: int | None = None


class _CompletionDetails(msgspec.Struct, gc=False):
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int = 0
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None


MOST_TOKENS = 1 << 40

_decode_chunk = msgspec.json.Decoder(_Chunk).decode
_encode = msgspec.json.Encoder().encode

_FINISH: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
    "max_tokens": "length",
}


def encode_request(
    request: ProviderRequest, *, max_tokens_field: str, extra: dict[str, Any], continue_extra: dict[str, Any]
) -> bytes:
    """The JSON body of a streaming call. `extra` and `continue_extra` are the configuration's and win over
    the request's `params`; what makes the stream decodable wins over both."""
    body: dict[str, Any] = {k: v for k, v in request.params.items() if k not in _NOT_FROM_PARAMS}
    if request.max_tokens is not None:
        body.pop("max_tokens", None)
        body.pop("max_completion_tokens", None)
        body[max_tokens_field] = request.max_tokens
    body |= extra
    messages: list[Any] = list(request.messages)
    if request.continue_from is not None:
        body |= continue_extra
        messages.append({"role": "assistant", "content": request.continue_from})
    body["model"] = request.model
    body["messages"] = messages
    body["stream"] = True
    body["stream_options"] = {"include_usage": True}
    return _encode(body)


class _CallPart:
    """A tool call being streamed: its number and what of its JSON document has been emitted."""

    __slots__ = ("call_id", "name", "opened", "part")

    def __init__(self, part: int) -> None:
        self.part = part
        self.call_id = ""
        self.name = ""
        self.opened = False

    def take(self, delta: _ToolCall) -> str:
        function = delta.function
        fragment = (function.arguments or "") if function is not None else ""
        if self.opened:
            return _escape(fragment)
        if not self.call_id:
            self.call_id = delta.id or ""
        if function is not None and function.name:
            self.name += function.name
        # The name may come in pieces; the first piece of the arguments shows that it is whole.
        return self._open() + _escape(fragment) if fragment else ""

    def close(self) -> str:
        return ("" if self.opened else self._open()) + '"}'

    def _open(self) -> str:
        self.opened = True
        return f'{{"id":{_quote(self.call_id)},"name":{_quote(self.name)},"arguments":"'


def _quote(text: str) -> str:
    return _encode(text).decode()


def _escape(text: str) -> str:
    return _encode(text)[1:-1].decode() if text else ""


class AnswerDecoder:
    """One streamed answer: bytes in, events out. `complete` is true once `[DONE]` followed a finish reason,
    `started` once there was any event."""

    def __init__(self, limits: StreamLimits) -> None:
        self._limits = limits
        self._sse = SSEParser(limits.line_bytes)
        self._total = 0
        self._calls: dict[int | str, _CallPart] = {}
        self._last_call: _CallPart | None = None
        self._text_seen = False
        self._finished = False
        self.complete = False
        self.started = False

    def feed(self, data: bytes, out: list[ProviderEvent]) -> None:
        """Append the events that `data` completes to `out`.

        Raises ProviderError (`malformed`, `cut`, or what an error event says); what came before stays in `out`.
        Bytes after the end are ignored.
        """
        self._total += len(data)
        if self._total > self._limits.total_bytes:
            raise self.error("malformed", f"the answer is longer than {self._limits.total_bytes} bytes")
        try:
            events = self._sse.feed(data)
        except SSELimitError as error:
            raise self.error("malformed", str(error)) from None
        for event in events:
            if self.complete:
                return
            if event.data == b"[DONE]":
                if not self._finished:
                    raise self.error("cut", "the stream was closed before the model's finish reason")
                self.complete = True
            else:
                self._chunk(event.data, out)
        self.started = self.started or bool(out)

    def error(self, kind: ErrorKind, message: str) -> ProviderError:
        """An error of this answer, with `before_text` as it stands."""
        return ProviderError(kind, message, before_text=not self._text_seen)

    def _chunk(self, data: bytes, out: list[ProviderEvent]) -> None:
        try:
            chunk = _decode_chunk(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise self.error("malformed", f"a chunk is not a chat completion chunk: {error}") from None
        if chunk.error is not None:
            raise stream_error(chunk.error, before_text=not self._text_seen)
        for choice in chunk.choices or ():
            if choice.index == 0:
                self._choice(choice, out)
        if chunk.usage is not None and (usage := _usage(chunk.usage)) is not None:
            out.append(usage)

    def _choice(self, choice: _Choice, out: list[ProviderEvent]) -> None:
        delta = choice.delta
        if delta is not None and not self._finished:
            self._emit(out, "reasoning", delta.reasoning_content or delta.reasoning)
            self._emit(out, "text", delta.content)
            self._emit(out, "text", delta.refusal)
            for call in delta.tool_calls or ():
                self._tool_call(call, out)
        if choice.finish_reason is not None and not self._finished:
            if choice.finish_reason == "error":
                raise self.error("server", "the provider ended the answer with finish_reason error")
            for part in self._calls.values():
                self._emit(out, "tool_call", part.close(), part.part)
            self._finished = True
            out.append(Finished(_FINISH.get(choice.finish_reason, "stop")))

    def _tool_call(self, call: _ToolCall, out: list[ProviderEvent]) -> None:
        part: _CallPart | None
        # Some servers number the calls, some only name them, some only go on with the last one.
        key = call.index if call.index is not None else call.id
        part = self._last_call if key is None else self._calls.get(key)
        if part is None:
            if len(self._calls) >= self._limits.parts:
                raise self.error("malformed", f"the answer has more than {self._limits.parts} tool calls")
            part = _CallPart(len(self._calls))
            self._calls[part.part if key is None else key] = part
        self._last_call = part
        self._emit(out, "tool_call", part.take(call), part.part)

    def _emit(self, out: list[ProviderEvent], kind: PartKind, text: str | None, part: int = 0) -> None:
        if text:
            self._text_seen = True
            out.append(TextDelta(text, kind, part))


def _usage(usage: _Usage) -> Usage | None:
    """What the provider counted; None where that cannot be, as nobody is charged by such a figure."""
    prompt, completion = usage.prompt_tokens_details, usage.completion_tokens_details
    counts = (
        usage.prompt_tokens,
        usage.completion_tokens,
        (prompt.cached_tokens or 0) if prompt is not None else 0,
        (completion.reasoning_tokens or 0) if completion is not None else 0,
    )
    return Usage(*counts) if all(0 <= count <= MOST_TOKENS for count in counts) else None


def kind_of_status(status: int) -> ErrorKind:
    """What an HTTP status other than 200 says about the attempt."""
    if status == 429:
        return "rate_limited"
    if status in (401, 402, 403):
        return "auth"
    if status >= 500 or status == 408:
        return "server"
    return "bad_request" if 400 <= status < 500 else "malformed"


def stream_error(error: Any, *, before_text: bool) -> ProviderError:
    """The ProviderError for an error object inside a stream that began with HTTP 200."""
    message, code, error_type = _error_fields(error)
    if isinstance(code, int) and 400 <= code < 600:
        return ProviderError(kind_of_status(code), message, before_text=before_text, status=code)
    limited = "rate_limit" in f"{code} {error_type}"
    return ProviderError("rate_limited" if limited else "server", message, before_text=before_text)


def response_error(status: int, body: bytes, headers: Any) -> ProviderError:
    """The ProviderError for an HTTP response that is not a stream. `headers` is a case-insensitive mapping."""
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        document = body.decode("utf-8", "replace")
    error = document.get("error", document) if isinstance(document, dict) else document
    message, _, _ = _error_fields(error)
    return ProviderError(
        kind_of_status(status),
        f"HTTP {status}: {message}",
        before_text=True,
        status=status,
        retry_after_ms=retry_after_ms(headers),
    )


def _error_fields(error: Any) -> tuple[str, Any, Any]:
    if isinstance(error, dict):
        message = error.get("message")
        text = message if isinstance(message, str) else _encode(error).decode()
        return text[:_MAX_MESSAGE], error.get("code"), error.get("type")
    return str(error)[:_MAX_MESSAGE], None, None


def retry_after_ms(headers: Any) -> int | None:
    """`retry-after-ms`, or `Retry-After` in seconds or as a date, in milliseconds; at most an hour.

    A date is measured against the response's own `Date`, so no clock of ours is involved.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is None:
        value = headers.get("Retry-After")
        seconds = _number(value)
        if seconds is None and value is not None and (sent := headers.get("Date")) is not None:
            try:
                seconds = (parsedate_to_datetime(value) - parsedate_to_datetime(sent)).total_seconds()
            except (ValueError, TypeError):
                return None
        milliseconds = None if seconds is None else seconds * 1000
    if milliseconds is None:
        return None
    return int(min(max(milliseconds, 0), MAX_RETRY_AFTER_MS))


def _number(value: str | None) -> float | None:
    try:
        number = float(value) if value is not None else None
    except ValueError:
        return None
    return number if number is not None and number == number else None

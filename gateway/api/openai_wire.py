"""OpenAI's chat completions on the wire: the request as we take it, the answer and its chunks as we give them."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec

from core.errors import ParleyError
from core.model import Piece, Usage
from gateway.api.bodies import decode
from gateway.api.completions_port import ChatMessage, Completed, CompletionRequest

MAX_MESSAGES: Final = 2_000

_encode = msgspec.json.Encoder().encode

Penalty = Annotated[float, msgspec.Meta(ge=-2, le=2)]
Tokens = Annotated[int, msgspec.Meta(ge=1, lt=2**31)]
Stop = Annotated[str, msgspec.Meta(max_length=256)]


class _TextPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: Literal["text"]
    text: str


class _Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[_TextPart]
    name: str | None = None


class _StreamOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    include_usage: bool = False
    include_obfuscation: bool = False


class _TextFormat(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: Literal["text"]


class ChatRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Every field that is taken; one that is not here is refused by its name. `user` and `metadata` change nothing."""

    model: Annotated[str, msgspec.Meta(max_length=128)]
    messages: Annotated[list[_Message], msgspec.Meta(min_length=1, max_length=MAX_MESSAGES)]
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    stop: Stop | Annotated[list[Stop], msgspec.Meta(min_length=1, max_length=4)] | None = None
    seed: Annotated[int, msgspec.Meta(ge=-(2**53), le=2**53)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=1)] | None = None
    store: bool | None = None
    response_format: _TextFormat | None = None
    user: str | None = None
    safety_identifier: str | None = None
    metadata: dict[str, str] | None = None

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    def to_request(self, call: str) -> CompletionRequest:
        names = ("temperature", "top_p", "stop", "seed", "presence_penalty", "frequency_penalty")
        params: dict[str, Any] = {name: value for name in names if (value := getattr(self, name)) is not None}
        return CompletionRequest(
            call=call,
            model=self.model,
            messages=tuple(_to_message(message) for message in self.messages),
            params=params,
            max_tokens=self.max_completion_tokens or self.max_tokens,
        )


def decode_request(raw: bytes) -> ChatRequest:
    """Raises `malformed` or `invalid` with the field."""
    try:
        request = decode(raw, ChatRequest)
    except ParleyError as error:
        if error.param in ("tools", "tool_choice", "functions", "function_call"):
            raise ParleyError("invalid", "Tools are not offered on this resource.", param=error.param) from error
        raise
    if request.store:
        message = "Nothing is stored here; use the conversations, or leave store out."
        raise ParleyError("invalid", message, param="store")
    if request.stream_options is not None and not request.stream:
        raise ParleyError("invalid", "stream_options is for streams: set stream to true.", param="stream_options")
    return request


def _to_message(message: _Message) -> ChatMessage:
    role: Literal["system", "user", "assistant"] = "system" if message.role == "developer" else message.role
    content = message.content
    return ChatMessage(role, content if isinstance(content, str) else "".join(part.text for part in content))


class Answer:
    """Gathers an answer's pieces into one `chat.completion`."""

    def __init__(self, identifier: str, created: int, model: str) -> None:
        self._head = {"id": identifier, "object": "chat.completion", "created": created, "model": model}
        self._text: dict[str, list[str]] = {"text": [], "reasoning": []}
        self.size = 0

    def take(self, piece: Piece) -> None:
        if piece.k in self._text:
            self._text[piece.k].append(piece.d)
            self.size += len(piece.d)

    def body(self, completed: Completed) -> bytes:
        message: dict[str, Any] = {"role": "assistant", "content": "".join(self._text["text"]), "refusal": None}
        if self._text["reasoning"]:
            message["reasoning_content"] = "".join(self._text["reasoning"])
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": completed.finish_reason}
        return _encode({**self._head, "choices": [choice], "usage": usage_out(completed.usage)})


class Chunks:
    """An answer's events as `chat.completion.chunk`s. What is the same in all of them is encoded once."""

    def __init__(self, identifier: str, created: int, model: str, include_usage: bool) -> None:
        head = _encode(
            {"id": identifier, "object": "chat.completion.chunk", "created": created, "model": model}
        ).removesuffix(b"}")
        # With the usage asked for every other chunk says that it has none.
        tail = b',"usage":null}\n\n' if include_usage else b"}\n\n"
        self._include_usage = include_usage
        self._head = b"data: " + head
        self._delta = self._head + b',"choices":[{"index":0,"delta":'
        self._more = b',"logprobs":null,"finish_reason":null}]' + tail
        self._tail = tail

    def first(self) -> bytes:
        return self._delta + b'{"role":"assistant","content":""}' + self._more

    def piece(self, piece: Piece) -> bytes:
        """Text or reasoning; other kinds have no place here and give nothing."""
        if piece.k == "text":
            return self._delta + b'{"content":' + _encode(piece.d) + b"}" + self._more
        if piece.k == "reasoning":
            return self._delta + b'{"reasoning_content":' + _encode(piece.d) + b"}" + self._more
        return b""

    def last(self, completed: Completed) -> bytes:
        """The finish reason, the usage where it was asked for, and the end of the stream."""
        return self.end(completed.finish_reason, usage_out(completed.usage))

    def end(self, finish_reason: str, usage: dict[str, Any]) -> bytes:
        end = self._delta + b'{},"logprobs":null,"finish_reason":' + _encode(finish_reason) + b"}]" + self._tail
        if self._include_usage:
            end += self._head + b',"choices":[],"usage":' + _encode(usage) + b"}\n\n"
        return end + b"data: [DONE]\n\n"


class _StoredMessage(msgspec.Struct):
    content: str
    reasoning_content: str = ""


class _StoredChoice(msgspec.Struct):
    message: _StoredMessage
    finish_reason: str


class _Stored(msgspec.Struct):
    """A `chat.completion` of ours, read again."""

    id: str
    created: int
    model: str
    choices: tuple[_StoredChoice]
    usage: dict[str, Any]


def replay(body: bytes, include_usage: bool) -> bytes:
    """A finished `chat.completion` as the stream that it would have been."""
    stored = msgspec.json.decode(body, type=_Stored)
    (choice,) = stored.choices
    chunks = Chunks(stored.id, stored.created, stored.model, include_usage)
    pieces = [Piece("reasoning", 0, choice.message.reasoning_content), Piece("text", 0, choice.message.content)]
    text = b"".join(chunks.piece(piece) for piece in pieces if piece.d)
    return chunks.first() + text + chunks.end(choice.finish_reason, stored.usage)


def usage_out(usage: Usage) -> dict[str, Any]:
    """Tokens in OpenAI's shape."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }

"""OpenAI's streamed answers, as far as the generators read them; and what the scripted provider is asked for."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta


class _Chunk(msgspec.Struct):
    choices: list[_Choice]


_decode = msgspec.json.Decoder(_Chunk).decode


def text_of(event: bytes) -> str:
    """The text that an event adds; empty for the first chunk, the last one, and `[DONE]`."""
    if event == b"[DONE]":
        return ""
    return "".join(choice.delta.content or "" for choice in _decode(event).choices)


def question(seed: int, deltas: int, delay_ms: float) -> str:
    """A message that the scripted provider answers with `deltas` pieces, `delay_ms` apart; equal seeds, equal text."""
    script = msgspec.json.encode({"chunks": deltas, "delay_ms": delay_ms, "seed": seed}).decode()
    return f"[[mock {script}]]"


def body(model: str, content: str, *, stream: bool) -> bytes:
    """A request of OpenAI's chat completions."""
    message = {"role": "user", "content": content}
    fields: dict[str, Any] = {"model": model, "messages": [message], "stream": stream}
    return msgspec.json.encode(fields | ({"stream_options": {"include_usage": True}} if stream else {}))


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]

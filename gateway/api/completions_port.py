"""What the OpenAI-compatible resources need of the platform: one answer to one list of messages, nothing stored."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Literal, Protocol, TypeAlias

import msgspec

from core.model import Piece, Usage
from gateway.identity import Identity

ChatRole = Literal["system", "user", "assistant"]
FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]


class ChatMessage(msgspec.Struct, frozen=True):
    role: ChatRole
    content: str


class CompletionRequest(msgspec.Struct, frozen=True, kw_only=True):
    """`call` is the id under which the client is answered. `params` are sampling parameters in OpenAI's names;
    `max_tokens` bounds the answer, None: as the model allows.
    """

    call: str
    model: str
    messages: tuple[ChatMessage, ...]
    params: dict[str, Any]
    max_tokens: int | None


class Admitted(msgspec.Struct, frozen=True, kw_only=True):
    """The call may run: what is left of the caller's limits. `reset_ms`: until they are whole again."""

    requests_limit: int
    requests_remaining: int
    tokens_limit: int
    tokens_remaining: int
    reset_ms: int


class Completed(msgspec.Struct, frozen=True, kw_only=True):
    """The answer is whole; its usage is recorded or about to be."""

    finish_reason: FinishReason
    usage: Usage


CompletionEvent: TypeAlias = Admitted | Piece | Completed


class Completions(Protocol):
    """Stateless answers.

    `stream` is an async generator of batches, none empty. Ordering: `Admitted` first, alone; then pieces in their
    order; `Completed` is the last event. Whatever goes wrong is raised as `ParleyError`: before any piece it is an
    ordinary refusal; after one the answer broke off, and what was used is charged as the ledger's rules say.
    Cancellation: `aclose` (or cancelling the step that is awaited) cancels the call at the provider. A slow reader
    stops the reading.
    """

    def stream(self, identity: Identity, request: CompletionRequest) -> AsyncIterator[list[CompletionEvent]]: ...

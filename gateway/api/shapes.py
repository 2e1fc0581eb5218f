"""What resources answer. Times are milliseconds since the Unix epoch."""

from __future__ import annotations

from typing import Literal

import msgspec

from core.accounts.model import ApiKey, Conversation, Role, Scope, Status, User
from core.history.port import Stored
from core.ids import generation_id, uuid7_ms
from core.model import Part, PartKind, TurnKind, Usage
from gateway.api.turns_port import GenerationStatus


class UserOut(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    email: str
    name: str
    role: Role
    zone: str
    status: Status
    created_at: int

    @classmethod
    def of(cls, user: User) -> UserOut:
        return cls(
            id=user.id,
            email=user.email,
            name=user.name,
            role=user.role,
            zone=user.zone,
            status=user.status,
            created_at=user.created_at_ms,
        )


class KeyOut(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`key` is the secret: there once, in the answer that made it."""

    id: str
    name: str
    prefix: str
    scopes: tuple[Scope, ...]
    created_at: int
    last_used_at: int | None = None
    key: str | None = None

    @classmethod
    def of(cls, key: ApiKey, secret: str | None = None) -> KeyOut:
        return cls(
            id=key.id,
            name=key.name,
            prefix=key.prefix,
            scopes=key.scopes,
            created_at=key.created_at_ms,
            last_used_at=key.last_used_at_ms,
            key=secret,
        )


class ConversationOut(msgspec.Struct, frozen=True, kw_only=True):
    """`leaf_id` ends the branch that is shown; `updated_at` is the latest activity."""

    id: str
    title: str
    model: str | None
    leaf_id: str | None
    pinned: bool
    starred: bool
    archived: bool
    created_at: int
    updated_at: int

    @classmethod
    def of(cls, conversation: Conversation) -> ConversationOut:
        return cls(
            id=conversation.id,
            title=conversation.title,
            model=conversation.model,
            leaf_id=conversation.leaf,
            pinned=conversation.pinned,
            starred=conversation.starred,
            archived=conversation.archived,
            created_at=conversation.created_at_ms,
            updated_at=conversation.active_at_ms,
        )


class ConversationPage(msgspec.Struct, frozen=True):
    data: list[ConversationOut]
    next_cursor: str | None


class MessageOut(msgspec.Struct, frozen=True, kw_only=True):
    """A user's message or an answer. `kind` is how its turn came about; `source_id` is the answer that a regeneration
    replaces or a continuation goes on from. What only answers have is null on messages; `cost` in nano-USD.
    """

    id: str
    role: Literal["user", "assistant"]
    parent_id: str | None
    content: str
    status: GenerationStatus
    kind: TurnKind
    created_at: int
    source_id: str | None = None
    generation_id: str | None = None
    parts: list[Part] | None = None
    epoch: int | None = None
    seq: int | None = None
    finish_reason: str | None = None
    usage: Usage | None = None
    cost: int | None = None
    model: str | None = None
    provider: str | None = None
    code: str | None = None
    message: str | None = None


class MessagePage(msgspec.Struct, frozen=True):
    data: list[MessageOut]
    next_cursor: str | None


def join_parts(stored: Stored) -> list[Part]:
    """The text of an answer, part by part, from its increments."""
    texts: dict[tuple[int, PartKind], list[str]] = {}
    for increment in stored.increments:
        for piece in increment.pieces:
            texts.setdefault((piece.i, piece.k), []).append(piece.d)
    return [Part(i, k, "".join(pieces)) for (i, k), pieces in sorted(texts.items())]


def user_message(stored: Stored) -> MessageOut | None:
    """The message of a turn; None where the turn answers an earlier one once more."""
    opened = stored.turn.opened
    if opened.kind != "send":
        return None
    conversation = opened.key.conversation_id
    return MessageOut(
        id=opened.key.turn_id,
        role="user",
        parent_id=generation_id(conversation, opened.parent_turn) if opened.parent_turn else None,
        content=opened.content,
        status="done",
        kind=opened.kind,
        created_at=uuid7_ms(opened.key.turn_id),
    )


def answer(stored: Stored) -> MessageOut:
    """The answer of a turn, as stored so far. It follows its message; a continuation follows the answer that it
    continues.
    """
    turn, end = stored.turn, stored.turn.end
    opened = turn.opened
    conversation = opened.key.conversation_id
    identifier = generation_id(conversation, opened.key.turn_id)
    source = generation_id(conversation, opened.source_turn) if opened.source_turn else None
    parts = join_parts(stored)
    last = stored.increments[-1].seq if stored.increments else -1
    return MessageOut(
        id=identifier,
        role="assistant",
        parent_id=source if opened.kind == "continue" else opened.message_turn,
        content="".join(part.d for part in parts if part.k == "text"),
        status=end.kind if end else "running",
        kind=opened.kind,
        created_at=uuid7_ms(opened.key.turn_id),
        source_id=source,
        generation_id=identifier,
        parts=parts,
        epoch=end.epoch if end else turn.epoch,
        seq=end.seq if end else last,
        finish_reason=end.finish_reason if end else None,
        usage=end.usage if end else None,
        cost=end.cost if end else None,
        model=end.model if end else opened.model,
        provider=end.provider if end else None,
        code=end.code if end else None,
        message=end.message if end else None,
    )

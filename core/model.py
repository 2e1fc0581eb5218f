"""Domain structs and the frames of docs/protocol.md. Field types here are the truth that clients rely on."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

MAX_CONTENT_BYTES = 64 * 1024
MAX_PIECE_BYTES = 32 * 1024

TurnKind = Literal["send", "regenerate", "continue"]
EndKind = Literal["done", "cancelled", "interrupted", "failed"]
PartKind = Literal["text", "reasoning", "tool_call", "citation"]
ShortText = Annotated[str, msgspec.Meta(max_length=64)]


class Usage(msgspec.Struct, frozen=True, omit_defaults=True):
    """Tokens of one attempt. `estimated`: counted by us because the provider gave no figure."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    estimated: bool = False


class Piece(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A run of text of one part of an answer: part `i` of kind `k` grows by `d`."""

    k: PartKind
    i: int
    d: str


class Increment(msgspec.Struct, frozen=True):
    """Stored text of an answer: number `i` (from 0, without gaps) of its epoch, complete up to delta `seq`."""

    i: int
    seq: int
    pieces: tuple[Piece, ...]


class End(msgspec.Struct, frozen=True, kw_only=True):
    """The one end of a turn, as stored. `seq` is the last delta of the text and -1 for none; `chunks` is how many
    increments of `epoch` belong to it. `attempt` is the one attempt charged to the user, or None. `cost` in nano-USD.
    """

    kind: EndKind
    epoch: int
    run: str
    writer: str
    chunks: int
    seq: int
    finish_reason: str
    model: str
    provider: str = ""
    usage: Usage | None = None
    cost: int = 0
    attempt: str | None = None
    code: str | None = None
    message: str | None = None
    hash: str = ""


class TurnKey(msgspec.Struct, frozen=True):
    """The address of a turn: the same `turn_id` in two conversations is two turns."""

    conversation_id: str
    turn_id: str


class NewTurn(msgspec.Struct, frozen=True, kw_only=True):
    """What `open` writes once and nobody changes. `message_turn` holds the user's message that is answered (itself for
    a send); `parent_turn` is the turn whose answer that message follows; `source_turn` is the turn whose answer is
    regenerated or continued. `max_tokens` bounds the answer and is what was reserved.
    """

    key: TurnKey
    owner: str
    kind: TurnKind
    message_turn: str
    parent_turn: str | None
    source_turn: str | None
    content: str
    model: str
    price_version: int
    params: dict[str, Any]
    max_tokens: int
    body_hash: str
    run: str
    since_ms: int


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """A turn's row: what was opened, and where its state stands now. `run` and `since_ms` are the current epoch's."""

    opened: NewTurn
    epoch: int
    run: str
    since_ms: int
    cancelled: bool = False
    end: End | None = None

    @property
    def key(self) -> TurnKey:
        return self.opened.key


class ClientFrame(msgspec.Struct, frozen=True, tag_field="type", kw_only=True):
    """Base of all frames a client may send."""


class Send(ClientFrame, frozen=True, tag="send", kw_only=True):
    conversation_id: str
    content: str
    message_id: str | None = None
    parent_id: str | None = None
    files: list[str] = []
    model: str | None = None
    params: dict[str, Any] = {}


class Regenerate(ClientFrame, frozen=True, tag="regenerate", kw_only=True):
    generation_id: str
    turn_id: str | None = None
    model: str | None = None


class Continue(ClientFrame, frozen=True, tag="continue", kw_only=True):
    generation_id: str
    turn_id: str | None = None


class Resume(ClientFrame, frozen=True, tag="resume", kw_only=True):
    generation_id: str
    epoch: int
    seq: int


class Cancel(ClientFrame, frozen=True, tag="cancel", kw_only=True):
    generation_id: str


class Ping(ClientFrame, frozen=True, tag="ping", kw_only=True):
    t: int | float | ShortText | None = None


class ServerFrame(msgspec.Struct, frozen=True, tag_field="type", kw_only=True, omit_defaults=True):
    """Base of all frames a server may send."""


class Welcome(ServerFrame, frozen=True, tag="welcome", kw_only=True):
    connection_id: str
    user: str
    time: int
    heartbeat_s: float
    limits: dict[str, int]


class Accepted(ServerFrame, frozen=True, tag="accepted", kw_only=True):
    message_id: str
    generation_id: str
    duplicate: bool = False


class Queued(ServerFrame, frozen=True, tag="queued", kw_only=True):
    generation_id: str
    position: int
    eta_s: float


class Resumed(ServerFrame, frozen=True, tag="resumed", kw_only=True):
    generation_id: str
    epoch: int
    seq: int


class Delta(ServerFrame, frozen=True, tag="delta", kw_only=True):
    g: str
    e: int
    n: int
    d: str
    k: PartKind = "text"
    i: int = 0


class Part(msgspec.Struct, frozen=True):
    i: int
    k: PartKind
    d: str


class Snapshot(ServerFrame, frozen=True, tag="snapshot", kw_only=True, omit_defaults=False):
    generation_id: str
    epoch: int
    seq: int
    at: int
    parts: list[Part]
    more: bool


class Restart(ServerFrame, frozen=True, tag="restart", kw_only=True):
    generation_id: str
    epoch: int
    reason: str


class EndFrame(ServerFrame, frozen=True, kw_only=True, omit_defaults=False):
    generation_id: str
    epoch: int
    seq: int
    finish_reason: str
    usage: Usage | None
    cost: int
    model: str
    provider: str
    code: str | None = None
    message: str | None = None


class Done(EndFrame, frozen=True, tag="done", kw_only=True):
    """The answer is complete."""


class Cancelled(EndFrame, frozen=True, tag="cancelled", kw_only=True):
    """The user stopped it; the text so far is kept."""


class Interrupted(EndFrame, frozen=True, tag="interrupted", kw_only=True):
    """It broke off; the text so far is kept and can be continued."""


class Failed(EndFrame, frozen=True, tag="failed", kw_only=True):
    """There is no answer; `code` and `message` say why."""


class ErrorFrame(ServerFrame, frozen=True, tag="error", kw_only=True, omit_defaults=False):
    code: str
    message: str
    retryable: bool
    message_id: str | None = None
    turn_id: str | None = None
    generation_id: str | None = None
    retry_after_ms: int | None = None
    param: str | None = None


class Notice(ServerFrame, frozen=True, tag="notice", kw_only=True):
    code: str
    message: str
    generation_id: str | None = None


class Event(ServerFrame, frozen=True, tag="event", kw_only=True):
    name: str
    data: dict[str, Any]


class Pong(ServerFrame, frozen=True, tag="pong", kw_only=True, omit_defaults=False):
    t: int | float | str | None


class Drain(ServerFrame, frozen=True, tag="drain", kw_only=True):
    reconnect_after_ms: int


END_FRAMES: dict[EndKind, type[EndFrame]] = {
    "done": Done,
    "cancelled": Cancelled,
    "interrupted": Interrupted,
    "failed": Failed,
}


def end_frame(generation_id: str, end: End) -> EndFrame:
    """The frame that tells a stored end."""
    return END_FRAMES[end.kind](
        generation_id=generation_id,
        epoch=end.epoch,
        seq=end.seq,
        finish_reason=end.finish_reason,
        usage=end.usage,
        cost=end.cost,
        model=end.model,
        provider=end.provider,
        code=end.code,
        message=end.message,
    )

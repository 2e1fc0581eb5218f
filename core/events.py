"""What travels on the bus: subjects and payloads. Encoded as MessagePack arrays; a message for an edge is a batch.

Subjects:
- `turns.<zone>.<pool>`: `Dispatch`, to one router of the queue group `routers`
- `edge.<gateway>`: a batch of `EdgeMessage`, to one gateway process
- `router.<router>`: `Go` and `No`, to one router process
- `run.<generation>`: `RunMessage`, to every router that works or worked on the answer, and to a gateway that holds it
queued
"""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec

from core.model import End, Piece, TurnKey


class Message(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Base of all bus messages; the tag is the class name."""


class Dispatch(Message, frozen=True):
    """Work: answer this epoch of this turn. May arrive twice; a router starts a run once."""

    generation: str
    key: TurnKey
    epoch: int
    run: str
    edge: str


class Go(Message, frozen=True):
    """The arbiter's grant to the first router that said `Taken`. May arrive twice."""

    generation: str
    epoch: int
    run: str


class No(Message, frozen=True):
    """The arbiter's refusal: drop it."""

    generation: str
    epoch: int
    run: str


class Attach(Message, frozen=True):
    """Watch this answer: send what follows delta `seq` of `epoch` (-1, -1: everything), then live text, to `edge`."""

    generation: str
    edge: str
    epoch: int
    seq: int


class Detach(Message, frozen=True):
    """Nobody at `edge` watches any more."""

    generation: str
    edge: str


class CancelRun(Message, frozen=True):
    """The cancel flag is set in history; end it. Repeated until an end is read."""

    generation: str


class Stop(Message, frozen=True):
    """A newer epoch is known: every run with a smaller epoch stops and writes nothing."""

    generation: str
    epoch: int


RunMessage: TypeAlias = Attach | Detach | CancelRun | Stop
GrantMessage: TypeAlias = Go | No


class Taken(Message, frozen=True):
    """A router offers to run this epoch and waits for the arbiter's `Go`."""

    generation: str
    epoch: int
    run: str
    router: str


class Text(Message, frozen=True, gc=False):
    """Delta `seq` (from 0, without gaps within the epoch). Live text and a resumed tail look the same."""

    generation: str
    epoch: int
    run: str
    seq: int
    piece: Piece


class Life(Message, frozen=True, gc=False):
    """What a heartbeat says of one run; `seq` is its last delta, so that a lost tail is noticed."""

    generation: str
    epoch: int
    run: str
    seq: int
    ended: bool


class Beat(Message, frozen=True):
    """A router's heartbeat, every 500 ms, to each gateway that watches any of its runs."""

    router: str
    lives: list[Life]


class Held(Message, frozen=True):
    """A gateway holds this epoch in its queue: the lease that makes a waiting turn owned."""

    generation: str
    epoch: int
    run: str


class Ended(Message, frozen=True):
    """The end that history holds."""

    generation: str
    end: End


class Superseded(Message, frozen=True):
    """This run was refused by history and stopped: read the row."""

    generation: str
    epoch: int
    run: str


class Finishing(Message, frozen=True):
    """The text is complete and history cannot be written yet: an end will follow; nothing has ended."""

    generation: str
    epoch: int
    run: str


class UserEvent(Message, frozen=True):
    """Something of the user's changed elsewhere."""

    user: str
    name: str
    data: dict[str, Any]


class SessionRevoked(Message, frozen=True):
    """A login session ended: its sockets close with 4401. `session` empty: all of the user's."""

    user: str
    session: str


EdgeMessage: TypeAlias = Taken | Text | Beat | Held | Ended | Superseded | Finishing | UserEvent | SessionRevoked

"""History: turns as rows that move by compare-and-set, and the text of answers (docs/turns.md)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from core.model import End, Increment, NewTurn, Turn, TurnKey


class Applied(msgspec.Struct, frozen=True):
    """The conditional write was made; `turn` is the row after it."""

    turn: Turn


class Refused(msgspec.Struct, frozen=True):
    """The condition did not hold; `turn` is the row as it stands, None where there is none (or no such
    conversation).
    """

    turn: Turn | None


class Home(msgspec.Struct, frozen=True):
    """Whose a conversation is and where it lives. `deleted_at_ms` set: hidden everywhere."""

    owner: str
    zone: str
    deleted_at_ms: int | None = None


class Look(msgspec.Struct, frozen=True):
    """What is there when a turn is about to be opened; each is None where there is none."""

    home: Home | None
    turn: Turn | None
    parent: Turn | None


class PathTurn(msgspec.Struct, frozen=True):
    """One step of the way from an answer back to the root: the user's message and the whole text answered to it."""

    turn: Turn
    content: str
    answer: str


class Stored(msgspec.Struct, frozen=True):
    """A turn in a listing. `pieces` is the answer's text as stored so far: of the end's epoch, or of the running
    one.
    """

    turn: Turn
    increments: tuple[Increment, ...]


class Page(msgspec.Struct, frozen=True):
    """Turns newest first; `before` continues the listing and is None at its end."""

    turns: tuple[Stored, ...]
    before: str | None


class History(Protocol):
    """Rows of turns. A state row is only ever written by `open`, `claim`, `cancel` and `end`.

    Ordering: the writes of one turn are linearisable; across turns nothing is promised. Every read here sees all
    writes that were acknowledged before it began. Delivery: a write that returned is durable on a majority.
    Idempotency: each conditional write is repeated inside the adapter, identical, while its result is unknown and the
    deadline allows (rule 1: refused with my own run in the row counts as applied, unless the row has since ended or
    been cancelled). Errors: `Unavailable`: nothing was changed; `Unknown`: the result could not be learned in time;
    repeat it, identical. Cancellation: a cancelled write may have been applied.
    """

    async def create_conversation(self, conversation_id: str, owner: str, zone: str) -> Home:
        """Makes the conversation unless it exists; returns what is stored (perhaps another owner's: check it)."""
        ...

    async def home(self, conversation_id: str) -> Home | None:
        """Owner and zone, deleted or not."""
        ...

    async def set_deleted(self, conversation_id: str, deleted_at_ms: int | None) -> bool:
        """Hides (or restores) a conversation, conditionally on its being there and in the other state."""
        ...

    async def open(self, turn: NewTurn) -> Applied | Refused:
        """Writes message and state `{epoch 0, run, since}`, only if the turn is absent and the conversation not
        deleted.

        Lists the turn among the open ones first or atomically with it. `Refused(None)`: the conversation is deleted.
        """
        ...

    async def claim(self, key: TurnKey, epoch: int, run: str, since_ms: int) -> Applied | Refused:
        """Starts epoch `epoch + 1`, only if the row's epoch is `epoch` and it has neither ended nor been cancelled."""
        ...

    async def cancel(self, key: TurnKey) -> Applied | Refused:
        """Sets the flag, only if it has not ended. Cancelled already counts as applied."""
        ...

    async def end(self, key: TurnKey, end: End) -> Applied | Refused:
        """Ends the turn, only if it has not ended and its epoch is `end.epoch`. My own stored end counts as applied."""
        ...

    async def append(self, key: TurnKey, epoch: int, increment: Increment) -> None:
        """Stores text (≤ 32 KiB). A plain write: the same bytes may be written again, and it never touches the row."""
        ...

    async def read(self, key: TurnKey) -> Turn | None:
        """The row, read serially: it reflects every conditional write that took effect before."""
        ...

    async def read_text(self, key: TurnKey, epoch: int, limit: int | None = None) -> list[Increment]:
        """The increments of an epoch from 0, up to the first gap; `limit` is the end's `chunks`."""
        ...

    async def path(self, key: TurnKey, max_chars: int) -> tuple[Turn, list[PathTurn]] | None:
        """The row and, newest first, the path of its ancestors (parent turns), read together.

        The first element of the path belongs to the turn itself: its message, and as `answer` what a continuation
        goes on from ("" otherwise). An ancestor's answer is joined with the answers it continues. Stops once
        `max_chars` characters were gathered.
        """
        ...

    async def look(self, conversation_id: str, turn_id: str | None, parent_id: str | None) -> Look:
        """What opening a turn asks, read together: the conversation, the turn of that id, and the turn that it follows,
        which is `parent_id` or, where that is None, the one with the greatest id.
        """
        ...

    async def page(self, conversation_id: str, before: str | None, limit: int) -> Page:
        """A page of turns, newest first; `before` is a turn id. `limit` ≤ 100."""
        ...

    async def open_turns(self, idle_ms: int, limit: int) -> list[Turn]:
        """Turns still listed as open whose newest of open, claim and increment is at least `idle_ms` old.

        Oldest first; the age is by the store's own clock, so that a caller's jumped clock ends no live turn.
        """
        ...

    async def close_listing(self, keys: Sequence[TurnKey]) -> None:
        """Takes turns off the list of open ones: they have ended and their usage record is acknowledged.

        One that has not ended stays listed.
        """
        ...

    async def close(self) -> None:
        """Releases connections. Idempotent."""
        ...

"""What a router's turn asks its shell to do. Each that has a result names the method that takes it back."""

from __future__ import annotations

import msgspec

from core.events import EdgeMessage
from core.ledger.port import Entry
from core.model import End, Increment


class Effect(msgspec.Struct, frozen=True, gc=False):
    """Base of all effects."""


class Tell(Effect, frozen=True):
    """Send to every watching edge, in this order."""

    messages: list[EdgeMessage]


class TellOne(Effect, frozen=True):
    """Send to one edge, in this order."""

    edge: str
    messages: list[EdgeMessage]


class Serve(Effect, frozen=True):
    """Listen on `run.<generation>`."""


class ReadPath(Effect, frozen=True):
    """Read row and context together and choose routes; answered by `on_ready`, `on_unready` or `on_unread`."""

    asked_at: float


class Reread(Effect, frozen=True):
    """Read the row serially; answered by `on_row` or `on_row_failed`."""

    asked_at: float


class Call(Effect, frozen=True):
    """Call the provider of route `route`; answered by `on_events`, then `on_finished` or `on_failed`."""

    attempt: str
    route: int


class HangUp(Effect, frozen=True):
    """Close the provider's connection at once; nothing of it is answered any more."""

    attempt: str


class Record(Effect, frozen=True):
    """Publish a usage record or spool it; answered by `on_recorded` or `on_unrecorded`."""

    entry: Entry


class Append(Effect, frozen=True):
    """Store an increment; answered by `on_appended` or `on_append_failed`. At most one at a time."""

    epoch: int
    increment: Increment


class ClaimNext(Effect, frozen=True):
    """Claim the next epoch; answered by `on_claimed` or `on_claim_failed`."""

    epoch: int
    run: str
    asked_at: float


class WriteEnd(Effect, frozen=True):
    """End the turn; answered by `on_end_stored` or `on_end_failed`."""

    end: End


class SpoolEnd(Effect, frozen=True):
    """History stayed away: keep the end, and the text it misses, in the local spool, to be written later."""

    end: End
    increments: tuple[Increment, ...]
    entry: Entry | None


class CloseListing(Effect, frozen=True):
    """Ended and recorded: take the turn off the list of open ones."""


class Forget(Effect, frozen=True):
    """Nothing of this turn is needed here any more."""

"""Presence: which gateways hold connections of a user, so that what concerns the user is sent to those alone."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, Protocol

LEASE_S: Final = 30.0
KEEP_S: Final = 24 * 3600
MAX_WAITING: Final = 8_192


class Presence(Protocol):
    """One gateway's notes about its users, and everybody's notes to look up. A hint, never a record.

    What it costs: an entry for each user and gateway, a lease for each gateway, nothing for a connection. The entries
    of a gateway whose lease has lapsed (30 s after it was last renewed) count for nothing and are removed by who finds
    them.

    Ordering: of one gateway's notes about one user the last one counts. A note is found within moments, not at once.
    Errors: `note` and `forget` neither wait nor raise. At most 8,192 of them wait to be sent; further ones are dropped.
    A dropped note costs its user the events until it is made up for, and clients read what they show again when they
    reconnect. It is made up for, with all of the gateway's other users in bounded batches, as soon as the store answers
    again, and when the gateway's lease was lost. A `forget` that was dropped costs messages that its gateway ignores;
    the entry ends by itself after 24 h, within which living ones are noted again. Notes are idempotent. Cancellation:
    a cancelled `gateways` has changed nothing that counts.
    """

    async def start(self, users: Collection[str]) -> None:
        """Takes the gateway's lease and keeps it. `users` is a live view of who is here: it is read again whenever all
        must be noted again. A store that is away is asked again.
        """
        ...

    async def stop(self) -> None:
        """Gives the lease back, if the store answers. Idempotent."""
        ...

    def note(self, user: str) -> None:
        """The user's first connection here has come."""
        ...

    def forget(self, user: str) -> None:
        """The user's last connection here has gone."""
        ...

    async def gateways(self, user: str) -> list[str]:
        """The living gateways that noted the user, in no order. Raises `Unavailable`."""
        ...

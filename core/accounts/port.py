"""Accounts: users, login sessions, API keys, conversations' metadata; tickets, login attempts, revocations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from core.accounts.model import (
    ApiKey,
    Change,
    Conversation,
    Credentials,
    Reason,
    Revocation,
    Role,
    Scope,
    Session,
    Status,
    Ticket,
    Touch,
    User,
)


class Users(Protocol):
    """People. Errors, ordering and cancellation as in `Accounts`."""

    async def create_user(
        self, user_id: str, email: str, name: str, password_hash: str | None, role: Role, zone: str
    ) -> User | None:
        """Makes an account; None where the email is taken. The same id and email again returns what is stored."""
        ...

    async def user(self, user_id: str) -> User | None:
        """The account, suspended or not; None where there is none or it was closed."""
        ...

    async def credentials(self, *, email: str | None = None, user_id: str | None = None) -> Credentials | None:
        """The account and its password hash, by folded email or by id (exactly one is given)."""
        ...

    async def rename(self, user_id: str, name: str) -> User | None: ...

    async def set_password(self, user_id: str, password_hash: str, keep_session: str | None) -> bool:
        """Replaces the hash and revokes every session but `keep_session`, together. False: no such account."""
        ...

    async def upgrade_hash(self, user_id: str, old: str, new: str) -> None:
        """Replaces a hash made with older parameters, only if it is still `old`. Revokes nothing."""
        ...

    async def set_role(self, user_id: str, role: Role) -> User | None:
        """Changes the role. Access tokens that are out keep the old one until they expire (≤ 10 min)."""
        ...

    async def set_status(self, user_id: str, status: Status) -> User | None:
        """Suspends or restores. Suspending revokes every session and is logged for open sockets, together."""
        ...

    async def close_user(self, user_id: str) -> bool:
        """Closes the account for good: sessions, keys and codes end, name, email and password are erased, together.

        Its conversations can be reached by nobody from then on. False: there is none, or it was closed before.
        """
        ...

    async def create_code(self, user_id: str, code_hash: bytes, lifetime_s: int) -> None:
        """Stores the hash of a login code."""
        ...

    async def use_code(self, code_hash: bytes) -> User | None:
        """Takes a login code: only one caller ever gets the user. None: unknown, used, expired or not active."""
        ...


class Sessions(Protocol):
    """Login sessions and the rotation of their refresh tokens."""

    async def create_session(self, session_id: str, user_id: str, salt: bytes, lifetime_s: int) -> Session | None:
        """Starts a session. A user's oldest ones beyond 100 are revoked. None: no such user, or not active."""
        ...

    async def session(self, session_id: str) -> Session | None:
        """A session that is neither revoked nor expired, of an active user."""
        ...

    async def rotate(self, session_id: str, generation: int, lifetime_s: int) -> Session | None:
        """Takes refresh token number `generation` and makes its successor the current one; the caller has verified it.

        The current number: the successor is made and the session lives `lifetime_s` from now. The one before, within
        10 s of the rotation (the reply was lost, or two tabs refreshed at once): nothing changes and the same
        successor counts. Any older one, or that one later: a reused token, stolen or replayed; the session is revoked
        and None is returned. None also where the session is over.
        """
        ...

    async def revoke_session(self, session_id: str) -> bool:
        """Ends a session and logs it for open sockets, together. False: over already."""
        ...

    async def revoke_sessions(self, user_id: str) -> int:
        """Ends all sessions of a user; returns how many."""
        ...

    async def revocations(self, since_ms: int, limit: int) -> list[Revocation]:
        """The log from `since_ms` on, oldest first, and sessions that expired since then, as if revoked.

        Rows may become visible up to 10 s after their time: read with an overlap and know them by (at, subject).
        """
        ...

    async def now_ms(self) -> int:
        """The store's clock, which dates revocations."""
        ...


class Keys(Protocol):
    """API keys, stored as SHA-256 of 256 random bits."""

    async def create_key(
        self, key_id: str, user_id: str, name: str, prefix: str, key_hash: bytes, scopes: Sequence[Scope]
    ) -> ApiKey | None:
        """Stores a key; None where the user has 100. The same id again returns what is stored."""
        ...

    async def keys_of(self, user_id: str) -> list[ApiKey]:
        """A user's keys, newest first."""
        ...

    async def delete_key(self, user_id: str, key_id: str) -> bool:
        """Ends a key and logs it for open sockets, together. False: the user has no such key."""
        ...

    async def find_key(self, key_hash: bytes) -> tuple[ApiKey, User] | None:
        """The key and its owner, who may be suspended: the caller checks."""
        ...

    async def touch_keys(self, used_at_ms: Mapping[str, int]) -> None:
        """Notes when keys were last used; earlier times than the stored ones change nothing."""
        ...


class Conversations(Protocol):
    """Metadata of conversations. Every call names the owner: another's conversation is one that is not there.

    History holds whose a conversation is and whether it is deleted, and is written first: `create_conversation` and
    `set_deleted` there, then `create_conversation` and `set_conversation_deleted` here. A failure in between leaves a
    conversation that is not listed yet, or a listed one that says `not_found`; the same call again repairs both. The
    other order could list what history knows nothing of, or show a deleted text again.
    """

    async def create_conversation(
        self, conversation_id: str, owner: str, title: str, model: str | None
    ) -> Conversation | None:
        """Makes the row unless it is there; returns what is stored. None: the id is another owner's."""
        ...

    async def conversation(self, conversation_id: str, owner: str) -> Conversation | None:
        """The row, deleted ones included."""
        ...

    async def list_conversations(
        self, owner: str, archived: bool, before: tuple[int, str] | None, limit: int
    ) -> list[Conversation]:
        """Latest activity first, deleted ones left out; `before` is `(active_at_ms, id)` of the last one seen."""
        ...

    async def change_conversation(self, conversation_id: str, owner: str, change: Change) -> Conversation | None:
        """Applies a change. None: not there, or deleted."""
        ...

    async def touch_conversations(self, touches: Sequence[Touch]) -> None:
        """Notes activity, of one conversation at most once (≤ 1,000); makes rows that are missing, skips another's.

        A crash of the store right afterwards may lose it.
        """
        ...

    async def set_conversation_deleted(
        self, conversation_id: str, owner: str, deleted_at_ms: int | None
    ) -> Conversation | None:
        """Hides from lists, or shows again. None: not there. An earlier deletion keeps its time."""
        ...


class Accounts(Users, Sessions, Keys, Conversations, Protocol):
    """All of it, in one store.

    Ordering: writes to one row are linearisable, and a read sees every write that was acknowledged before it began.
    Idempotency: as each call says; what is made is named by the caller, so a repeated call finds it made.
    Errors: `Unavailable` where it is certain that nothing was changed (every read; a write that never reached the
    store), `Unknown` where a write may have been applied: repeat it, identical. Cancellation: a cancelled write may
    have been applied, whole or not at all.
    """

    async def purge(self) -> int:
        """Removes sessions over for 30 days, codes that expired, revocations older than a day; returns how many."""
        ...


class Tickets(Protocol):
    """WebSocket tickets: single use, 30 s. Errors: `Unavailable`; a ticket is then neither issued nor accepted."""

    async def issue(self, ticket: Ticket) -> str:
        """A new ticket's text: 256 random bits, fit for a WebSocket subprotocol."""
        ...

    async def redeem(self, text: str) -> Ticket | None:
        """Takes the ticket: of all callers anywhere at most one gets it. None: unknown, used or expired.

        Cancellation or `Unavailable` may have spent it: ask for another one.
        """
        ...


class Attempts(Protocol):
    """Counts attempts by name within a window that starts with the first one. Never fails: without the shared store
    it counts in this process, so that a limit then holds per process.
    """

    async def take(self, counters: Mapping[str, int], window_s: int) -> int | None:
        """Counts one attempt in each of the counters `{name: limit}`; all are counted, refused or not.

        Returns None where all are within their limits, else the milliseconds until the last one is free again.
        """
        ...

    async def forgive(self, names: Sequence[str]) -> None:
        """Takes one attempt back from each counter: it was a success."""
        ...


class RevocationChannel(Protocol):
    """Tells other processes at once that there is something new in the log of revocations. At most once, no order:
    whoever must not miss anything polls `Sessions.revocations` as well.
    """

    async def publish(self, user_id: str, subject: str | None, reason: Reason) -> None:
        """Tells everyone. Never raises: the poll finds what is not told."""
        ...

    async def listen(self, on_message: Callable[[str, str | None, Reason], None]) -> None:
        """Calls back for each message until cancelled; reconnects by itself, at most once a second."""
        ...

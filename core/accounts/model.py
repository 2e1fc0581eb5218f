"""What accounts are made of: users, login sessions, API keys, conversations' metadata. Times in ms since the epoch."""

from __future__ import annotations

import unicodedata
from typing import Final, Literal

import msgspec

Role = Literal["user", "admin"]
Status = Literal["active", "suspended"]
Scope = Literal["chat", "account"]
Reason = Literal["session", "key", "suspended", "restored"]

SCOPES: Final[tuple[Scope, ...]] = ("chat", "account")

MAX_SESSIONS_PER_USER: Final = 100
MAX_KEYS_PER_USER: Final = 100
REFRESH_GRACE_MS: Final = 10_000
LOGIN_CODE_S: Final = 15 * 60
TICKET_S: Final = 30
RESTORE_MS: Final = 30 * 24 * 3600 * 1000
REVOCATIONS_KEPT_MS: Final = 24 * 3600 * 1000


def fold_email(email: str) -> str:
    """The form in which addresses are stored and compared."""
    return unicodedata.normalize("NFC", email.strip()).lower()


class User(msgspec.Struct, frozen=True, kw_only=True):
    """An account. `email` is folded by `fold_email`. `zone` is the residency area where its conversations are made."""

    id: str
    email: str
    name: str
    role: Role
    zone: str
    status: Status
    created_at_ms: int


class Credentials(msgspec.Struct, frozen=True):
    """A user and the argon2id hash of the password; None where the account has no password (login by code only)."""

    user: User
    password_hash: str | None


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """A login session. Its refresh tokens are numbered; `generation` is the current one, `salt` goes into all."""

    id: str
    user: User
    salt: bytes
    generation: int
    created_at_ms: int
    expires_at_ms: int


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """An API key without its secret; `prefix` is what may be shown. `last_used_at_ms` lags by up to a minute."""

    id: str
    user_id: str
    name: str
    prefix: str
    scopes: tuple[Scope, ...]
    created_at_ms: int
    last_used_at_ms: int | None = None


class Revocation(msgspec.Struct, frozen=True, kw_only=True):
    """Something that must stop being accepted. `subject` is a session's or key's id; None: everything of the user's.

    `restored` takes back `suspended`: the user may log in again; the sessions of before stay revoked.
    """

    at_ms: int
    user_id: str
    subject: str | None
    reason: Reason


class Conversation(msgspec.Struct, frozen=True, kw_only=True):
    """Metadata of a conversation. `leaf` is the message that ends the branch shown; `active_at_ms` orders lists."""

    id: str
    owner: str
    title: str
    model: str | None
    leaf: str | None
    pinned: bool
    starred: bool
    archived: bool
    created_at_ms: int
    active_at_ms: int
    deleted_at_ms: int | None = None


class Touch(msgspec.Struct, frozen=True):
    """Activity in a conversation, and what to call it where it has no title yet."""

    conversation_id: str
    owner: str
    at_ms: int
    title: str = ""


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What to change of a conversation; `UNSET` leaves a field as it is."""

    title: str | msgspec.UnsetType = msgspec.UNSET
    model: str | msgspec.UnsetType | None = msgspec.UNSET
    leaf: str | msgspec.UnsetType | None = msgspec.UNSET
    pinned: bool | msgspec.UnsetType = msgspec.UNSET
    starred: bool | msgspec.UnsetType = msgspec.UNSET
    archived: bool | msgspec.UnsetType = msgspec.UNSET


class Ticket(msgspec.Struct, frozen=True, kw_only=True):
    """Whom a WebSocket ticket stands for: the identity that asked for it."""

    user_id: str
    role: Role
    zone: str
    session_id: str | None
    key_id: str | None
    scopes: tuple[Scope, ...]

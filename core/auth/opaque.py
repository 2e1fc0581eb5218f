"""Opaque credentials: refresh tokens, CSRF tokens, API keys, login codes; and cursors that only we can make."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
import struct
import uuid
from typing import Final, NamedTuple

from core.auth.tokens import SigningKey

KEY_PREFIX: Final = "sk-parley-"
KEY_SHOWN_CHARS: Final = len(KEY_PREFIX) + 6
_KEY_CHARS: Final = len(KEY_PREFIX) + 43
_SECRET_BYTES: Final = 32
_REFRESH: Final = struct.Struct(">16sI32s")
_CURSOR_TAG_BYTES: Final = 16
_MAX_CURSOR_CHARS: Final = 512


def new_secret() -> str:
    """256 random bits, URL-safe text of 43 characters."""
    return secrets.token_urlsafe(_SECRET_BYTES)


def new_salt() -> bytes:
    """256 random bits."""
    return secrets.token_bytes(_SECRET_BYTES)


def fingerprint(secret: str) -> bytes:
    """SHA-256: how secrets of 256 random bits are stored. (Passwords are not such secrets.)"""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def new_api_key() -> str:
    return KEY_PREFIX + new_secret()


def is_api_key(text: str) -> bool:
    """Whether it has the form of an API key; nothing is said of its validity."""
    return len(text) == _KEY_CHARS and text.startswith(KEY_PREFIX)


class RefreshToken(NamedTuple):
    """A refresh token taken apart: the session, its number within it, and the tag that `RefreshTokens` checks."""

    session_id: str
    generation: int
    tag: bytes


class RefreshTokens:
    """Numbered refresh tokens of a session: an HMAC over session, number and the session's stored salt.

    So every token that was ever issued is known as such, also after its successors: a reused one is told from a forged
    one, and nobody ends another's session with a made-up token. Neither the store alone nor the server's key alone
    makes one.
    """

    def __init__(self, key: SigningKey) -> None:
        self._key = key.derive("refresh")
        self._csrf_key = key.derive("csrf")

    def encode(self, session_id: str, generation: int, salt: bytes) -> str:
        raw = _REFRESH.pack(uuid.UUID(session_id).bytes, generation, self._tag(session_id, generation, salt))
        return _text(raw)

    def decode(self, text: str) -> RefreshToken | None:
        """Its parts, unverified; None where it has not the form of one."""
        raw = _raw(text, _REFRESH.size)
        if raw is None:
            return None
        session, generation, tag = _REFRESH.unpack(raw)
        return RefreshToken(str(uuid.UUID(bytes=session)), generation, tag)

    def verify(self, token: RefreshToken, salt: bytes) -> bool:
        """Whether we issued it, in constant time; it may be used up."""
        return hmac.compare_digest(token.tag, self._tag(token.session_id, token.generation, salt))

    def csrf(self, session_id: str) -> str:
        """The session's CSRF token: a page on our origin reads it from a cookie and repeats it in a header."""
        return _text(hmac.digest(self._csrf_key, session_id.encode(), "sha256"))

    def _tag(self, session_id: str, generation: int, salt: bytes) -> bytes:
        return hmac.digest(self._key, uuid.UUID(session_id).bytes + struct.pack(">I", generation) + salt, "sha256")


class Cursors:
    """Places in lists, opaque to clients. A cursor is bound to the list it was made for (owner and filters)."""

    def __init__(self, key: SigningKey) -> None:
        self._key = key.derive("cursor")

    def encode(self, scope: str, place: str) -> str:
        body = place.encode()
        return _text(self._tag(scope, body) + body)

    def decode(self, scope: str, text: str) -> str | None:
        """The place; None where we did not make it for this list."""
        raw = _raw(text) if len(text) <= _MAX_CURSOR_CHARS else None
        if raw is None or len(raw) < _CURSOR_TAG_BYTES:
            return None
        tag, body = raw[:_CURSOR_TAG_BYTES], raw[_CURSOR_TAG_BYTES:]
        return body.decode() if hmac.compare_digest(tag, self._tag(scope, body)) else None

    def _tag(self, scope: str, body: bytes) -> bytes:
        return hmac.digest(self._key, scope.encode() + b"\0" + body, "sha256")[:_CURSOR_TAG_BYTES]


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _raw(text: str, size: int | None = None) -> bytes | None:
    """Decodes base64url without padding; None unless it is that, in its one canonical form, of `size` bytes."""
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw if (size is None or len(raw) == size) and _text(raw) == text else None

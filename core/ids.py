"""Identifiers: UUIDv7 (RFC 9562) for what clients name, opaque tokens for what the platform names."""

from __future__ import annotations

import base64
import binascii
import secrets
import uuid

GENERATION_PREFIX = "gen_"
_GENERATION_BYTES = 32
_GENERATION_LENGTH = len(GENERATION_PREFIX) + 43


def uuid7(wall_ms: int, entropy: int | None = None) -> str:
    """A UUIDv7 dated `wall_ms` (milliseconds since 1970), canonical lower-case text of 36 characters.

    `entropy` gives the 74 random bits; left out, they come from the operating system.
    """
    random = secrets.randbits(74) if entropy is None else entropy & ((1 << 74) - 1)
    value = (wall_ms & ((1 << 48) - 1)) << 80
    value |= 0x7 << 76 | (random >> 62) << 64
    value |= 0b10 << 62 | random & ((1 << 62) - 1)
    return str(uuid.UUID(int=value))


def is_uuid7(text: str) -> bool:
    """Whether `text` is a UUIDv7 in canonical lower-case form."""
    try:
        value = uuid.UUID(text)
    except ValueError:
        return False
    return value.version == 7 and value.variant == uuid.RFC_4122 and str(value) == text


def uuid7_ms(text: str) -> int:
    """The milliseconds since 1970 that a UUIDv7 carries."""
    return uuid.UUID(text).int >> 80


def generation_id(conversation_id: str, turn_id: str) -> str:
    """The answer's id: opaque to clients, always the same for a turn, safe in a NATS subject and a URL."""
    raw = uuid.UUID(conversation_id).bytes + uuid.UUID(turn_id).bytes
    return GENERATION_PREFIX + base64.urlsafe_b64encode(raw).decode().rstrip("=")


def parse_generation_id(text: str) -> tuple[str, str] | None:
    """`(conversation_id, turn_id)` of a generation id, or None where it is none."""
    if len(text) != _GENERATION_LENGTH or not text.startswith(GENERATION_PREFIX):
        return None
    try:
        raw = base64.b64decode(text[len(GENERATION_PREFIX) :] + "=", altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    if len(raw) != _GENERATION_BYTES:
        return None
    conversation, turn = str(uuid.UUID(bytes=raw[:16])), str(uuid.UUID(bytes=raw[16:]))
    if not (is_uuid7(conversation) and is_uuid7(turn)) or generation_id(conversation, turn) != text:
        return None
    return conversation, turn


def new_run() -> str:
    """A name for one router's work on one epoch: 96 random bits, URL-safe text of 16 characters."""
    return secrets.token_urlsafe(12)


def new_process_id(role: str) -> str:
    """A name for one process's life, such as `gw-3f9a1c20b7e4`; a restarted process gets another one."""
    return f"{role}-{secrets.token_hex(6)}"

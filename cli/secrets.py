"""The secrets of the embedded stack: made on the first start, one file each that only its owner can read."""

from __future__ import annotations

import secrets
from pathlib import Path

import msgspec

from cli.layout import write_private
from core.auth.tokens import SigningKey


class Secrets(msgspec.Struct, frozen=True):
    """Passwords are hexadecimal, so they need no quoting in a URL or a configuration file. `signing_key` is a path."""

    postgres: str
    redis: str
    nats: str
    model: str
    signing_key: Path


def load(folder: Path) -> Secrets:
    """The secrets in this folder; makes those that are missing. Raises `OSError`."""
    signing_key = folder / "signing.pem"
    if not signing_key.exists():
        write_private(signing_key, SigningKey.generate())
    return Secrets(
        postgres=_password(folder / "postgres"),
        redis=_password(folder / "redis"),
        nats=_password(folder / "nats"),
        model=_password(folder / "model"),
        signing_key=signing_key,
    )


def _password(path: Path) -> str:
    if not path.exists():
        write_private(path, secrets.token_hex(24))
    return path.read_text(encoding="utf-8").strip()

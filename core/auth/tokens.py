"""Access tokens: JWTs signed with Ed25519, valid for minutes, verified without any store."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Final, cast

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey

from core.accounts.model import Role
from core.clock import Clock

ISSUER: Final = "parley"
AUDIENCE: Final = "parley"
ALGORITHM: Final = "Ed25519"
MAX_TOKEN_CHARS: Final = 2_048
TOKENS_CACHED: Final = 16_384
LEEWAY_S: Final = 5


class Claims(msgspec.Struct, frozen=True):
    """What an access token says: user, login session, role, zone; times in seconds since the epoch."""

    sub: str
    sid: str
    role: Role
    zone: str
    iat: int
    exp: int
    iss: str
    aud: str


class SigningKey:
    """The platform's Ed25519 key: it signs access tokens, and the keys of everything else that we sign derive from it.

    A new key ends all access tokens, refresh tokens and cursors.
    """

    def __init__(self, key: Ed25519PrivateKey) -> None:
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        public = key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        self.kid: Final = hashlib.sha256(public).hexdigest()[:16]
        self.jwk: Final = OKPKey.import_key(private)
        self._seed = key.private_bytes(
            serialization.Encoding.Raw, serialization.PrivateFormat.Raw, serialization.NoEncryption()
        )

    @classmethod
    def load(cls, setting: str) -> SigningKey:
        """From PEM text, or the path of a file that holds it. Raises ValueError, which says nothing of the content."""
        try:
            pem = setting.encode() if "-----BEGIN" in setting else Path(setting).read_bytes()
            key = serialization.load_pem_private_key(pem, password=None)
        except (OSError, ValueError, TypeError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, Ed25519PrivateKey):
            raise ValueError("auth.signing_key must be an Ed25519 private key in PEM, or the path of a file with one")
        return cls(key)

    @staticmethod
    def generate() -> str:
        """A new key as PEM text."""
        return (
            Ed25519PrivateKey.generate()
            .private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
            .decode()
        )

    def derive(self, purpose: str) -> bytes:
        """32 bytes for one purpose; different purposes give unrelated keys."""
        return HKDF(SHA256(), 32, salt=None, info=b"parley " + purpose.encode()).derive(self._seed)


class AccessTokens:
    """Issues and verifies. Verified tokens are remembered (16,384 at most, oldest forgotten) until they expire."""

    def __init__(self, key: SigningKey, lifetime_s: int, clock: Clock) -> None:
        self._key = key
        self._clock = clock
        self.lifetime_s: Final = lifetime_s
        self._verified: dict[str, Claims] = {}

    def issue(self, user_id: str, session_id: str, role: Role, zone: str) -> str:
        now = self._clock.wall_ms() // 1000
        claims = Claims(user_id, session_id, role, zone, now, now + self.lifetime_s, ISSUER, AUDIENCE)
        header = {"alg": ALGORITHM, "typ": "JWT", "kid": self._key.kid}
        return jwt.encode(header, cast(dict[str, Any], msgspec.to_builtins(claims)), self._key.jwk, [ALGORITHM])

    def verify(self, token: str) -> Claims | None:
        """The claims; None for anything but a token of ours that is valid now (5 s of clock difference allowed)."""
        claims = self._verified.get(token) or self._check(token)
        now = self._clock.wall_ms() // 1000
        if claims is None or not claims.iat - LEEWAY_S <= now < claims.exp + LEEWAY_S:
            self._verified.pop(token, None)
            return None
        return claims

    def _check(self, token: str) -> Claims | None:
        if len(token) > MAX_TOKEN_CHARS:
            return None
        try:
            claims = msgspec.convert(jwt.decode(token, self._key.jwk, [ALGORITHM]).claims, Claims)
        except (JoseError, ValueError, TypeError):
            return None
        if claims.iss != ISSUER or claims.aud != AUDIENCE:
            return None
        self._verified[token] = claims
        if len(self._verified) > TOKENS_CACHED:
            del self._verified[next(iter(self._verified))]
        return claims

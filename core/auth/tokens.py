"""Access tokens: JWTs signed with Ed25519, valid for minutes, verified without any store (docs/adr/0006)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import sys
from pathlib import Path
from typing import Any, Final, Literal, cast

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from joserfc import jwt
from joserfc.jwk import OKPKey

from core.accounts.model import Role
from core.clock import Clock

ISSUER: Final = "parley"
AUDIENCE: Final = "parley"
ALGORITHM: Final = "Ed25519"
MAX_TOKEN_CHARS: Final = 2_048
TOKENS_CACHED: Final = 4_096
LEEWAY_S: Final = 5
_DIGEST_BYTES: Final = 16


class Claims(msgspec.Struct, frozen=True, gc=False):
    """What an access token says: user, login session, role, zone; times in seconds since the epoch."""

    sub: str
    sid: str
    role: Role
    zone: str
    iat: int
    exp: int
    iss: Literal["parley"]
    aud: Literal["parley"]


_decode_claims = msgspec.json.Decoder(Claims).decode


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
        self.sign: Final = key.sign

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
    """Issues and verifies. The last tokens that were verified are remembered (at most 4,096) until they expire."""

    def __init__(self, key: SigningKey, lifetime_s: int, clock: Clock) -> None:
        self._key = key
        self._clock = clock
        self.lifetime_s: Final = lifetime_s
        self._verified = _Recent(TOKENS_CACHED)
        self._header = {"alg": ALGORITHM, "typ": "JWT", "kid": key.kid}
        self._head = self._encode({}).encode().partition(b".")[0] + b"."

    def issue(self, user_id: str, session_id: str, role: Role, zone: str) -> str:
        now = self._clock.wall_ms() // 1000
        claims = Claims(user_id, session_id, role, zone, now, now + self.lifetime_s, ISSUER, AUDIENCE)
        return self._encode(cast(dict[str, Any], msgspec.to_builtins(claims)))

    def verify(self, token: str) -> Claims | None:
        """The claims; None for anything but a token of ours that is valid now (5 s of clock difference allowed)."""
        if len(token) > MAX_TOKEN_CHARS or not token.isascii():
            return None
        text = token.encode()
        digest = hashlib.blake2b(text, digest_size=_DIGEST_BYTES).digest()
        known = self._verified.find(digest)
        claims = known or self._check(text)
        now = self._clock.wall_ms() // 1000
        if claims is None or not claims.iat - LEEWAY_S <= now < claims.exp + LEEWAY_S:
            self._verified.drop(digest)
            return None
        if known is None:
            self._verified.add(digest, claims)
        return claims

    def _encode(self, claims: dict[str, Any]) -> str:
        return jwt.encode(self._header, claims, self._key.jwk, [ALGORITHM])

    def _check(self, token: bytes) -> Claims | None:
        """What we would have signed, compared with what came: no header but ours, and one signature for each text."""
        signed, _, signature = token.rpartition(b".")
        if not signed.startswith(self._head):
            return None
        expected = base64.urlsafe_b64encode(self._key.sign(signed)).rstrip(b"=")
        if not hmac.compare_digest(signature, expected):
            return None
        payload = signed[len(self._head) :]
        try:
            claims = _decode_claims(base64.urlsafe_b64decode(payload + b"=" * (-len(payload) % 4)))
        except ValueError:
            return None  # signed by us, yet none of today's access tokens
        return msgspec.structs.replace(claims, zone=sys.intern(claims.zone))


class _Recent:
    """Claims by a token's digest: two generations of half the bound each, the older one dropped when the younger is
    full, so that what is used stays. An entry is a digest of 16 bytes and the claims, never the token.
    """

    __slots__ = ("_half", "_old", "_young")

    def __init__(self, bound: int) -> None:
        self._half = bound // 2
        self._young: dict[bytes, Claims] = {}
        self._old: dict[bytes, Claims] = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def find(self, digest: bytes) -> Claims | None:
        found = self._young.get(digest)
        if found is None and (found := self._old.pop(digest, None)) is not None:
            self.add(digest, found)
        return found

    def add(self, digest: bytes, claims: Claims) -> None:
        if len(self._young) >= self._half:
            self._old, self._young = self._young, {}
        self._young[digest] = claims

    def drop(self, digest: bytes) -> None:
        self._young.pop(digest, None)
        self._old.pop(digest, None)

"""Access tokens: only what this key signed, in exactly this form, for as long as it says."""

from __future__ import annotations

import base64
import json
import sys
import tracemalloc
import uuid
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import OctKey, OKPKey

from core.auth.tokens import LEEWAY_S, MAX_TOKEN_CHARS, TOKENS_CACHED, AccessTokens, SigningKey
from tests.support.clock import ManualClock

USER, SESSION = str(uuid.UUID(int=1)), str(uuid.UUID(int=2))
KEY = SigningKey.load(SigningKey.generate())
OTHER = SigningKey.load(SigningKey.generate())
CLAIMS = {"sub": USER, "sid": SESSION, "role": "user", "zone": "eu", "iss": "parley", "aud": "parley"}
BASE64URL = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def new_tokens(clock: ManualClock | None = None, key: SigningKey = KEY) -> AccessTokens:
    return AccessTokens(key, 600, clock or ManualClock())


def issued() -> str:
    return new_tokens().issue(USER, SESSION, "user", "eu")


def text_of(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signed(header: str, payload: str, key: SigningKey = KEY) -> str:
    """A token of these two texts with a good signature."""
    return f"{header}.{payload}.{text_of(key.sign(f'{header}.{payload}'.encode()))}"


def claims_now(**changes: Any) -> dict[str, Any]:
    now = ManualClock().wall_ms() // 1000
    return CLAIMS | {"iat": now, "exp": now + 600} | changes


def test_a_token_says_what_it_was_issued_with() -> None:
    tokens = new_tokens()
    token = tokens.issue(USER, SESSION, "admin", "eu")
    for claims in (tokens.verify(token), tokens.verify(token), new_tokens().verify(token)):
        assert claims is not None
        assert (claims.sub, claims.sid, claims.role, claims.zone) == (USER, SESSION, "admin", "eu")
        assert (claims.iss, claims.aud, claims.exp - claims.iat) == ("parley", "parley", 600)


def test_whoever_holds_the_public_key_alone_can_verify_it() -> None:
    public = OKPKey.import_key(KEY.jwk.as_dict(private=False))
    assert jwt.decode(issued(), public, ["Ed25519"]).claims["sub"] == USER


def test_it_ends_also_when_it_was_verified_before() -> None:
    clock = ManualClock()
    tokens = new_tokens(clock)
    token = tokens.issue(USER, SESSION, "user", "eu")
    assert tokens.verify(token) is not None
    clock.advance(600 + LEEWAY_S - 1)
    assert tokens.verify(token) is not None
    clock.advance(1)
    assert tokens.verify(token) is None
    assert new_tokens(clock).verify(token) is None


def test_one_of_the_future_is_none() -> None:
    late = ManualClock()
    late.advance(60)
    assert new_tokens().verify(new_tokens(late).issue(USER, SESSION, "user", "eu")) is None


def test_another_keys_token_is_none() -> None:
    head, payload, _ = issued().split(".")
    assert new_tokens().verify(new_tokens(key=OTHER).issue(USER, SESSION, "user", "eu")) is None
    assert new_tokens().verify(signed(head, payload, OTHER)) is None


@pytest.mark.parametrize(
    "change",
    [
        {"iss": "other"},
        {"aud": "other"},
        {"aud": ["parley"]},
        {"role": "owner"},
        {"exp": "soon"},
        {"exp": 1},
        {"iat": None},
        {"sub": None},
        {"sid": 5},
    ],
)
def test_claims_that_are_not_ours_are_none_though_they_are_signed(change: dict[str, object]) -> None:
    head = issued().partition(".")[0]
    good, bad = json.dumps(claims_now()).encode(), json.dumps(claims_now(**change)).encode()
    assert new_tokens().verify(signed(head, text_of(good))) is not None
    assert new_tokens().verify(signed(head, text_of(bad))) is None


@pytest.mark.parametrize("payload", [b"", b"{}", b"[]", b"\xff", b"{", b'"text"'])
def test_a_signed_payload_that_is_no_claims_is_none(payload: bytes) -> None:
    assert new_tokens().verify(signed(issued().partition(".")[0], text_of(payload))) is None


@pytest.mark.parametrize(
    "header",
    [
        b'{"alg":"Ed25519"}',
        b'{"alg":"EdDSA","typ":"JWT","kid":"%(kid)s"}',
        b'{"alg":"none","typ":"JWT","kid":"%(kid)s"}',
        b'{"typ":"JWT","alg":"Ed25519","kid":"0123456789abcdef"}',
        b'{"typ":"JWT","alg":"Ed25519","kid":"%(kid)s","crit":["exp"],"exp":1}',
        b'{"typ":"JWT","alg":"none","alg":"Ed25519","kid":"%(kid)s"}',
        b'{"typ":"JWT","alg":"Ed25519","kid":"%(kid)s","kid":"%(kid)s"}',
        b'{"typ":"JWT", "alg":"Ed25519","kid":"%(kid)s"}',
        b'{"typ":"JWT","alg":"Ed25519","kid":"%(kid)s","jwk":{}}',
    ],
)
def test_no_header_but_ours_is_taken_though_it_is_signed(header: bytes) -> None:
    header = header.replace(b"%(kid)s", KEY.kid.encode())
    assert new_tokens().verify(signed(text_of(header), issued().split(".")[1])) is None


def test_no_other_algorithm_is_taken() -> None:
    header = {"alg": "HS256", "typ": "JWT", "kid": KEY.kid}
    public = KEY.jwk.as_dict(private=False)["x"]
    forged = jwt.encode(header, claims_now(), OctKey.import_key(f"{public}"), ["HS256"])
    assert new_tokens().verify(forged) is None
    unsigned = text_of(json.dumps({"alg": "none"}).encode())
    for signature in ("", ".", ".AA"):
        assert new_tokens().verify(f"{unsigned}.{issued().split('.')[1]}{signature}") is None


def test_the_signature_has_one_form_only() -> None:
    head, payload, signature = issued().split(".")
    raw = base64.urlsafe_b64decode(signature + "==")
    # The last character carries four bits that mean nothing; the group's order may be added to the second half.
    order = 2**252 + 27742317777372353535851937790883648493
    malleable = raw[:32] + (int.from_bytes(raw[32:], "little") + order).to_bytes(32, "little")
    spare = BASE64URL[BASE64URL.index(signature[-1]) + 1]
    others = [signature[:-1] + spare, signature + "==", signature + "=", signature + "\n", text_of(malleable), ""]
    others += [base64.b64encode(raw).decode().rstrip("=") + "A", text_of(raw + b"\0"), text_of(raw[:-1])]
    assert base64.urlsafe_b64decode(others[0] + "==") == raw
    for other in others:
        assert new_tokens().verify(f"{head}.{payload}.{other}") is None
    assert new_tokens().verify(f"{head}.{payload}=.{signature}") is None


@given(st.integers(0, 10_000), st.sampled_from(BASE64URL + ".=+/ \n\u00e9"))
def test_no_character_may_be_another(at: int, character: str) -> None:
    token = issued()
    at %= len(token)
    altered = token[:at] + character + token[at + 1 :]
    assert (new_tokens().verify(altered) is not None) == (altered == token)


@given(st.integers(0, 10_000), st.integers(0, 10_000), st.sampled_from(["", ".", "A", "=", "\0"]))
def test_nothing_may_be_left_out_or_put_in(start: int, length: int, put: str) -> None:
    token = issued()
    start %= len(token)
    altered = token[:start] + put + token[start + length % 40 :]
    assert (new_tokens().verify(altered) is not None) == (altered == token)


@given(st.text(max_size=300))
def test_no_text_breaks_it(text: str) -> None:
    assert new_tokens().verify(text) is None
    assert new_tokens().verify(issued().partition(".")[0] + "." + text) is None


@given(st.sampled_from(["user", "admin"]), st.text(max_size=40), st.text(max_size=40), st.text(max_size=20))
def test_whatever_is_issued_verifies(role: Any, user: str, session: str, zone: str) -> None:
    claims = new_tokens().verify(new_tokens().issue(user, session, role, zone))
    assert claims is not None
    assert (claims.sub, claims.sid, claims.role, claims.zone) == (user, session, role, zone)


def test_an_overlong_token_is_none() -> None:
    head = issued().partition(".")[0]
    long = signed(head, text_of(json.dumps(claims_now(zone="x" * MAX_TOKEN_CHARS)).encode()))
    assert len(long) > MAX_TOKEN_CHARS
    assert new_tokens().verify(long) is None
    assert new_tokens().verify("a." * 2000) is None


def test_a_verified_token_is_not_checked_again() -> None:
    tokens, token = new_tokens(), issued()
    first = tokens.verify(token)
    assert tokens.verify(token) is first is not None
    # Nor is one that fails remembered in its place.
    assert tokens.verify(token[:-1]) is None
    assert tokens.verify(token) is first


def test_what_is_remembered_is_bounded_and_small() -> None:
    tokens = new_tokens()
    many = [tokens.issue(str(uuid.uuid4()), str(uuid.uuid4()), "user", "eu") for _ in range(TOKENS_CACHED + 100)]
    used = tokens.verify(many[0])
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for token in many[1:]:
            assert tokens.verify(token) is not None
            assert tokens.verify(many[0]) is used, "what is used stays"
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    remembered = len(tokens._verified)
    assert TOKENS_CACHED // 2 <= remembered <= TOKENS_CACHED
    assert grown / remembered < 640, "bytes for each: a digest, the claims with two ids, and a place in a dict"


def test_zones_and_roles_are_shared() -> None:
    tokens = new_tokens()
    one, two = (tokens.verify(tokens.issue(str(uuid.uuid4()), SESSION, "user", "eu")) for _ in range(2))
    assert one is not None
    assert two is not None
    assert one.zone is two.zone is sys.intern("eu")
    assert one.role is two.role
    assert msgspec.to_builtins(one) != msgspec.to_builtins(two)

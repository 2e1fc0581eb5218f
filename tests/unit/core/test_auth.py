from __future__ import annotations

import asyncio
import uuid

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from hypothesis import given
from hypothesis import strategies as st

from core.auth.opaque import Cursors, RefreshTokens, fingerprint, is_api_key, new_api_key, new_salt
from core.auth.passwords import MAX_CHARS, WAITING_PER_THREAD, Passwords, check_password
from core.auth.tokens import SigningKey
from core.errors import ParleyError

USER, SESSION = str(uuid.UUID(int=1)), str(uuid.UUID(int=2))
KEY = SigningKey.load(SigningKey.generate())


class TestPasswords:
    @pytest.mark.parametrize("password", ["", "1234567", "x" * 257, "aaaaaaaaaa"])
    def test_bad_choices_are_refused(self, password: str) -> None:
        with pytest.raises(ParleyError) as refusal:
            check_password(password)
        assert (refusal.value.code, refusal.value.param) == ("invalid", "password")

    @pytest.mark.parametrize("password", ["12345678", "correct horse", "пароль-пароль", "ab" * 128])
    def test_good_choices_pass(self, password: str) -> None:
        check_password(password)

    async def test_a_hash_verifies_its_password_only(self) -> None:
        passwords = Passwords(1)
        stored = await passwords.hash("correct horse")
        assert stored.startswith("$argon2id$")
        assert await passwords.verify(stored, "correct horse")
        assert not await passwords.verify(stored, "correct horses")
        assert not await passwords.verify(None, "correct horse")
        assert not await passwords.verify("no hash at all", "correct horse")
        assert not await passwords.verify(stored, "x" * (MAX_CHARS + 1))
        assert not passwords.outdated(stored)
        assert passwords.outdated("$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$3w2bHrSrQ5Q2dAtfN8+IYl5LxtQnGjCMPjcAtqwFBXk")
        passwords.close()

    async def test_the_same_characters_typed_differently_are_the_same_password(self) -> None:
        passwords = Passwords(1)
        assert await passwords.verify(await passwords.hash("caf\u00e9 caf\u00e9"), "cafe\u0301 cafe\u0301")
        passwords.close()

    async def test_more_than_may_wait_are_refused_and_the_rest_are_served(self) -> None:
        passwords = Passwords(1)
        limit = 1 + WAITING_PER_THREAD
        work = [asyncio.create_task(passwords.hash("correct horse")) for _ in range(limit + 3)]
        await asyncio.sleep(0)
        refused = [task for task in work if task.done()]
        assert len(refused) == 3
        for task in refused:
            error = task.exception()
            assert isinstance(error, ParleyError)
            assert (error.code, error.retry_after_ms) == ("overloaded", 1000)
        for task in work[:limit]:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)
        assert await passwords.hash("correct horse")
        passwords.close()


class TestSigningKey:
    def test_it_is_loaded_from_text_or_a_file(self, tmp_path) -> None:  # type: ignore[no-untyped-def]
        pem = SigningKey.generate()
        path = tmp_path / "key.pem"
        path.write_text(pem)
        assert SigningKey.load(str(path)).kid == SigningKey.load(pem).kid != KEY.kid

    @pytest.mark.parametrize("setting", ["", "/nowhere/key.pem", "-----BEGIN PRIVATE KEY-----\nsecret\n"])
    def test_anything_else_is_refused_without_its_content(self, setting: str) -> None:
        with pytest.raises(ValueError, match=r"auth\.signing_key") as refusal:
            SigningKey.load(setting)
        assert "secret" not in str(refusal.value)

    def test_another_kind_of_key_is_refused(self) -> None:
        pem = generate_private_key(65537, 2048).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        with pytest.raises(ValueError, match="Ed25519"):
            SigningKey.load(pem.decode())

    def test_purposes_have_unrelated_keys(self) -> None:
        assert KEY.derive("a") == KEY.derive("a") != KEY.derive("b")


class TestRefreshTokens:
    tokens = RefreshTokens(KEY)

    def test_a_token_of_ours_is_known_by_session_and_number(self) -> None:
        salt = new_salt()
        token = self.tokens.decode(self.tokens.encode(SESSION, 7, salt))
        assert token is not None
        assert (token.session_id, token.generation) == (SESSION, 7)
        assert self.tokens.verify(token, salt)
        assert not self.tokens.verify(token, new_salt())
        assert not self.tokens.verify(token._replace(generation=8), salt)
        assert not self.tokens.verify(token._replace(session_id=USER), salt)
        assert not RefreshTokens(SigningKey.load(SigningKey.generate())).verify(token, salt)

    @given(st.text(max_size=100))
    def test_no_text_breaks_it(self, text: str) -> None:
        token = self.tokens.decode(text)
        assert token is None or not self.tokens.verify(token, b"salt")

    def test_the_csrf_token_is_the_sessions(self) -> None:
        assert self.tokens.csrf(SESSION) == self.tokens.csrf(SESSION) != self.tokens.csrf(USER)


class TestCursors:
    cursors = Cursors(KEY)

    @given(st.text(max_size=100), st.text(max_size=100))
    def test_a_place_comes_back_in_its_own_list_only(self, scope: str, place: str) -> None:
        cursor = self.cursors.encode(scope, place)
        assert self.cursors.decode(scope, cursor) == place
        assert self.cursors.decode(scope + "x", cursor) is None

    @given(st.text(max_size=600))
    def test_what_we_did_not_make_is_none(self, text: str) -> None:
        assert self.cursors.decode("list", text) is None


def test_api_keys_have_a_form_and_are_stored_hashed() -> None:
    key = new_api_key()
    assert key.startswith("sk-parley-")
    assert is_api_key(key)
    assert key != new_api_key()
    assert not is_api_key(key[:-1])
    assert not is_api_key("sk-other--" + key[10:])
    assert len(fingerprint(key)) == 32
    assert fingerprint("\ud800") != fingerprint("")

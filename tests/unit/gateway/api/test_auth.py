from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable

import pytest

from core.auth.opaque import fingerprint, new_secret
from gateway.api.auth import PER_EMAIL_AND_ADDRESS
from tests.support.api import Caller, Platform, open_platform, refused
from tests.support.redis import RedisServer

PASSWORD = "correct horse"


def someone() -> str:
    return f"{secrets.token_hex(8)}@example.org"


async def registered(platform: Platform, email: str | None = None, cookie: bool = True) -> tuple[Caller, dict]:  # type: ignore[type-arg]
    caller = platform.caller()
    body = {"email": email or someone(), "password": PASSWORD, "name": "Ann", "cookie": cookie}
    response = await caller.ask("POST", "/v1/auth/register", body)
    assert response.status_code == 201, response.text
    return caller, response.json()


async def guesses(platform: Platform, email: str, forwarded: Callable[[int], str]) -> int:
    """How many wrong passwords are answered 401 before one is answered 429; two more than the limit at most."""
    wrong = {"email": email, "password": "wrong horse"}
    for n in range(PER_EMAIL_AND_ADDRESS + 2):
        response = await platform.caller().ask("POST", "/v1/auth/login", wrong, x_forwarded_for=forwarded(n + 8))
        if response.status_code == 429:
            return n
        refused(response, 401, "unauthorized")
    return PER_EMAIL_AND_ADDRESS + 2


class TestRegister:
    async def test_a_browser_gets_cookies_and_is_signed_in(self, platform: Platform) -> None:
        caller, body = await registered(platform, " Ann.Register@Example.ORG")
        assert body["user"]["email"] == "ann.register@example.org"
        assert (body["user"]["role"], body["user"]["zone"], body["token_type"]) == ("user", "eu", "Bearer")
        assert body["expires_in"] == 600
        assert "refresh_token" not in body
        me = await caller.ask("GET", "/v1/me")
        assert me.json() == body["user"]

    async def test_a_program_gets_its_tokens_in_the_body(self, platform: Platform) -> None:
        caller, body = await registered(platform, cookie=False)
        assert not caller.http.cookies
        assert body["refresh_token"]
        me = await platform.caller(body["access_token"]).ask("GET", "/v1/me")
        assert me.json() == body["user"]

    async def test_an_email_has_one_account(self, platform: Platform) -> None:
        _, body = await registered(platform)
        again = {"email": body["user"]["email"].upper(), "password": PASSWORD}
        refused(await platform.caller().ask("POST", "/v1/auth/register", again), 409, "conflict", "email")

    @pytest.mark.parametrize(
        ("change", "param"),
        [
            ({"email": "nobody"}, "email"),
            ({"email": "a b@example.org"}, "email"),
            ({"email": "a\n@example.org"}, "email"),
            ({"email": "a\x00@example.org"}, "email"),
            ({"email": 5}, "email"),
            ({"password": "short"}, "password"),
            ({"password": "x" * 2000}, "password"),
            ({"name": "\x00"}, "name"),
            ({"name": "n" * 201}, "name"),
            ({"cookie": "yes"}, "cookie"),
            ({"admin": True}, "admin"),
        ],
    )
    async def test_what_is_wrong_is_named(self, platform: Platform, change: dict[str, object], param: str) -> None:
        body = {"email": someone(), "password": PASSWORD, **change}
        refused(await platform.caller().ask("POST", "/v1/auth/register", body), 400, "invalid", param)

    async def test_a_foreign_page_may_not(self, platform: Platform) -> None:
        body = {"email": someone(), "password": PASSWORD}
        response = await platform.caller().ask("POST", "/v1/auth/register", body, origin="http://evil.test")
        refused(response, 403, "forbidden", "Origin")

    async def test_with_https_cookies_are_bound_to_this_host(self, shared_dsn: str, redis_server: RedisServer) -> None:
        async with open_platform(shared_dsn, redis_server.url, https=True) as platform:
            caller = platform.caller(base_url="https://chat.test")
            response = await caller.ask("POST", "/v1/auth/register", {"email": someone(), "password": PASSWORD})
            cookies = response.headers.get_list("set-cookie")
            assert [cookie.partition("=")[0] for cookie in cookies] == [
                "__Host-parley_session",
                "__Secure-parley_refresh",
                "__Host-parley_csrf",
            ]
            for cookie, hidden, path in zip(cookies, (True, True, False), ("/", "/v1/auth", "/"), strict=True):
                attributes = {part.strip().lower() for part in cookie.split(";")[1:]}
                assert {"secure", "samesite=strict", f"path={path}"} <= attributes
                assert ("httponly" in attributes) == hidden
                assert not any(part.startswith("domain") for part in attributes)
            assert (await caller.ask("GET", "/v1/me")).status_code == 200
            assert "strict-transport-security" in response.headers


class TestLogin:
    async def test_by_email_and_password(self, platform: Platform) -> None:
        _, body = await registered(platform)
        login = {"email": body["user"]["email"].upper(), "password": PASSWORD}
        response = await platform.caller().ask("POST", "/v1/auth/login", login)
        assert response.status_code == 200
        assert response.json()["user"] == body["user"]

    async def test_a_wrong_password_and_a_missing_account_look_the_same(self, platform: Platform) -> None:
        _, body = await registered(platform)
        wrong = await platform.caller().ask(
            "POST", "/v1/auth/login", {"email": body["user"]["email"], "password": "wrong horse"}
        )
        absent = await platform.caller().ask("POST", "/v1/auth/login", {"email": someone(), "password": PASSWORD})
        assert refused(wrong, 401, "unauthorized")["message"] == refused(absent, 401, "unauthorized")["message"]
        assert "bearer" in wrong.headers["www-authenticate"].lower()

    async def test_guessing_is_stopped_and_success_costs_nothing(self, platform: Platform) -> None:
        _, body = await registered(platform)
        caller, email = platform.caller(), body["user"]["email"]
        right, wrong = {"email": email, "password": PASSWORD}, {"email": email, "password": "wrong horse"}
        assert (await caller.ask("POST", "/v1/auth/login", right)).status_code == 200
        for _ in range(PER_EMAIL_AND_ADDRESS):
            refused(await caller.ask("POST", "/v1/auth/login", wrong), 401, "unauthorized")
        response = await caller.ask("POST", "/v1/auth/login", right)
        error = refused(response, 429, "rate_limited")
        assert error["retryable"]
        assert 0 < error["retry_after_ms"] <= 900_000
        assert response.headers["retry-after-ms"] == str(error["retry_after_ms"])
        assert int(response.headers["retry-after"]) * 1000 >= error["retry_after_ms"]

    async def test_a_strangers_word_for_its_address_is_not_taken(self, platform: Platform) -> None:
        email = (await registered(platform))[1]["user"]["email"]
        assert await guesses(platform, email, lambda n: f"203.0.113.{n}") == PER_EMAIL_AND_ADDRESS

    async def test_guesses_are_counted_for_the_client_behind_a_trusted_proxy(
        self, shared_dsn: str, redis_server: RedisServer
    ) -> None:
        trusted = {"trusted_proxies": ("192.0.2.0/24", "10.0.0.0/8"), "http_client_address": "forwarded"}
        async with open_platform(shared_dsn, redis_server.url, **trusted) as platform:
            email = (await registered(platform))[1]["user"]["email"]
            one = await guesses(platform, email, lambda n: f"6.6.6.{n}, 203.0.113.7, 10.0.0.{n}")
            assert one == PER_EMAIL_AND_ADDRESS
            email = (await registered(platform))[1]["user"]["email"]
            assert await guesses(platform, email, lambda n: f"203.0.113.{n}, 10.0.0.1") > PER_EMAIL_AND_ADDRESS

    async def test_a_code_logs_in_once(self, platform: Platform) -> None:
        user, code = await platform.user(), new_secret()
        await platform.services.accounts.create_code(user.id, fingerprint(code), 60)
        caller = platform.caller()
        assert (await caller.ask("POST", "/v1/auth/login", {"code": code})).json()["user"]["id"] == user.id
        assert (await caller.ask("GET", "/v1/me")).status_code == 200
        refused(await platform.caller().ask("POST", "/v1/auth/login", {"code": code}), 401, "unauthorized", "code")

    async def test_a_suspended_account_is_told_so_only_with_its_password(self, platform: Platform) -> None:
        _, body = await registered(platform)
        await platform.services.accounts.set_status(body["user"]["id"], "suspended")
        right = {"email": body["user"]["email"], "password": PASSWORD}
        refused(await platform.caller().ask("POST", "/v1/auth/login", right), 403, "forbidden")
        wrong = {**right, "password": "wrong horse"}
        refused(await platform.caller().ask("POST", "/v1/auth/login", wrong), 401, "unauthorized")

    @pytest.mark.parametrize(
        ("body", "param"), [({}, "email"), ({"email": "a@b"}, "password"), ({"password": "correct horse"}, "email")]
    )
    async def test_what_is_missing_is_named(self, platform: Platform, body: dict[str, str], param: str) -> None:
        refused(await platform.caller().ask("POST", "/v1/auth/login", body), 400, "invalid", param)

    async def test_an_account_without_a_password_takes_none(self, platform: Platform) -> None:
        user = await platform.user()
        login = {"email": user.email, "password": "an account that is not there"}
        refused(await platform.caller().ask("POST", "/v1/auth/login", login), 401, "unauthorized")


class TestRefresh:
    async def test_a_browser_refreshes_by_cookie_and_csrf_token(self, platform: Platform) -> None:
        caller, body = await registered(platform)
        before = caller.http.cookies.get("parley_refresh")
        response = await caller.ask("POST", "/v1/auth/refresh", x_csrf_token=caller.csrf)
        assert response.status_code == 200
        assert response.json()["user"] == body["user"]
        assert caller.http.cookies.get("parley_refresh") != before
        assert (await caller.ask("GET", "/v1/me")).status_code == 200

    async def test_without_the_csrf_token_nothing_is_rotated(self, platform: Platform) -> None:
        caller, _ = await registered(platform)
        refused(await caller.ask("POST", "/v1/auth/refresh"), 403, "forbidden", "X-CSRF-Token")
        refused(await caller.ask("POST", "/v1/auth/refresh", x_csrf_token="guess"), 403, "forbidden")
        assert (await caller.ask("POST", "/v1/auth/refresh", x_csrf_token=caller.csrf)).status_code == 200

    async def test_two_tabs_get_the_same_successor(self, platform: Platform) -> None:
        _, body = await registered(platform, cookie=False)
        refresh = {"refresh_token": body["refresh_token"], "cookie": False}
        answers = await asyncio.gather(*(platform.caller().ask("POST", "/v1/auth/refresh", refresh) for _ in range(4)))
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.json()["refresh_token"] for answer in answers}) == 1

    async def test_a_reused_token_ends_the_session(self, platform: Platform) -> None:
        _, body = await registered(platform, cookie=False)
        tokens = [body["refresh_token"]]
        for _ in range(2):
            refresh = {"refresh_token": tokens[-1], "cookie": False}
            answer = await platform.caller().ask("POST", "/v1/auth/refresh", refresh)
            tokens.append(answer.json()["refresh_token"])
        for stale in tokens[0], tokens[2]:
            refresh = {"refresh_token": stale, "cookie": False}
            refused(await platform.caller().ask("POST", "/v1/auth/refresh", refresh), 401, "unauthorized")
        refused(await platform.caller(body["access_token"]).ask("GET", "/v1/me"), 401, "unauthorized")

    async def test_a_forged_token_ends_nothing(self, platform: Platform) -> None:
        _, body = await registered(platform, cookie=False)
        good = body["refresh_token"]
        forged = good[:-2] + ("AA" if not good.endswith("AA") else "BA")
        for text in (forged, "garbage", "", "\ud7ff"):
            refresh = {"refresh_token": text}
            refused(await platform.caller().ask("POST", "/v1/auth/refresh", refresh), 401, "unauthorized")
        refresh = {"refresh_token": good, "cookie": False}
        assert (await platform.caller().ask("POST", "/v1/auth/refresh", refresh)).status_code == 200

    async def test_without_any_token_one_must_log_in(self, platform: Platform) -> None:
        refused(await platform.caller().ask("POST", "/v1/auth/refresh"), 401, "unauthorized")


class TestLogout:
    async def test_a_browser_leaves_nothing_behind(self, platform: Platform) -> None:
        caller, _ = await registered(platform)
        session = caller.http.cookies.get("parley_session")
        response = await caller.ask("POST", "/v1/auth/logout", x_csrf_token=caller.csrf)
        assert response.status_code == 204
        assert not caller.http.cookies
        refused(await platform.caller(session).ask("GET", "/v1/me"), 401, "unauthorized")

    async def test_it_needs_the_csrf_token(self, platform: Platform) -> None:
        caller, _ = await registered(platform)
        refused(await caller.ask("POST", "/v1/auth/logout"), 403, "forbidden", "X-CSRF-Token")

    async def test_an_expired_access_token_is_no_obstacle(self, platform: Platform) -> None:
        caller, _ = await registered(platform)
        caller.http.cookies.delete("parley_session")
        response = await caller.ask("POST", "/v1/auth/logout", x_csrf_token=caller.csrf)
        assert response.status_code == 204
        assert not caller.http.cookies

    async def test_a_program_ends_its_session(self, platform: Platform) -> None:
        _, body = await registered(platform, cookie=False)
        caller = platform.caller(body["access_token"])
        assert (await caller.ask("POST", "/v1/auth/logout")).status_code == 204
        refused(await caller.ask("GET", "/v1/me"), 401, "unauthorized")
        refresh = {"refresh_token": body["refresh_token"]}
        refused(await platform.caller().ask("POST", "/v1/auth/refresh", refresh), 401, "unauthorized")

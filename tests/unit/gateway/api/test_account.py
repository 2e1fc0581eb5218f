"""`/v1/me`, `/v1/keys`, and what a cookie, a token or a key may do."""

from __future__ import annotations

import pytest

from tests.support.api import Platform, refused
from tests.support.turns import new_id

PASSWORD = "correct horse"


class TestMe:
    async def test_the_account_is_shown_and_renamed(self, platform: Platform) -> None:
        user, caller = await platform.signed_in()
        assert (await caller.ask("GET", "/v1/me")).json() == {
            "id": user.id,
            "email": user.email,
            "name": "Ann",
            "role": "user",
            "zone": "eu",
            "status": "active",
            "created_at": user.created_at_ms,
        }
        assert (await caller.ask("PATCH", "/v1/me", {"name": " Anna "})).json()["name"] == "Anna"
        assert (await caller.ask("PATCH", "/v1/me", {})).json()["name"] == "Anna"

    async def test_a_new_password_needs_the_present_one_and_ends_other_sessions(self, platform: Platform) -> None:
        user = await platform.user(password_hash=await platform.services.passwords.hash(PASSWORD))
        caller, other = platform.caller(await platform.token(user)), platform.caller(await platform.token(user))
        change = {"password": "new horse, new battery"}
        refused(await caller.ask("PATCH", "/v1/me", change), 403, "forbidden", "current_password")
        refused(await caller.ask("PATCH", "/v1/me", {**change, "current_password": "wrong"}), 403, "forbidden")
        assert (await caller.ask("PATCH", "/v1/me", {**change, "current_password": PASSWORD})).status_code == 200
        assert (await caller.ask("GET", "/v1/me")).status_code == 200
        refused(await other.ask("GET", "/v1/me"), 401, "unauthorized")
        login = {"email": user.email, "password": change["password"]}
        assert (await platform.caller().ask("POST", "/v1/auth/login", login)).status_code == 200

    async def test_an_account_without_a_password_gets_its_first_one(self, platform: Platform) -> None:
        _, caller = await platform.signed_in()
        assert (await caller.ask("PATCH", "/v1/me", {"password": PASSWORD})).status_code == 200
        refused(await caller.ask("PATCH", "/v1/me", {"password": "aaaaaaaa"}), 400, "invalid", "password")

    async def test_a_closed_account_is_gone_with_its_sessions_and_keys(self, platform: Platform) -> None:
        _, caller = await platform.signed_in()
        key = (await caller.ask("POST", "/v1/keys", {"name": "laptop"})).json()["key"]
        assert (await platform.caller(key).ask("GET", "/v1/models")).status_code == 200
        assert (await caller.ask("DELETE", "/v1/me")).status_code == 204
        refused(await caller.ask("GET", "/v1/me"), 401, "unauthorized")
        refused(await platform.caller(key).ask("GET", "/v1/models"), 401, "unauthorized")

    async def test_suspension_reaches_tokens_and_keys(self, platform: Platform) -> None:
        user, caller = await platform.signed_in()
        key = (await caller.ask("POST", "/v1/keys", {"name": "laptop"})).json()["key"]
        assert (await platform.caller(key).ask("GET", "/v1/models")).status_code == 200
        await platform.services.accounts.set_status(user.id, "suspended")
        await platform.services.revocations.announce(user.id, None, "suspended")
        refused(await caller.ask("GET", "/v1/models"), 403, "forbidden")
        refused(await platform.caller(key).ask("GET", "/v1/models"), 403, "forbidden")


class TestKeys:
    async def test_a_key_is_shown_once_and_works_until_deleted(self, platform: Platform) -> None:
        _, caller = await platform.signed_in()
        response = await caller.ask("POST", "/v1/keys", {"name": "laptop"})
        assert response.status_code == 201
        made = response.json()
        assert made["key"].startswith(made["prefix"])
        assert len(made["key"]) > len(made["prefix"]) + 30
        listed = (await caller.ask("GET", "/v1/keys")).json()
        assert listed["next_cursor"] is None
        assert [(key["id"], "key" in key) for key in listed["data"]] == [(made["id"], False)]
        program = platform.caller(made["key"])
        assert (await program.ask("GET", "/v1/models")).status_code == 200
        assert (await caller.ask("DELETE", f"/v1/keys/{made['id']}")).status_code == 204
        refused(await program.ask("GET", "/v1/models"), 401, "unauthorized")
        refused(await caller.ask("DELETE", f"/v1/keys/{made['id']}"), 404, "not_found", "key_id")

    async def test_scopes_bound_what_a_key_does(self, platform: Platform) -> None:
        user, caller = await platform.signed_in()
        chat = (await caller.ask("POST", "/v1/keys", {"name": "a"})).json()["key"]
        account = (await caller.ask("POST", "/v1/keys", {"name": "b", "scopes": ["account"]})).json()["key"]
        conversation = await platform.conversation(user)
        chatting, managing = platform.caller(chat), platform.caller(account)
        assert (await chatting.ask("GET", f"/v1/conversations/{conversation}")).status_code == 200
        for method, path in (("GET", "/v1/keys"), ("POST", "/v1/keys"), ("PATCH", "/v1/me"), ("DELETE", "/v1/me")):
            body = {"name": "c"} if method in ("POST", "PATCH") else None
            refused(await chatting.ask(method, path, body), 403, "forbidden")
        assert (await managing.ask("GET", "/v1/keys")).status_code == 200
        refused(await managing.ask("GET", "/v1/conversations"), 403, "forbidden")
        refused(await managing.ask("GET", f"/v1/conversations/{conversation}/messages"), 403, "forbidden")
        refused(await managing.ask("POST", "/v1/ws/tickets"), 403, "forbidden")
        refused(await managing.ask("DELETE", "/v1/me"), 403, "forbidden")

    @pytest.mark.parametrize(
        ("body", "param"),
        [({}, "name"), ({"name": ""}, "name"), ({"name": "a", "scopes": ["root"]}, "scopes[0]"), ({"name": 1}, "name")],
    )
    async def test_what_is_wrong_is_named(self, platform: Platform, body: dict[str, object], param: str) -> None:
        _, caller = await platform.signed_in()
        refused(await caller.ask("POST", "/v1/keys", body), 400, "invalid", param)

    async def test_another_users_key_is_not_there(self, platform: Platform) -> None:
        _, ann = await platform.signed_in()
        _, bob = await platform.signed_in()
        key = (await ann.ask("POST", "/v1/keys", {"name": "laptop"})).json()["id"]
        refused(await bob.ask("DELETE", f"/v1/keys/{key}"), 404, "not_found")
        refused(await bob.ask("DELETE", "/v1/keys/no-id"), 404, "not_found")

    @pytest.mark.parametrize("credential", ["sk-parley-" + "A" * 43, "sk-parley-short", "garbage", "a.b.c", "", "é"])
    async def test_bad_credentials_are_refused(self, platform: Platform, credential: str) -> None:
        headers = {"authorization": f"Bearer {credential}".encode()}
        response = await platform.caller().http.get("/v1/models", headers=headers)
        refused(response, 401, "unauthorized")

    async def test_another_scheme_is_refused(self, platform: Platform) -> None:
        refused(await platform.caller().ask("GET", "/v1/models", authorization="Basic YTpi"), 401, "unauthorized")
        refused(await platform.caller().ask("GET", "/v1/models"), 401, "unauthorized")


class TestCookies:
    async def test_a_change_needs_our_page_and_the_sessions_csrf_token(self, platform: Platform) -> None:
        user = await platform.user()
        caller = platform.caller()
        caller.http.cookies.set("parley_session", await platform.token(user))
        body = {"id": new_id()}
        assert (await caller.ask("GET", "/v1/conversations")).status_code == 200
        refused(await caller.ask("POST", "/v1/conversations", body), 403, "forbidden", "X-CSRF-Token")
        foreign = platform.services.refresh_tokens.csrf(new_id())
        caller.http.cookies.set("parley_csrf", foreign)
        refused(await caller.ask("POST", "/v1/conversations", body, x_csrf_token=foreign), 403, "forbidden")
        claims = platform.services.access_tokens.verify(caller.http.cookies["parley_session"])
        assert claims is not None
        own = platform.services.refresh_tokens.csrf(claims.sid)
        refused(await caller.ask("POST", "/v1/conversations", body, x_csrf_token=own), 403, "forbidden")
        caller.http.cookies.set("parley_csrf", own)
        evil = await caller.ask("POST", "/v1/conversations", body, x_csrf_token=own, origin="http://evil.test")
        refused(evil, 403, "forbidden", "Origin")
        good = await caller.ask("POST", "/v1/conversations", body, x_csrf_token=own, origin="http://chat.test")
        assert good.status_code == 201

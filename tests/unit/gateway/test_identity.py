from __future__ import annotations

import asyncio

import pytest

from core.auth.opaque import fingerprint, new_api_key
from core.errors import TABLE, ParleyError
from gateway.identity import PAIR_CHARS, PAIRS_KNOWN, Identity, Origins, read_cookie
from gateway.keycache import FRESH_S, STALE_S, KeyCache
from gateway.revocations import refusal_code
from tests.support.api import Platform, open_platform
from tests.support.clock import ManualClock
from tests.support.polling import eventually
from tests.support.postgres import PostgresServer
from tests.support.redis import RedisServer
from tests.support.turns import new_id


def refusal(error: pytest.ExceptionInfo[ParleyError]) -> tuple[str, int | None]:
    return error.value.code, error.value.kind.close


class TestOrigins:
    local = Origins([], False, [8080])
    https = Origins(["https://app.test", "https://Other.test/"], True, [])

    @pytest.mark.parametrize(
        ("origin", "host", "allowed"),
        [
            ("http://127.0.0.1:8080", "127.0.0.1:8080", True),
            ("http://127.0.0.1:8080", "127.0.0.1:8081", True),
            ("http://127.0.0.1:9999", "127.0.0.1:9999", True),
            ("http://LOCALHOST:8080", "localhost:8081", True),
            ("http://[::1]:8080", "[::1]:8081", True),
            ("http://127.0.0.1:3000", "127.0.0.1:8081", False),
            ("http://localhost:8080", "127.0.0.1:8081", False),
            ("https://127.0.0.1:8080", "127.0.0.1:8080", False),
            ("http://evil.test", "127.0.0.1:8080", False),
            ("http://127.0.0.1:8080.evil.test", "127.0.0.1:8080", False),
            ("http://127.0.0.1:port", "127.0.0.1:8080", False),
            ("http://[", "127.0.0.1:8080", False),
            ("null", "127.0.0.1:8080", False),
            ("", "", False),
        ],
    )
    def test_a_page_of_our_own_or_none(self, origin: str, host: str, allowed: bool) -> None:
        assert self.local.allows(origin, host) == allowed
        assert self.local.allows(origin, host) == allowed, "nor when it is asked again"

    @pytest.mark.parametrize(
        ("origin", "host", "allowed"),
        [
            ("https://app.test", "ws.test", True),
            ("https://other.test", "ws.test", True),
            ("https://ws.test", "ws.test", True),
            ("https://ws.test", "ws.test:443", True),
            ("http://ws.test", "ws.test", False),
            ("https://app.test.evil.test", "ws.test", False),
        ],
    )
    def test_the_allow_list_is_exact(self, origin: str, host: str, allowed: bool) -> None:
        assert self.https.allows(origin, host) == allowed


def test_what_is_known_of_pages_is_bounded_and_of_allowed_ones_only() -> None:
    origins = Origins([], False, [8080])
    for number in range(3 * PAIRS_KNOWN):
        assert origins.allows(f"http://host{number}:8080", f"host{number}")
        assert not origins.allows(f"http://host{number}:8080", "elsewhere")
        assert len(origins._known) <= PAIRS_KNOWN
    assert all(page.startswith(f"http://{host}") for page, host in origins._known)
    long = "h" * PAIR_CHARS
    assert origins.allows(f"http://{long}:8080", long)
    assert (f"http://{long}:8080", long) not in origins._known


def test_the_first_cookie_of_a_name_is_read() -> None:
    headers = {"cookie": 'a=1; parley_session=x=y; b="2"; parley_session=z;c'}
    assert read_cookie(headers, "parley_session") == "x=y"
    assert read_cookie(headers, "c") is None
    assert read_cookie({}, "a") is None


class TestWebSocket:
    async def test_a_browser_needs_its_cookie_and_our_page(self, platform: Platform) -> None:
        user = await platform.user()
        cookie = {"cookie": f"parley_session={await platform.token(user)}"}
        authenticate = platform.handshake
        identity = await authenticate({**cookie, "origin": "http://chat.test:8080", **_host()}, [])
        assert (identity.user_id, identity.via) == (user.id, "cookie")
        assert identity.session_id is not None
        for origin in ({}, {"origin": "http://evil.test"}, {"origin": "null"}):
            with pytest.raises(ParleyError) as error:
                await authenticate({**cookie, **_host(), **origin}, [])
            assert refusal(error) == ("forbidden", 4403)
        with pytest.raises(ParleyError) as error:
            await authenticate({**_host(), "origin": "http://chat.test:8080"}, ["parley.v1"])
        assert refusal(error) == ("unauthorized", 4401)

    async def test_a_program_needs_a_token_or_a_key_and_no_page(self, platform: Platform) -> None:
        user, caller = await platform.signed_in()
        key = (await caller.ask("POST", "/v1/keys", {"name": "bot"})).json()
        authenticate = platform.handshake
        bearer = await authenticate({"authorization": f"Bearer {await platform.token(user)}"}, [])
        program = await authenticate({"authorization": f"bearer {key['key']}"}, [])
        assert (bearer.via, bearer.user_id, bearer.key_id) == ("bearer", user.id, None)
        assert (program.via, program.user_id, program.session_id) == ("key", user.id, None)
        assert (program.key_id, program.scopes, program.expires_ms) == (key["id"], ("chat",), None)

    async def test_a_ticket_works_once_and_not_after_its_issuer(self, platform: Platform) -> None:
        user = await platform.user()
        token = await platform.token(user)
        caller = platform.caller(token)
        authenticate = platform.handshake
        tickets = [(await caller.ask("POST", "/v1/ws/tickets")).json()["ticket"] for _ in range(2)]
        identity = await authenticate({}, ["parley.v1", f"parley.ticket.{tickets[0]}"])
        assert (identity.user_id, identity.via, identity.expires_ms) == (user.id, "ticket", None)
        assert (await caller.ask("POST", "/v1/auth/logout")).status_code == 204
        for ticket in (*tickets, "unknown", ""):
            with pytest.raises(ParleyError) as error:
                await authenticate({}, [f"parley.ticket.{ticket}"])
            assert refusal(error) == ("unauthorized", 4401)

    async def test_without_redis_a_ticket_is_told_to_be_unavailable(
        self, platform: Platform, redis_server: RedisServer
    ) -> None:
        redis_server.kill()
        with pytest.raises(ParleyError) as error:
            await platform.handshake({}, ["parley.ticket.x"])
        assert refusal(error) == ("unavailable", None)


class TestRevocations:
    async def test_every_process_hears_of_it_at_once(self, shared_dsn: str, redis_server: RedisServer) -> None:
        async with (
            open_platform(shared_dsn, redis_server.url) as here,
            open_platform(shared_dsn, redis_server.url) as there,
        ):
            heard: list[tuple[str, str | None, str]] = []
            there.services.revocations.on_revoked(lambda *told: heard.append(told))
            user, caller = await here.signed_in()
            await eventually(lambda: _listeners(here, 2))
            identity = await here.services.identities.of_http("GET", dict(caller.http.headers))
            await caller.ask("POST", "/v1/auth/logout")
            await eventually(lambda: heard, within_s=1.0)
            assert heard[0] == (user.id, identity.session_id, "session")
            assert identity.ended_by(*heard[0][:2])
            with pytest.raises(ParleyError, match="ended"):
                await there.services.identities.of_http("GET", dict(caller.http.headers))

    async def test_what_nobody_announced_is_found(self, platform: Platform) -> None:
        heard: list[tuple[str, str | None, str]] = []
        platform.services.revocations.on_revoked(lambda *told: heard.append(told))
        user, caller = await platform.signed_in()
        await platform.services.accounts.set_status(user.id, "suspended")
        await platform.services.revocations.catch_up()
        mine = [told for told in heard if told[0] == user.id]
        assert [(subject is None, reason) for _, subject, reason in mine] == [(True, "suspended"), (False, "session")]
        response = await caller.ask("GET", "/v1/models")
        assert response.status_code == 403
        await platform.services.revocations.catch_up()
        assert [told for told in heard if told[0] == user.id] == mine

    async def test_suspended_and_restored_between_two_polls_is_restored(self, platform: Platform) -> None:
        heard: list[tuple[str, str | None, str]] = []
        user = await platform.user()
        await platform.services.accounts.set_status(user.id, "suspended")
        await platform.services.accounts.set_status(user.id, "active")
        platform.services.revocations.on_revoked(lambda *told: heard.append(told))
        await platform.services.revocations.catch_up()
        assert [told for told in heard if told[0] == user.id] == []
        assert (await platform.caller(await platform.token(user)).ask("GET", "/v1/models")).status_code == 200

    async def test_a_process_that_starts_later_knows(self, shared_dsn: str, redis_server: RedisServer) -> None:
        async with open_platform(shared_dsn, redis_server.url) as platform:
            _, caller = await platform.signed_in()
            token = caller.http.headers["authorization"]
            await caller.ask("POST", "/v1/auth/logout")
        async with open_platform(shared_dsn, redis_server.url) as later:
            response = await later.caller().ask("GET", "/v1/models", authorization=token)
            assert response.status_code == 401

    async def test_a_failing_callback_stops_nobody(self, platform: Platform) -> None:
        heard: list[str] = []

        def fail(*_: object) -> None:
            raise RuntimeError("a socket that is gone")

        platform.services.revocations.on_revoked(fail)
        platform.services.revocations.on_revoked(lambda user, subject, reason: heard.append(user))
        await platform.services.revocations.announce("user", None, "suspended")
        assert set(heard) == {"user"}

    def test_sockets_are_closed_by_the_table(self) -> None:
        assert TABLE[refusal_code("session")].close == TABLE[refusal_code("key")].close == 4401
        assert TABLE[refusal_code("suspended")].close == 4403

    def test_a_revocation_ends_what_it_names(self) -> None:
        mine = Identity(user_id="ann", role="user", zone="eu", via="bearer", session_id="s1")
        key = Identity(user_id="ann", role="user", zone="eu", via="key", key_id="k1")
        assert mine.ended_by("ann", "s1")
        assert mine.ended_by("ann", None)
        assert key.ended_by("ann", "k1")
        assert not mine.ended_by("ann", "k1")
        assert not mine.ended_by("bob", None)


class TestKeyCache:
    async def test_a_key_is_read_once_in_five_seconds(self, platform: Platform) -> None:
        clock, user, secret = ManualClock(), await platform.user(), new_api_key()
        accounts = platform.services.accounts
        await accounts.create_key(new_id(), user.id, "bot", "sk-", fingerprint(secret), ("chat",))
        cache = KeyCache(accounts, platform.services.revocations, clock)
        first = await asyncio.gather(*(cache.find(secret) for _ in range(20)))
        assert {found[1].id for found in first if found} == {user.id}
        await accounts.rename(user.id, "Anna")
        clock.advance(FRESH_S)
        again = await cache.find(secret)
        clock.advance(0.1)
        later = await cache.find(secret)
        assert again is not None
        assert later is not None
        assert (again[1].name, later[1].name) == ("Ann", "Anna")
        assert await cache.find(new_api_key()) is None
        await cache.flush()
        (key,) = await accounts.keys_of(user.id)
        assert key.last_used_at_ms == clock.wall_ms()

    async def test_a_known_key_outlives_the_store_for_a_while(
        self, dsn: str, redis_server: RedisServer, postgres_server: PostgresServer
    ) -> None:
        async with open_platform(dsn, redis_server.url) as platform:
            clock, user, secret = ManualClock(), await platform.user(), new_api_key()
            accounts = platform.services.accounts
            await accounts.create_key(new_id(), user.id, "bot", "sk-", fingerprint(secret), ("chat",))
            cache = KeyCache(accounts, platform.services.revocations, clock)
            await cache.find(secret)
            postgres_server.stop()
            try:
                clock.advance(STALE_S)
                assert await cache.find(secret) is not None
                clock.advance(1)
                with pytest.raises(ParleyError, match="cannot be checked"):
                    await cache.find(secret)
            finally:
                postgres_server.start()
            assert await cache.find(secret) is not None


def _host() -> dict[str, str]:
    return {"host": "chat.test:8081"}


async def _listeners(platform: Platform, count: int) -> bool:
    reply = await platform.redis.execute("PUBSUB", "NUMSUB", "parley:revocations")
    return bool(reply[1] == count)

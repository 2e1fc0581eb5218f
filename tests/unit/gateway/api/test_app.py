"""What holds for every resource: the shape of refusals, headers, bad input, the page, the OpenAPI document."""

from __future__ import annotations

import gzip
import itertools
import re
from pathlib import Path
from typing import Any

import pytest

from core.errors import TABLE
from core.ids import generation_id
from tests.support.api import Platform, open_platform, refused
from tests.support.postgres import PostgresServer
from tests.support.redis import RedisServer
from tests.support.turns import new_id

CONVERSATION, TURN = new_id(), new_id()
GENERATION = generation_id(CONVERSATION, TURN)
ROUTES = [
    ("POST", "/v1/auth/register"),
    ("POST", "/v1/auth/login"),
    ("POST", "/v1/auth/refresh"),
    ("POST", "/v1/auth/logout"),
    ("GET", "/v1/me"),
    ("PATCH", "/v1/me"),
    ("DELETE", "/v1/me"),
    ("GET", "/v1/keys"),
    ("POST", "/v1/keys"),
    ("DELETE", "/v1/keys/{id}"),
    ("POST", "/v1/ws/tickets"),
    ("GET", "/v1/conversations"),
    ("POST", "/v1/conversations"),
    ("GET", "/v1/conversations/{id}"),
    ("PATCH", "/v1/conversations/{id}"),
    ("DELETE", "/v1/conversations/{id}"),
    ("POST", "/v1/conversations/{id}/restore"),
    ("PUT", "/v1/conversations/{id}/branch"),
    ("GET", "/v1/conversations/{id}/messages"),
    ("POST", "/v1/conversations/{id}/messages"),
    ("GET", "/v1/conversations/{id}/messages/{id}"),
    ("GET", "/v1/generations/{id}"),
    ("GET", "/v1/generations/{id}/events"),
    ("POST", "/v1/generations/{id}/cancel"),
    ("POST", "/v1/generations/{id}/regenerate"),
    ("POST", "/v1/generations/{id}/continue"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{id}"),
]
BODIES = [(method, path) for method, path in ROUTES if method in ("POST", "PATCH", "PUT")]
PUBLIC = {"/v1/auth/register", "/v1/auth/login", "/v1/auth/refresh", "/v1/auth/logout"}
BAD_BODIES = [
    b"{",
    b"nul",
    b"\xff\xfe",
    b'{"content": "\xc3"}',
    b"[]",
    b"5",
    b'"text"',
    b"null",
    b'{"unknown": 1}',
    b'{"content": 1, "name": 1, "email": 1, "id": 1, "leaf_id": 1, "turn_id": 1, "refresh_token": 1}',
    b"[" * 100_000,
    b'{"params": ' + b"[" * 50_000 + b"]" * 50_000 + b', "content": "a"}',
    b'{"title": "\\ud800", "name": "\\ud800", "content": "\\ud800", "code": "\\ud800"}',
    b'{"name": 1e999, "title": 1e999}',
]
BAD_IDS = [
    "x",
    "%00",
    "%ff",
    "..%2f..",
    "'; drop table users; --",
    "a" * 3000,
    CONVERSATION.upper(),
    "é",
    "gen_" + "A" * 43,
]


def filled(path: str, identifier: str = TURN) -> str:
    return path.replace("{id}", identifier)


class TestRefusals:
    async def test_what_is_not_there_is_told_in_the_tables_shape(self, platform: Platform) -> None:
        _, caller = await platform.signed_in()
        for path in ("/v1", "/v1/", "/v1/nothing", "/v1/conversations/a/b/c", "/nothing", "/docs/nothing", "/v1/%ff"):
            refused(await caller.ask("GET", path), 404, "not_found")

    async def test_a_method_that_is_not_known_is_told_so(self, platform: Platform) -> None:
        _, caller = await platform.signed_in()
        for method, path in (("PUT", "/v1/me"), ("DELETE", "/v1/models"), ("PATCH", "/v1/auth/login")):
            refused(await caller.ask(method, path), 405, "method_not_allowed")

    async def test_nobody_gets_in_without_credentials(self, platform: Platform) -> None:
        for method, path in ROUTES:
            if path not in PUBLIC:
                refused(await platform.caller().ask(method, filled(path), b"{ not read"), 401, "unauthorized")

    async def test_a_bad_body_is_the_senders_mistake(self, platform: Platform) -> None:
        _, caller = await platform.signed_in()
        for (method, path), body in itertools.product(BODIES, BAD_BODIES):
            response = await caller.ask(method, filled(path), body)
            if response.status_code >= 400:
                code = response.json()["error"]["code"]
                refused(response, TABLE[code].status, code)
            assert response.status_code < 500, (method, path, body[:40], response.text)

    async def test_a_bad_id_is_nobodys(self, platform: Platform) -> None:
        _, caller = await platform.signed_in()
        with_id = [route for route in ROUTES if "{id}" in route[1]]
        for (method, path), identifier in itertools.product(with_id, BAD_IDS):
            body = {"/messages": {"content": "a"}, "/branch": {"leaf_id": "x"}}.get(path[path.rindex("/") :], {})
            response = await caller.ask(method, filled(path, identifier), None if method in ("GET", "DELETE") else body)
            refused(response, 404, "not_found")

    async def test_a_body_is_json_by_its_type_and_bounded(self, platform: Platform) -> None:
        _, caller = await platform.signed_in()
        path, body = "/v1/conversations", b'{"title": "a"}'
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "x"):
            refused(await caller.ask("POST", path, body, content_type=kind), 415, "unsupported_media_type")
        without = await caller.http.post(path, content=body)
        refused(without, 415, "unsupported_media_type")
        assert (await caller.ask("POST", path, body, content_type="application/json; charset=utf-8")).status_code == 201
        big = b'{"title": "' + b"a" * 256 * 1024 + b'"}'
        refused(await caller.ask("POST", path, big), 413, "too_large")

        async def pieces() -> Any:
            for _ in range(300):
                yield b"a" * 1024

        endless = await caller.http.post(path, content=pieces(), headers={"content-type": "application/json"})
        refused(endless, 413, "too_large")

    async def test_a_store_that_is_away_is_told_and_what_needs_none_goes_on(
        self, dsn: str, postgres_server: PostgresServer, redis_server: RedisServer
    ) -> None:
        async with open_platform(dsn, redis_server.url) as platform:
            _, caller = await platform.signed_in()
            key = (await caller.ask("POST", "/v1/keys", {"name": "laptop"})).json()["key"]
            program = platform.caller(key)
            for each in (caller, program):
                assert (await each.ask("GET", "/v1/models")).status_code == 200
            postgres_server.stop()
            try:
                for path in ("/v1/me", "/v1/conversations", f"/v1/conversations/{CONVERSATION}/messages"):
                    error = refused(await caller.ask("GET", path), 503, "unavailable")
                    assert error["retry_after_ms"] == 1000
                refused(await caller.ask("POST", "/v1/conversations"), 503, "unavailable")
                for each in (caller, program):
                    assert (await each.ask("GET", "/v1/models")).status_code == 200
                unknown = platform.caller("sk-parley-" + "A" * 43)
                refused(await unknown.ask("GET", "/v1/models"), 503, "unavailable")
            finally:
                postgres_server.start()
            assert (await caller.ask("GET", "/v1/me")).status_code == 200

    async def test_tickets_need_redis(self, platform: Platform, redis_server: RedisServer) -> None:
        _, caller = await platform.signed_in()
        redis_server.kill()
        refused(await caller.ask("POST", "/v1/ws/tickets"), 503, "unavailable")
        register = {"email": f"{new_id()}@example.org", "password": "correct horse"}
        assert (await platform.caller().ask("POST", "/v1/auth/register", register)).status_code == 201


class TestMeta:
    async def test_what_a_client_needs(self, platform: Platform) -> None:
        config = (await platform.caller().ask("GET", "/v1/config")).json()
        assert config["ws_url"] == "ws://chat.test:8081/v1/ws"
        assert config["limits"]["content_bytes"] == 65536
        assert config["features"] == {"registration": True}
        assert config["version"]

    @pytest.mark.parametrize(
        ("host", "expected"),
        [
            ("localhost:8080", "ws://localhost:8081/v1/ws"),
            ("[::1]:8080", "ws://[::1]:8081/v1/ws"),
            ("chat.test", "ws://chat.test:8081/v1/ws"),
        ],
    )
    async def test_the_sockets_address_follows_the_host(self, platform: Platform, host: str, expected: str) -> None:
        response = await platform.caller().ask("GET", "/v1/config", host=host)
        assert response.status_code == 200, response.text
        assert response.json()["ws_url"] == expected

    async def test_a_host_that_is_none_gets_into_no_policy(self, platform: Platform) -> None:
        headers = {"host": "evil.test;script-src *"}
        refused(await platform.caller().http.get("/v1/config", headers=headers), 400, "malformed")
        policy = (await platform.caller().http.get("/", headers=headers)).headers["content-security-policy"]
        assert "connect-src 'self' ws://127.0.0.1:8081;" in policy
        assert "evil" not in policy

    async def test_a_ticket_is_the_callers(self, platform: Platform) -> None:
        user, caller = await platform.signed_in()
        response = await caller.ask("POST", "/v1/ws/tickets")
        assert response.status_code == 201
        ticket = response.json()
        assert (ticket["expires_in"], ticket["url"]) == (30, "ws://chat.test:8081/v1/ws")
        identity = await platform.handshake({}, ["parley.v1", f"parley.ticket.{ticket['ticket']}"])
        assert (identity.user_id, identity.via) == (user.id, "ticket")

    async def test_models_have_openais_shape_and_our_fields(self, platform: Platform) -> None:
        _, caller = await platform.signed_in()
        models = (await caller.ask("GET", "/v1/models")).json()
        assert models["object"] == "list"
        assert models["data"] == [
            {
                "id": "small",
                "object": "model",
                "created": 0,
                "owned_by": "parley",
                "default": True,
                "price": {"input": 10, "output": 30, "version": 1},
                "context_window": 2048,
                "max_output": 512,
                "capabilities": ["chat", "streaming"],
            }
        ]
        assert (await caller.ask("GET", "/v1/models/small")).json() == models["data"][0]
        refused(await caller.ask("GET", "/v1/models/absent"), 404, "not_found", "model")

    async def test_health_names_what_is_missing(self, platform: Platform) -> None:
        caller = platform.caller()
        assert (await caller.ask("GET", "/healthz")).json()["status"] == "ok"
        assert (await caller.ask("GET", "/readyz")).json() == {"status": "ready", "parts": {}}
        platform.unready["nats"] = "no answer"
        response = await caller.ask("GET", "/readyz")
        assert (response.status_code, response.json()["parts"]) == (503, {"nats": "no answer"})

    async def test_the_openapi_document_covers_every_route(self, platform: Platform) -> None:
        document = (await platform.caller().ask("GET", "/openapi.json")).json()
        assert document["openapi"].startswith("3.")
        documented = {
            (method.upper(), re.sub(r"\{\w+\}", "{id}", path))
            for path, resource in document["paths"].items()
            for method in resource
        }
        assert set(ROUTES) <= documented
        operation = document["paths"]["/v1/conversations"]["post"]
        assert "NewConversation" in str(operation["requestBody"])
        assert "ErrorEnvelope" in str(operation["responses"]["default"])
        assert document["paths"]["/v1/auth/login"]["post"]["security"] == []

    async def test_an_allowed_origin_may_ask_from_its_page(self, shared_dsn: str, redis_server: RedisServer) -> None:
        async with open_platform(shared_dsn, redis_server.url, origins=("https://app.test", "*")) as platform:
            asking = {"access_control_request_method": "POST", "access_control_request_headers": "x-csrf-token"}
            caller = platform.caller()
            allowed = await caller.ask("OPTIONS", "/v1/conversations", origin="https://app.test", **asking)
            assert allowed.headers["access-control-allow-origin"] == "https://app.test"
            assert allowed.headers["access-control-allow-credentials"] == "true"
            foreign = await caller.ask("OPTIONS", "/v1/conversations", origin="https://evil.test", **asking)
            assert "access-control-allow-origin" not in foreign.headers


class TestHeaders:
    async def test_every_answer_is_guarded_and_numbered(self, platform: Platform) -> None:
        _, caller = await platform.signed_in()
        seen = set()
        for path in ("/v1/me", "/v1/nothing", "/healthz", "/nothing"):
            headers = (await caller.ask("GET", path)).headers
            assert headers["x-content-type-options"] == "nosniff"
            assert "frame-ancestors 'none'" in headers["content-security-policy"]
            seen.add(headers["x-request-id"])
        assert len(seen) == 4
        assert (await caller.ask("GET", "/v1/me")).headers["cache-control"] == "no-store"


class TestPage:
    @pytest.fixture
    def web_root(self, tmp_path: Path) -> str:
        assets = tmp_path / "assets"
        assets.mkdir()
        (tmp_path / "index.html").write_text("<!doctype html><title>Parley</title>")
        (assets / "index-BCFdftvV.js").write_text("export const x = 1;\n" * 200)
        (tmp_path / "icon.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
        (tmp_path.parent / "secret").write_text("secret")
        return str(tmp_path)

    async def test_files_are_served_under_a_strict_policy(
        self, shared_dsn: str, redis_server: RedisServer, web_root: str
    ) -> None:
        async with open_platform(shared_dsn, redis_server.url, web_root=web_root) as platform:
            caller = platform.caller()
            index = await caller.ask("GET", "/")
            assert index.text.startswith("<!doctype html>")
            assert index.headers["content-type"] == "text/html; charset=utf-8"
            assert index.headers["cache-control"] == "no-cache"
            policy = index.headers["content-security-policy"]
            assert "script-src 'self';" in policy
            assert "connect-src 'self' ws://chat.test:8081;" in policy
            assert "unsafe" not in policy
            script = await caller.ask("GET", "/assets/index-BCFdftvV.js", accept_encoding="gzip")
            assert script.headers["content-type"] == "text/javascript; charset=utf-8"
            assert script.headers["cache-control"] == "public, max-age=31536000, immutable"
            assert script.headers["content-encoding"] == "gzip"
            assert script.text == "export const x = 1;\n" * 200
            assert int(script.headers["content-length"]) == len(gzip.compress(script.content, 9, mtime=0))
            plain = await caller.ask("GET", "/assets/index-BCFdftvV.js", accept_encoding="identity")
            assert "content-encoding" not in plain.headers
            again = await caller.ask("GET", "/", if_none_match=index.headers["etag"])
            assert (again.status_code, again.content) == (304, b"")
            head = await caller.ask("HEAD", "/icon.svg")
            assert (head.status_code, head.content, head.headers["content-type"]) == (200, b"", "image/svg+xml")
            refused(await caller.ask("POST", "/", {}), 405, "method_not_allowed")
            for path in ("/../secret", "/%2e%2e/secret", "/assets", "/assets/", "/index.html/x"):
                refused(await caller.ask("GET", path), 404, "not_found")

    async def test_a_folder_that_is_not_there_is_refused_at_the_start(
        self, shared_dsn: str, redis_server: RedisServer, tmp_path: Path
    ) -> None:
        with pytest.raises(ValueError, match=r"gateway\.web_root"):
            async with open_platform(shared_dsn, redis_server.url, web_root=str(tmp_path / "absent")):
                pass

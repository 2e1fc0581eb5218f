"""Every route under absurd paths, queries, methods and headers; and requests that are no HTTP."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from tests.hostile.routes import CHAT, ROUTES, Example
from tests.hostile.wire import Answer, Cut, Http, connection, each
from tests.hostile.world import World, absent, new_id, refused, same
from tests.support.stack import MODEL, fetch

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.fixture(autouse=True)
def _goes_on(world: World) -> Iterator[None]:
    before = len(world.log())
    yield
    fetch("GET", f"{world.url}/v1/me", **world.owner.headers)
    assert "Traceback" not in world.log()[before:]


def bearer(world: World) -> list[tuple[str, str]]:
    return [("Authorization", f"Bearer {world.owner.token}")]


def good_body(world: World, example: Example) -> tuple[list[tuple[str, str]], bytes]:
    if example.body is None:
        return [], b""
    return [("Content-Type", "application/json")], json.dumps(example.body(world)).encode()


# --- paths ----------------------------------------------------------------------------------------------------------

NAMES = [
    *(
        "x",
        "0",
        "-1",
        "null",
        "undefined",
        "%20",
        "%00",
        "a%00b",
        "%FF%FE",
        "%ED%A0%80",
        "%C0%AE%C0%AE",
        "%F0%9F%92%A9",
    ),
    *("..%2F..%2Fetc%2Fpasswd", "%2e%2e", "..%5C..", "%0d%0aX-Injected:%201", "'%20OR%201=1--", "%7B%7D", "%25s%25n"),
    *("00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff", "gen_", "gen_" + "A" * 43),
    *("x" * 10_240, "%E2%80%AE" * 500, ";a=b", "*", "~", "@", ":", "+"),
]


class Path(NamedTuple):
    example: Example
    target: str


def _paths(world: World) -> Iterator[Path]:
    for example in ROUTES:
        for name in example.parameters:
            strange = [*NAMES, world.values[name].upper() + "x", world.values[name] + "%00", world.values[name] + "%20"]
            if name != "alias":
                strange.append(world.values[name][:-1])
            for value in strange:
                yield Path(example, example.target({**world.values, name: value}))


async def test_what_is_no_id(world: World) -> None:
    async def check(http: Http, case: Path) -> None:
        headers, body = good_body(world, case.example)
        answer = await http.ask(case.example.method, case.target, [*bearer(world), *headers], body)
        assert refused(answer)["code"] == "not_found", answer.body
        assert "x-injected" not in answer.headers

    await each(world.port, _paths(world), check)


async def test_paths_that_lead_nowhere(world: World) -> None:
    """Neither files beside the page nor anything of the machine."""
    targets = [
        *("/nothing", "/v1", "/v1/", "//v1/me", "/V1/me", "/v1/me/x", "/v1/../v1/me"),
        *("/../pyproject.toml", "/..%2fpyproject.toml", "/%2e%2e/%2e%2e/etc/passwd", "/....//....//etc/passwd"),
        *("/etc/passwd", "/assets/", "/assets/../index.html", "/assets/%2e%2e/index.html", "/index.html%00.js"),
        *("/.git/config", "/.parley/secrets", "/metrics", "/docs", "/docs/", "/schema", "/v1/admin", "/v1/admin/users"),
        *("/%", "/%zz", "/%00", "/" + "x" * 20_000, "/?" + "x" * 20_000, "/v1/conversations/a/b/c/d/e"),
    ]

    async def check(http: Http, target: str) -> None:
        answer = await http.ask("GET", target, bearer(world))
        if target.startswith("/?") and answer.status == 200:
            return
        assert refused_or_http(answer) in ("not_found", None), answer.body

    await each(world.port, targets, check)


def refused_or_http(answer: Answer) -> str | None:
    """The code of a refusal; None where the HTTP server refused what is no request, before any route was asked."""
    if answer.body == b"":
        assert answer.status in (400, 414, 431), answer
        return None
    return str(refused(answer)["code"])


# --- queries --------------------------------------------------------------------------------------------------------

QUERIES = {
    "limit": [
        *("-1", "0", "101", "1.5", "1e-2", "", "x", "null", "true", "9" * 30, "-" + "9" * 5_000, "0x10", "1%00", "%FF"),
        *("1_0", "%201", "%D9%A1", "[1]", "Infinity", "NaN"),
    ],
    "cursor": [
        "x",
        "garbage",
        "%00",
        "%FF%FE",
        "A" * 100,
        "x" * 513,
        "x" * 10_000,
        "%F0%9F%92%A9",
        "-_-_",
        "...",
        "%0a",
    ],
    "archived": ["2", "x", "null", "[]", "%00", "yes", "-1"],
}


async def test_absurd_queries(world: World) -> None:
    document = fetch("GET", f"{world.url}/openapi.json")
    cases: list[tuple[str, str, str]] = []
    for example in ROUTES:
        operation = document["paths"].get(example.path, {}).get(example.method.lower(), {})
        for parameter in operation.get("parameters", []):
            if parameter["in"] == "query":
                path, name = example.target(world.values), parameter["name"]
                cases += [(f"{path}?{name}={value}", name, "") for value in QUERIES[name]]
    assert len(cases) > 50

    async def check(http: Http, case: tuple[str, str, str]) -> None:
        target, name, _ = case
        error = refused(await http.ask("GET", target, bearer(world)))
        assert (error["code"], error["param"]) == ("invalid", name), error

    await each(world.port, cases, check)


async def test_a_cursor_is_of_its_own_list(world: World) -> None:
    """Another user's cursor, another list's, and one that was changed are no cursors here."""
    async with connection(world.port) as http:
        for _ in range(2):
            fetch("POST", f"{world.url}/v1/conversations", {}, **world.stranger.headers)
        page = fetch("GET", f"{world.url}/v1/conversations?limit=1", **world.stranger.headers)
        cursor = page["next_cursor"]
        mine = [("Authorization", f"Bearer {world.stranger.token}")]
        assert (await http.ask("GET", f"/v1/conversations?limit=1&cursor={cursor}", mine)).status == 200
        wrong = [
            (f"/v1/conversations?cursor={cursor}", bearer(world)),
            (f"/v1/conversations?archived=true&cursor={cursor}", mine),
            (f"/v1/conversations?cursor={cursor[:-1]}", mine),
            (f"/v1/conversations?cursor={'A' if cursor[0] != 'A' else 'B'}{cursor[1:]}", mine),
            (f"/v1/conversations/{world.values['conversation_id']}/messages?cursor={cursor}", bearer(world)),
        ]
        for target, headers in wrong:
            error = refused(await http.ask("GET", target, headers))
            assert (error["code"], error["param"]) == ("invalid", "cursor"), target


# --- methods and headers --------------------------------------------------------------------------------------------


async def test_other_methods(world: World) -> None:
    """405 with `Allow` for a path that exists, whatever the method is called."""
    methods = {path: {e.method for e in ROUTES if e.path == path} for path in {e.path for e in ROUTES}}
    strange = ("GET", "POST", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND", "FOO", "get", "X" * 60)
    cases = [(path, method) for path, known in methods.items() for method in strange if method not in known]

    async def check(http: Http, case: tuple[str, str]) -> None:
        path, method = case
        answer = await http.ask(method, path.format(**world.values), bearer(world))
        assert refused(answer)["code"] == "method_not_allowed", answer.body
        assert methods[path] <= {word.strip() for word in answer.headers["allow"].split(",")}

    await each(world.port, cases, check)


async def test_absurd_last_event_ids(world: World) -> None:
    generation = world.values["generation_id"]
    ids: list[str | bytes] = [
        *("x", ":", "0:0", f"{generation}:0", f"{generation}:a:0", f"{generation}:0:0:0", f"{generation}:-2:0"),
        *(f"{generation}:{'9' * 20}:0", f"{generation}:1.5:0", f"gen_{'A' * 43}:0:0", "x" * 5_000, b"\xff\xfe", "\t;"),
    ]

    async def check(http: Http, value: str | bytes) -> None:
        headers = [*bearer(world), ("Last-Event-ID", value)]
        error = refused(await http.ask("GET", f"/v1/generations/{generation}/events", headers))
        assert (error["code"], error["param"]) == ("invalid", "Last-Event-ID"), error

    await each(world.port, ids, check)


async def test_absurd_idempotency_keys(world: World) -> None:
    path = f"/v1/conversations/{world.values['conversation_id']}/messages"
    keys: list[tuple[str | bytes, dict[str, Any]]] = [
        *(("x", {}), ("", {}), ("x" * 5_000, {}), (b"\xff", {}), (new_id().upper(), {})),
        *((new_id(), {"message_id": new_id()}), (f"{new_id()}, {new_id()}", {})),
    ]

    async def check(http: Http, case: tuple[str | bytes, dict[str, Any]]) -> None:
        key, beside = case
        headers = [*bearer(world), ("Content-Type", "application/json"), ("Idempotency-Key", key)]
        error = refused(await http.ask("POST", path, headers, json.dumps({"content": "x", **beside}).encode()))
        assert (error["code"], error["param"]) == ("invalid", "Idempotency-Key"), error

    await each(world.port, keys, check)


async def test_absurd_idempotency_keys_of_completions(world: World) -> None:
    """There any text of 1 to 256 characters is a key."""
    body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}).encode()
    headers = [*bearer(world), ("Content-Type", "application/json")]
    async with connection(world.port) as http:
        for absurd in ("", "x" * 257, "x" * 5_000):
            error = refused(await http.ask("POST", CHAT, [*headers, ("Idempotency-Key", absurd)], body))
            assert (error["code"], error["param"]) == ("invalid", "Idempotency-Key")
        for key in (b"\xff\xfe", "{}", "a:b:c", "*", "x" * 256):
            given = [*headers, ("Idempotency-Key", key)]
            first, again = [await http.ask("POST", CHAT, given, body) for _ in range(2)]
            assert (first.status, again.status, first.json) == (200, 200, again.json), (first, again)
            assert again.headers["idempotent-replayed"] == "true"
        # The key is the account's: another one's call under it is a call of its own.
        theirs = [("Authorization", f"Bearer {world.stranger.token}"), *headers[1:], ("Idempotency-Key", "x" * 256)]
        other = await http.ask("POST", CHAT, theirs, body)
        assert "idempotent-replayed" not in other.headers
        assert other.json["id"] != first.json["id"]


async def test_the_page_is_only_read(world: World) -> None:
    """Its files under absurd headers and methods."""
    async with connection(world.port) as http:
        page = (await http.ask("GET", "/")).body.decode()
        files = ["/", "/index.html", *re.findall(r'(?:src|href)="(/assets/[^"]+)"', page)]
        assert len(files) > 3
        for path in files:
            whole = await http.ask("GET", path)
            assert whole.status == 200
            for method in ("POST", "PUT", "DELETE", "FOO"):
                answer = await http.ask(method, path, body=b"x" * 100)
                assert (refused(answer)["code"], answer.headers["allow"]) == ("method_not_allowed", "GET, HEAD")
            head = await http.ask("HEAD", path)
            assert (head.status, head.headers["content-length"]) == (200, str(len(whole.body)))
            for name, value in (
                *(("Range", "bytes=0-1"), ("Range", "bytes=9-1,x"), ("If-None-Match", "*, x"), ("If-None-Match", "")),
                *(("Accept-Encoding", "br;q=\xff"), ("If-Modified-Since", "yesterday"), ("Accept", "\xff")),
            ):
                assert (await http.ask("GET", path, [(name, value)])).body == whole.body, (path, name)
            tagged = await http.ask("GET", path, [("If-None-Match", whole.headers["etag"])])
            assert (tagged.status, tagged.body) == (304, b"")


async def test_an_absurd_host_is_not_repeated(world: World) -> None:
    """The WebSocket's URL is made from the Host header, and so is the page's policy: nothing else gets into them."""
    hosts: list[str | bytes] = [
        "evil;x.example",
        'a"b',
        "a b",
        "<script>",
        "a,b",
        "",
        "a:b:c",
        b"\xff\xfe",
        "x" * 3_000,
    ]

    async def check(http: Http, host: str | bytes) -> None:
        answer = await http.ask("GET", "/v1/config", [("Host", host)])
        if answer.status != 200:
            assert refused_or_http(answer) in ("malformed", None)
            return
        assert not set(answer.json["ws_url"]) & set(";\"' <>,\xff\xfe"), answer.body
        page = await http.ask("GET", "/", [("Host", host)])
        policy = page.headers["content-security-policy"]
        assert policy.count(";") == 9, policy
        assert "evil" not in policy

    await each(world.port, hosts, check)


# --- what is no HTTP ------------------------------------------------------------------------------------------------

NO_HTTP = [
    b"hello\r\n\r\n",
    b"GET\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nBad Header: 1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n: 1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n",
    b"POST /v1/auth/login HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
    b"POST /v1/auth/login HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
    b"POST /v1/auth/login HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"POST /v1/auth/login HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    b"POST /v1/auth/login HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n" + b"".join(b"X-%d: 1\r\n" % i for i in range(5_000)) + b"\r\n",
    b"GET /" + b"x" * 1_000_000 + b" HTTP/1.1\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 500,
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 200,
]


async def test_what_is_no_http(world: World) -> None:
    """A 4xx or the end of the connection; never a failure of ours."""

    async def check(http: Http, request: bytes) -> None:
        try:
            answer = await http.raw(request)
        except (Cut, asyncio.LimitOverrunError, AssertionError):
            return
        assert 400 <= answer.status < 500 or answer.status == 505, answer

    await each(world.port, NO_HTTP, check)


async def test_a_body_that_was_not_read_does_not_become_a_request(world: World) -> None:
    """A refusal before the body was read must not leave its bytes to be taken for the next request."""
    hidden = b"GET /v1/me HTTP/1.1\r\nHost: a\r\n\r\n"
    targets = ["/v1/me", "/v1/nothing", "/nothing", CHAT, "/v1/conversations"]

    async def check(http: Http, target: str) -> None:
        for _ in range(3):
            refused(await http.ask("POST", target, [("Content-Type", "application/json")], hidden * 50))
            assert (await http.ask("GET", "/healthz")).json["status"] == "ok"

    await each(world.port, targets, check)


# --- absent and another's -------------------------------------------------------------------------------------------


async def test_nothing_tells_the_absent_from_what_was_never_an_id(world: World) -> None:
    async def check(http: Http, example: Example) -> None:
        headers, body = good_body(world, example)
        given = [*bearer(world), *headers]
        absent_one = await http.ask(example.method, example.target(absent(world.values)), given, body)
        no_id = await http.ask(example.method, example.target(dict.fromkeys(world.values, "x")), given, body)
        assert refused(absent_one)["code"] == "not_found"
        assert same(absent_one) == same(no_id)

    await each(world.port, [example for example in ROUTES if example.parameters], check)

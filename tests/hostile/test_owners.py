"""Who may: credentials, scopes of API keys, and other people's things, on every HTTP route."""

from __future__ import annotations

import base64
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from core.auth.opaque import new_api_key
from core.auth.tokens import AccessTokens, SigningKey
from tests.hostile.routes import ROUTES, Example
from tests.hostile.wire import Answer, Http, connection, each
from tests.hostile.world import World, absent, new_id, refused, same
from tests.support.clock import ManualClock
from tests.support.stack import Person, fetch

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

JSON = ("Content-Type", "application/json")
CLOSED = [example for example in ROUTES if not example.public]


def body_of(world: World, example: Example) -> tuple[list[tuple[str, str]], bytes]:
    if example.body is None:
        return [], b""
    return [JSON], json.dumps(example.body(world)).encode()


async def ask(http: Http, world: World, example: Example, values: dict[str, str], token: str) -> Answer:
    headers, body = body_of(world, example)
    return await http.ask(
        example.method, example.target(values), [("Authorization", f"Bearer {token}"), *headers], body
    )


# --- the good calls -------------------------------------------------------------------------------------------------


def _spare(world: World) -> tuple[Person, dict[str, str]]:
    """An account with things that may be used up."""
    person = world.stack.register("Spare")
    conversation = world.conversation(person)
    generation = world.answer(person, conversation, 'Hello [[mock {"finish": "length"}]]')
    key = fetch("POST", f"{world.url}/v1/keys", {"name": "spare"}, **person.headers)["id"]
    url = f"{world.url}/v1/conversations/{conversation}/messages"
    message = next(m for m in fetch("GET", url, **person.headers)["data"] if m["role"] == "user")["id"]
    values = {"conversation_id": conversation, "generation_id": generation, "key_id": key, "message_id": message}
    return person, {**world.values, **values}


async def test_every_example_is_a_good_call(world: World) -> None:
    """The table tells the truth: what the other tests spoil would have worked."""
    person, values = _spare(world)
    again = {"email": person.email, "password": person.password, "cookie": False}
    order = {"DELETE /v1/conversations/{conversation_id}": 1, "POST /v1/conversations/{conversation_id}/restore": 2}
    last = {"POST /v1/auth/logout": 3, "DELETE /v1/me": 4}
    async with connection(world.port) as http:
        for example in sorted(ROUTES, key=lambda example: (order | last).get(example.name, 0)):
            headers, body = body_of(world, example)
            if example.path in ("/v1/auth/refresh", "/v1/auth/logout"):
                token = fetch("POST", f"{world.url}/v1/auth/login", again)["refresh_token"]
                body = json.dumps({"refresh_token": token}).encode()
            elif example.path.endswith("/branch"):
                body = json.dumps({"leaf_id": values["generation_id"]}).encode()
            if not example.public:
                headers = [*headers, ("Authorization", f"Bearer {person.token}")]
            answer = await http.ask(example.method, example.target(values), headers, body)
            assert answer.status == example.status, (example.name, answer.status, answer.body[:300])


# --- credentials ----------------------------------------------------------------------------------------------------


class Credential(NamedTuple):
    what: str
    headers: list[tuple[str, str | bytes]]


def _part(value: Any) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _forged(world: World) -> Iterator[tuple[str, str]]:
    """Access tokens that are none, or none any more."""
    ours = SigningKey.load(world.stack.config.auth.signing_key)
    now = time.time()
    head, claims, signature = world.owner.token.split(".")
    said = json.loads(base64.urlsafe_b64decode(claims + "=="))
    user, session = said["sub"], said["sid"]

    def issued(key: SigningKey, at_s: float) -> str:
        clock = ManualClock()
        clock.advance(at_s - clock.wall_ms() / 1000)
        return AccessTokens(key, 600, clock).issue(user, session, "user", "local")

    yield "expired", issued(ours, now - 700)
    yield "not valid yet", issued(ours, now + 700)
    yield "of another key", issued(SigningKey.load(SigningKey.generate()), now)
    yield "another's claims", f"{head}.{_part({**said, 'sub': new_id()})}.{signature}"
    yield "an admin's claims", f"{head}.{_part({**said, 'role': 'admin'})}.{signature}"
    yield "no signature", f"{head}.{claims}."
    yield "algorithm none", f"{_part({'alg': 'none', 'typ': 'JWT'})}.{claims}."
    yield "algorithm HS256", f"{_part({'alg': 'HS256', 'typ': 'JWT'})}.{claims}.{signature}"
    yield "deep header", f"{_part(b'[' * 1_400)}.{claims}.{signature}"
    yield "critical header", f"{_part({'alg': 'Ed25519', 'crit': ['x'], 'x': 1})}.{claims}.{signature}"
    yield "header of numbers", f"{_part([1, 2])}.{_part([1])}.{signature}"
    yield "not base64", "!.!.!"
    yield "many dots", "." * 500
    yield "long", "x" * 7_000
    yield "an unknown API key", new_api_key()
    yield "half an API key", new_api_key()[:-1]


def _credentials(world: World) -> list[Credential]:
    found = [Credential("none", [])]
    found += [Credential(what, [("Authorization", f"Bearer {token}")]) for what, token in _forged(world)]
    for value in ("", "Bearer", "Bearer ", "Basic dXNlcjpwYXNz", world.owner.token, b"Bearer \xff\xfe", "Digest x=1"):
        found.append(Credential(f"header {value!r:.40}", [("Authorization", value)]))
    both = [("Authorization", f"Bearer {world.owner.token}"), ("Authorization", f"Bearer {world.owner.token}")]
    found.append(Credential("two headers", [*both]))
    for cookie in (
        "parley_session=x",
        "parley_session=",
        f"other={world.owner.token}",
        "=;=;;",
        b"parley_session=\xff",
    ):
        found.append(Credential(f"cookie {cookie!r:.40}", [("Cookie", cookie)]))
    return found


async def test_bad_credentials_on_every_route(world: World) -> None:
    """401 with `WWW-Authenticate`, and nothing happens."""
    cases = [(example, credential) for example in CLOSED for credential in _credentials(world)]

    async def check(http: Http, case: tuple[Example, Credential]) -> None:
        example, credential = case
        headers, body = body_of(world, example)
        answer = await http.ask(example.method, example.target(world.values), [*credential.headers, *headers], body)
        assert refused(answer)["code"] == "unauthorized"
        assert answer.headers["www-authenticate"].startswith("Bearer")

    await each(world.port, cases, check)
    assert fetch("GET", f"{world.url}/v1/me", **world.owner.headers)["id"] == world.owner.user_id


async def test_a_cookie_needs_the_page_it_was_given_to(world: World) -> None:
    """A change under a cookie needs the CSRF token twice and no foreign Origin; a read needs neither."""
    async with connection(world.port) as http:
        login = {"email": world.owner.email, "password": world.owner.password}
        answer = await http.ask("POST", "/v1/auth/login", [JSON], json.dumps(login).encode())
        assert answer.status == 200
        assert "refresh_token" not in answer.json
    # Set-Cookie comes several times: another client's parser tells them apart.
    given = cookies(world, login)
    session, csrf = given["parley_session"], given["parley_csrf"]
    pair = f"parley_session={session}; parley_csrf={csrf}"
    host = f"127.0.0.1:{world.port}"
    bad: list[tuple[str, list[tuple[str, str | bytes]]]] = [
        ("no token", [("Cookie", pair)]),
        ("no cookie of it", [("Cookie", f"parley_session={session}"), ("X-CSRF-Token", csrf)]),
        ("a wrong token", [("Cookie", pair), ("X-CSRF-Token", csrf[:-1])]),
        ("an empty token", [("Cookie", f"parley_session={session}; parley_csrf="), ("X-CSRF-Token", "")]),
        ("its own pair", [("Cookie", f"parley_session={session}; parley_csrf=x"), ("X-CSRF-Token", "x")]),
        ("bytes", [("Cookie", pair), ("X-CSRF-Token", b"\xff\xfe")]),
    ]
    bad += [
        (f"Origin {origin!r}", [("Cookie", pair), ("X-CSRF-Token", csrf), ("Origin", origin)])
        for origin in (
            *(
                "https://evil.example",
                "null",
                "",
                f"https://{host}",
                f"http://{host}.evil.example",
                "http://127.0.0.1:1",
            ),
            *("http://evil@127.0.0.1", f"http://{host}/x", "http://[::1", "//127.0.0.1", b"\xff", "file://"),
        )
    ]
    cases = [(example, *case) for example in CLOSED if example.changes for case in bad]

    async def check(http: Http, case: tuple[Example, str, list[tuple[str, str | bytes]]]) -> None:
        example, _, headers = case
        kind, body = body_of(world, example)
        answer = await http.ask(example.method, example.target(world.values), [*headers, *kind], body)
        error = refused(answer)
        assert (error["code"], error["param"]) in (("forbidden", "X-CSRF-Token"), ("forbidden", "Origin"))

    await each(world.port, cases, check)
    async with connection(world.port) as http:
        read = await http.ask("GET", "/v1/me", [("Cookie", pair), ("Origin", "https://evil.example")])
        assert read.status == 200
        assert "access-control-allow-origin" not in read.headers
        good = [("Cookie", pair), ("X-CSRF-Token", csrf), ("Origin", f"http://{host}"), JSON]
        assert (await http.ask("PATCH", "/v1/me", good, b'{"name": "Owner"}')).status == 200


def cookies(world: World, login: dict[str, str]) -> dict[str, str]:
    """The cookies of a login, which must be for the browser's eyes where they are secrets."""
    request = urllib.request.Request(
        f"{world.url}/v1/auth/login", json.dumps(login).encode(), {"Content-Type": "application/json"}
    )
    found: dict[str, str] = {}
    with urllib.request.urlopen(request, timeout=15) as response:
        for line in response.headers.get_all("set-cookie"):
            pair, *attributes = (word.strip() for word in line.split(";"))
            name, _, value = pair.partition("=")
            lower = {word.lower() for word in attributes}
            assert "samesite=strict" in lower
            assert ("httponly" in lower) is (name != "parley_csrf"), line
            found[name] = value
    assert found.keys() == {"parley_session", "parley_refresh", "parley_csrf"}
    return found


async def test_api_keys_do_only_what_they_were_made_for(world: World) -> None:
    """A key without the scope is `forbidden` before anything is looked up: it learns nothing of what there is."""
    cases = [
        (example, scope, values)
        for example in CLOSED
        for scope in ("chat", "account")
        if example.scope not in (None, scope)
        for values in (world.values, absent(world.values))
    ]
    assert len(cases) > 20

    async def check(http: Http, case: tuple[Example, str, dict[str, str]]) -> None:
        example, scope, values = case
        answer = await ask(http, world, example, values, world.keys[scope])
        assert refused(answer)["code"] == "forbidden", answer.body

    await each(world.port, cases, check)


async def test_a_key_makes_no_stronger_key(world: World) -> None:
    async with connection(world.port) as http:
        headers = [("Authorization", f"Bearer {world.keys['account']}"), JSON]
        for scopes in (["chat"], ["account", "chat"]):
            body = json.dumps({"name": "stronger", "scopes": scopes}).encode()
            assert refused(await http.ask("POST", "/v1/keys", headers, body))["code"] == "forbidden"
        body = json.dumps({"name": "as strong", "scopes": ["account"]}).encode()
        made = await http.ask("POST", "/v1/keys", headers, body)
        assert made.status == 201
        assert (await http.ask("DELETE", f"/v1/keys/{made.json['id']}", headers)).status == 204


# --- other people's things ------------------------------------------------------------------------------------------

OWNED = [example for example in ROUTES if example.owned]


async def test_anothers_things_are_as_if_they_were_not_there(world: World) -> None:
    """The same status, body and headers for what is another's and for what does not exist."""

    async def check(http: Http, example: Example) -> None:
        anothers = await ask(http, world, example, world.values, world.stranger.token)
        nothing = await ask(http, world, example, absent(world.values), world.stranger.token)
        assert refused(anothers)["code"] == "not_found"
        assert same(anothers) == same(nothing)

    await each(world.port, OWNED, check)


async def test_anothers_things_inside_ones_own(world: World) -> None:
    """A body or path of one's own that names what is another's."""
    mine, theirs = world.conversation(world.stranger), world.values
    base = f"/v1/conversations/{mine}"
    cases: list[tuple[str, str, dict[str, Any] | None, dict[str, Any] | None]] = [
        ("GET", f"{base}/messages/{theirs['message_id']}", None, None),
        ("GET", f"{base}/messages/{theirs['generation_id']}", None, None),
        ("PUT", f"{base}/branch", {"leaf_id": theirs["generation_id"]}, {"leaf_id": absent(theirs)["generation_id"]}),
        ("PUT", f"{base}/branch", {"leaf_id": theirs["message_id"]}, {"leaf_id": new_id()}),
        (
            *("POST", f"{base}/messages"),
            {"content": "x", "parent_id": theirs["generation_id"]},
            {"content": "x", "parent_id": absent(theirs)["generation_id"]},
        ),
    ]

    async def check(http: Http, case: tuple[str, str, dict[str, Any] | None, dict[str, Any] | None]) -> None:
        method, path, body, other = case
        headers = [("Authorization", f"Bearer {world.stranger.token}"), JSON]
        anothers = await http.ask(method, path, headers, json.dumps(body).encode() if body else b"")
        nowhere = path.rpartition("/")[0] + f"/{new_id()}" if body is None else path
        nothing = await http.ask(method, nowhere, headers, json.dumps(other).encode() if other else b"")
        assert refused(anothers)["code"] == "not_found", anothers.body
        assert same(anothers) == same(nothing)

    await each(world.port, cases, check)


async def test_an_id_of_anothers_conversation_cannot_be_taken(world: World) -> None:
    """Creating a conversation under another's id is a conflict that says nothing of whose it is."""
    async with connection(world.port) as http:
        headers = [("Authorization", f"Bearer {world.stranger.token}"), JSON]
        body = json.dumps({"id": world.values["conversation_id"], "title": "mine now"}).encode()
        taken = await http.ask("POST", "/v1/conversations", headers, body)
        assert refused(taken)["code"] == "conflict"
        gone = world.conversation(world.stranger)
        assert (await http.ask("DELETE", f"/v1/conversations/{gone}", headers[:1])).status == 204
        own = await http.ask("POST", "/v1/conversations", headers, json.dumps({"id": gone}).encode())
        assert same(own) == same(taken)
        seen = fetch("GET", f"{world.url}/v1/conversations/{world.values['conversation_id']}", **world.owner.headers)
        assert seen["title"] != "mine now"


async def test_what_was_deleted_is_as_if_it_were_not_there(world: World) -> None:
    """On every route but the one that brings it back and the one that deletes it once more."""
    conversation = world.conversation(world.owner)
    generation = world.answer(world.owner, conversation)
    fetch("DELETE", f"{world.url}/v1/conversations/{conversation}", **world.owner.headers)
    values = {**world.values, "conversation_id": conversation, "generation_id": generation}
    again = ("DELETE /v1/conversations/{conversation_id}", "POST /v1/conversations/{conversation_id}/restore")
    routes = [e for e in OWNED if e.name not in again and e.parameters != ["key_id"]]
    assert len(routes) > 10

    async def check(http: Http, example: Example) -> None:
        gone = await ask(http, world, example, values, world.owner.token)
        nothing = await ask(http, world, example, absent(world.values), world.owner.token)
        assert refused(gone)["code"] == "not_found", gone.body
        assert same(gone) == same(nothing)

    await each(world.port, routes, check)
    # The stranger can do neither of the two.
    for method, path in (("DELETE", ""), ("POST", "/restore")):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            fetch(method, f"{world.url}/v1/conversations/{conversation}{path}", **world.stranger.headers)

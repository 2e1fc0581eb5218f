"""Every route with every kind of bad body: a refusal of the table, never a failure, and the gateway goes on."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator
from typing import Any

import pytest

from tests.hostile.inputs import BEYOND_SEND, DEPTHS, RAW, Raw, required, some_body, wrong_fields
from tests.hostile.routes import BESIDE, BY_NAME, CHAT, ROUTES, Example, body_schema, documented
from tests.hostile.wire import Http, connection, each
from tests.hostile.world import World, refused
from tests.support.stack import fetch

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

JSON = ("Content-Type", "application/json")
WITH_BODY = [example for example in ROUTES if example.body is not None]


@pytest.fixture(scope="module")
def document(world_session: World) -> dict[str, Any]:
    return dict(fetch("GET", f"{world_session.url}/openapi.json"))


@pytest.fixture(autouse=True)
def _goes_on(world: World) -> Iterator[None]:
    """After whatever was sent the gateway serves, and has logged no failure of its own."""
    before = len(world.log())
    yield
    fetch("GET", f"{world.url}/v1/me", **world.owner.headers)
    assert fetch("GET", f"{world.url}/readyz")["status"] == "ready"
    assert "Traceback" not in world.log()[before:]


def headers(world: World, example: Example) -> list[tuple[str, str]]:
    """Credentials, where a route asks for them. Open routes are called without: they would not look at them."""
    return [] if example.public else [("Authorization", f"Bearer {world.owner.token}")]


def target(world: World, example: Example) -> str:
    return example.target(world.values)


def test_every_route_has_an_example(document: dict[str, Any]) -> None:
    assert documented(document) | BESIDE == set(BY_NAME)


@pytest.mark.parametrize("example", WITH_BODY, ids=lambda example: example.name)
async def test_what_is_no_body_of_any_route(world: World, example: Example) -> None:
    with_json = [*headers(world, example), JSON]

    async def check(http: Http, raw: Raw) -> None:
        answer = await http.ask(example.method, target(world, example), with_json, raw.body)
        assert refused(answer)["code"] in raw.codes, answer.body

    async with connection(world.port) as probe:
        await probe.ask("GET", "/healthz")
    await each(world.port, RAW, check)


@pytest.mark.parametrize("example", WITH_BODY, ids=lambda example: example.name)
async def test_fields_of_a_wrong_form(world: World, document: dict[str, Any], example: Example) -> None:
    """What the OpenAPI document forbids is refused, naming the field; so are missing and unknown fields."""
    assert example.body is not None
    good = example.body(world)
    schema, components = body_schema(document, example)
    bodies = [(name, {**good, name: value}) for name, value in wrong_fields(schema, components, good)]
    bodies += [(name, {key: good[key] for key in good if key != name}) for name in required(schema, components)]
    bodies += [("zz", {**good, "zz": value}) for value in (None, 1, "x", {}, [])]
    with_json = [*headers(world, example), JSON]

    async def check(http: Http, case: tuple[str, dict[str, Any]]) -> None:
        name, body = case
        answer = await http.ask(example.method, target(world, example), with_json, json.dumps(body).encode())
        error = refused(answer)
        assert error["code"] == "invalid", error
        assert (error["param"] or "").partition("[")[0].partition(".")[0] == name, error

    await each(world.port, bodies, check)


@pytest.mark.parametrize("example", WITH_BODY, ids=lambda example: example.name)
async def test_bodies_that_are_too_large(world: World, example: Example) -> None:
    """Whether their length is told, told wrongly or not at all."""
    with_json = [*headers(world, example), JSON]
    large = b'{"content": "' + b"x" * example.limit + b'"}'

    async def check(http: Http, how: str) -> None:
        if how == "told":
            answer = await http.ask(example.method, target(world, example), with_json, large)
        elif how == "chunked":
            chunks = [large[at : at + 60_000] for at in range(0, len(large), 60_000)]
            answer = await http.ask(example.method, target(world, example), with_json, chunks=chunks)
        else:
            # What is announced never comes: the refusal must not wait for it.
            announced = [*with_json, ("Content-Length", str(10**12))]
            answer = await http.ask(example.method, target(world, example), announced, b"{")
            await http.close()
        assert refused(answer)["code"] == "too_large"

    await each(world.port, ["told", "chunked", "announced"], check)


@pytest.mark.parametrize("example", WITH_BODY, ids=lambda example: example.name)
async def test_bodies_in_chunks(world: World, example: Example) -> None:
    """One byte a chunk is a body like any other."""
    body = b'{"zz": "' + b"x" * 200 + b'"}'
    with_json = [*headers(world, example), JSON]
    async with connection(world.port) as http:
        chunks = [body[at : at + 1] for at in range(len(body))]
        error = refused(await http.ask(example.method, target(world, example), with_json, chunks=chunks))
        assert (error["code"], error["param"]) == ("invalid", "zz")


@pytest.mark.parametrize("example", WITH_BODY, ids=lambda example: example.name)
async def test_content_types(world: World, example: Example) -> None:
    """Only JSON is read: what a form of a foreign page can send is not."""
    kinds = [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "",
        "application/xml",
    ]
    kinds += ["application/jsonp", "text/json", "x" * 4_000, ";", "application/msgpack"]
    given = headers(world, example)

    async def check(http: Http, kind: str | None) -> None:
        with_kind = [*given, ("Content-Type", kind)] if kind is not None else given
        answer = await http.ask(example.method, target(world, example), with_kind, b'{"zz": 1}')
        assert refused(answer)["code"] in ("unsupported_media_type", "malformed"), answer.body

    await each(world.port, [None, *kinds], check)


BEYOND: list[tuple[str, dict[str, Any], str, str | None]] = [
    ("POST /v1/auth/register", {"email": "no address"}, "invalid", "email"),
    ("POST /v1/auth/register", {"email": "a@b@c"}, "invalid", "email"),
    ("POST /v1/auth/register", {"email": "a b@example.org"}, "invalid", "email"),
    ("POST /v1/auth/register", {"password": "short"}, "invalid", "password"),
    ("POST /v1/auth/register", {"password": "x" * 257}, "invalid", "password"),
    ("POST /v1/auth/register", {"password": "aaaaaaaaaaaa"}, "invalid", "password"),
    ("POST /v1/auth/login", {"email": None}, "invalid", "email"),
    ("POST /v1/auth/login", {"password": None}, "invalid", "password"),
    ("POST /v1/auth/login", {"code": "no-code"}, "unauthorized", "code"),
    ("POST /v1/auth/login", {"code": "\U0001f4a9\x00"}, "unauthorized", "code"),
    ("POST /v1/auth/refresh", {"refresh_token": "x"}, "unauthorized", None),
    ("POST /v1/auth/refresh", {"refresh_token": "A" * 70 + "\x00\U0001f4a9"}, "unauthorized", None),
    ("POST /v1/auth/logout", {"refresh_token": "A" * 70}, "unauthorized", None),
    ("PATCH /v1/me", {"password": "short"}, "invalid", "password"),
    ("PATCH /v1/me", {"password": "long enough", "current_password": "wrong"}, "forbidden", "current_password"),
    ("POST /v1/keys", {"scopes": ["admin"]}, "invalid", "scopes[0]"),
    ("POST /v1/conversations", {"id": "not-a-uuid"}, "invalid", "id"),
    ("POST /v1/conversations", {"id": "00000000-0000-4000-8000-000000000000"}, "invalid", "id"),
    ("POST /v1/conversations", {"model": "no-such-model"}, "invalid", "model"),
    ("PATCH /v1/conversations/{conversation_id}", {"model": "no-such-model"}, "invalid", "model"),
    ("PUT /v1/conversations/{conversation_id}/branch", {"leaf_id": "x"}, "not_found", "leaf_id"),
    ("POST /v1/generations/{generation_id}/regenerate", {"turn_id": "x"}, "invalid", "turn_id"),
    ("POST /v1/generations/{generation_id}/regenerate", {"model": "no-such-model"}, "invalid", "model"),
    ("POST /v1/generations/{generation_id}/continue", {"turn_id": "x"}, "invalid", "turn_id"),
    ("POST /v1/generations/{generation_id}/continue", {}, "invalid", "generation_id"),
    (f"POST {CHAT}", {"messages": []}, "invalid", "messages"),
    (f"POST {CHAT}", {"messages": [{"role": "tool", "content": "x"}]}, "invalid", "messages[0].role"),
    (f"POST {CHAT}", {"temperature": 3}, "invalid", "temperature"),
    (f"POST {CHAT}", {"tools": []}, "invalid", "tools"),
    (f"POST {CHAT}", {"stream_options": {}}, "invalid", "stream_options"),
]

SEND = "POST /v1/conversations/{conversation_id}/messages"
BEYOND += [(SEND, changed, code, param) for changed, code, param in BEYOND_SEND]


async def test_values_that_the_schema_cannot_forbid(world: World) -> None:
    async def check(http: Http, case: tuple[str, dict[str, Any], str, str | None]) -> None:
        name, changed, code, param = case
        example = BY_NAME[name]
        assert example.body is not None
        body = json.dumps({**example.body(world), **changed}).encode()
        answer = await http.ask(example.method, target(world, example), [*headers(world, example), JSON], body)
        error = refused(answer)
        assert (error["code"], error["param"]) == (code, param), error

    await each(world.port, BEYOND, check)


@pytest.mark.parametrize("seed", range(3))
async def test_bodies_by_chance(world: World, document: dict[str, Any], seed: int) -> None:
    """Whatever is put together: an answer of the kind that the route gives, or a refusal of the table."""
    chance = random.Random(seed)
    person = await asyncio.to_thread(world.stack.register)
    conversation = world.conversation(person)
    values = {**world.values, "conversation_id": conversation, "generation_id": world.answer(person, conversation)}
    cases: list[tuple[Example, bytes]] = []
    for example in WITH_BODY:
        assert example.body is not None
        if example.name != "POST /v1/auth/register":
            good, (schema, components) = example.body(world), body_schema(document, example)
            bodies = (some_body(schema, components, good, chance) for _ in range(25))
            cases += [(example, json.dumps(body).encode()) for body in bodies]

    async def check(http: Http, case: tuple[Example, bytes]) -> None:
        example, body = case
        given = [JSON] if example.public else [JSON, ("Authorization", f"Bearer {person.token}")]
        answer = await http.ask(example.method, example.target(values), given, body)
        if answer.status != example.status:
            refused(answer)

    chance.shuffle(cases)
    await each(world.port, cases, check)


async def test_depths_at_which_a_reader_or_writer_of_json_gives_up(world: World) -> None:
    """What can just be read must also be judged, hashed and refused; no depth between is a failure."""
    example = BY_NAME[SEND]

    async def check(http: Http, depth: int) -> None:
        body = b'{"content": "x", "params": {"stop": ' + b"[" * depth + b"]" * depth + b"}}"
        answer = await http.ask("POST", target(world, example), [*headers(world, example), JSON], body)
        assert refused(answer)["code"] in ("invalid", "malformed")

    await each(world.port, DEPTHS, check)

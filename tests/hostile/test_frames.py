"""Every client frame with every kind of bad content: what is answered and goes on, and what ends the connection."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import msgspec
import pytest

from core.errors import TABLE
from core.ids import generation_id
from core.model import ClientFrame
from tests.hostile.inputs import BEYOND_SEND, DEEP, DEPTHS, LONG, required, wrong_fields
from tests.hostile.sockets import Frame, Socket
from tests.hostile.world import World, absent, new_id
from tests.support.client import ENDS
from tests.support.stack import Person, fetch
from tests.support.websocket import BINARY, CONTINUATION, PING, TEXT, client_frame

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

T = TypeVar("T")

# A valid example of every frame. A frame without one fails the tests.
FRAMES: dict[str, Callable[[dict[str, str]], Frame]] = {
    "send": lambda values: {"message_id": new_id(), "conversation_id": values["conversation_id"], "content": "Hello"},
    "regenerate": lambda values: {"turn_id": new_id(), "generation_id": values["generation_id"]},
    "continue": lambda values: {"turn_id": new_id(), "generation_id": values["generation_id"]},
    "resume": lambda values: {"generation_id": values["generation_id"], "epoch": 0, "seq": -1},
    "cancel": lambda values: {"generation_id": values["generation_id"]},
    "ping": lambda _: {"t": 1},
}
KINDS = {str(kind.__struct_config__.tag): kind for kind in ClientFrame.__subclasses__()}
ERROR = {
    *("type", "code", "message", "retryable", "retry_after_ms", "param"),
    *("message_id", "turn_id", "generation_id"),
}
# Frames a connection may send at once, with a ping after each.
AT_ONCE = 80


def example(kind: str, values: dict[str, str], **changed: Any) -> Frame:
    return {"type": kind, **FRAMES[kind](values), **changed}


@pytest.fixture(autouse=True)
def _goes_on(world: World) -> Iterator[None]:
    before = len(world.log())
    yield
    assert fetch("GET", f"{world.url}/readyz")["status"] == "ready"
    assert "Traceback" not in world.log()[before:]


@asynccontextmanager
async def opened(world: World, person: Person | None = None) -> AsyncIterator[Socket]:
    """A welcomed connection of the owner's, or of this person's."""
    socket = await Socket.open(world.ws_port, (person or world.owner).token)
    try:
        assert (await socket.next())["type"] == "welcome"
        yield socket
    finally:
        socket.reset()


def portions(cases: Sequence[T]) -> Iterator[Sequence[T]]:
    """As many as one connection may send."""
    return (cases[at : at + AT_ONCE] for at in range(0, len(cases), AT_ONCE))


async def answered(socket: Socket, frame: Frame | str) -> Frame:
    """The `error` that answers a frame; the connection is still there after it."""
    token = new_id()
    socket.tell(frame)
    socket.tell({"type": "ping", "t": token})
    found: Frame | None = None
    ponged = False
    while found is None or not ponged:
        got = await socket.next()
        ponged = ponged or (got["type"] == "pong" and got["t"] == token)
        if got["type"] == "error":
            assert found is None, (found, got)
            found = got
        assert got["type"] in ("error", "pong"), got
    assert found.keys() == ERROR, found
    kind = TABLE[found["code"]]
    assert found["retryable"] == kind.retryable
    assert kind.status < 500, found
    return found


def test_every_frame_has_an_example() -> None:
    assert set(FRAMES) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
async def test_fields_of_a_wrong_form(world: World, kind: str) -> None:
    """`invalid` with the field and the frame's ids; the connection goes on."""
    (schema,), components = msgspec.json.schema_components([KINDS[kind]], ref_template="#/components/schemas/{name}")
    good = example(kind, world.values)
    cases = [(name, good | {name: value}) for name, value in wrong_fields(schema, components, good) if name != "type"]
    cases += [
        (name, {key: value for key, value in good.items() if key != name})
        for name in required(schema, components)
        if name != "type"
    ]
    cases = [(name, frame) for name, frame in cases if len(json.dumps(frame)) < 60_000]
    assert cases
    for portion in portions(cases):
        async with opened(world) as socket:
            for name, frame in portion:
                error = await answered(socket, frame)
                assert (error["code"], error["param"]) == ("invalid", name), (error, str(frame)[:300])
                for given in ("message_id", "turn_id", "generation_id"):
                    if given != name:
                        assert error[given] == frame.get(given), (error, given)


def told_back(given: object) -> object:
    """An id is told back only in the form of one: nobody can have long or strange text sent to themselves."""
    return given if isinstance(given, str) and re.fullmatch(r"[0-9A-Za-z._:~+/=-]{1,128}", given) else None


async def test_values_that_the_schema_cannot_forbid(world: World) -> None:
    cases: list[tuple[Frame, str, str]] = [
        (example("send", world.values, **changed), code, param) for changed, code, param in BEYOND_SEND
    ]
    strange = ("", "x", "\x00", "gen_", "gen_" + "A" * 43, "../..", "\U0001f4a9", "x" * 10_000, new_id())
    for value in strange:
        if value != new_id():
            cases.append((example("send", world.values, conversation_id=value), "not_found", "conversation_id"))
        for kind in ("regenerate", "continue", "resume", "cancel"):
            cases.append((example(kind, world.values, generation_id=value), "not_found", "generation_id"))
    for kind in ("regenerate", "continue"):
        cases += [(example(kind, world.values, turn_id=value), "invalid", "turn_id") for value in ("", "x", "\x00")]
    cases.append((example("regenerate", world.values, model="no-such-model"), "invalid", "model"))
    cases.append((example("continue", world.values), "invalid", "generation_id"))
    for portion in portions(cases):
        async with opened(world) as socket:
            for frame, code, param in portion:
                error = await answered(socket, frame)
                assert (error["code"], error["param"]) == (code, param), (error, str(frame)[:300])
                for given in ("message_id", "turn_id"):
                    assert error[given] == told_back(frame.get(given))


async def test_unknown_types_and_fields(world: World) -> None:
    """An unknown type is told as such; an unknown field may be a newer client's and is passed over."""
    async with opened(world) as socket:
        for unknown in ("", "Send", "send ", "sen", "welcome", "delta", "done", "\x00", "x" * 50_000, "__class__"):
            error = await answered(socket, {"type": unknown, "message_id": "an-id", "turn_id": 5})
            assert (error["code"], error["param"]) == ("invalid", "type")
            assert (error["message_id"], error["turn_id"]) == ("an-id", None)
            assert len(error["message"]) < 300
        socket.tell({"type": "ping", "t": 7, "zz": [[{}]]})
        assert await socket.next() == {"type": "pong", "t": 7}


async def test_absurd_numbers(world: World) -> None:
    """A place that cannot be is answered by all the text from its beginning, and its end."""
    async with opened(world) as socket:
        for t in (10**30, -(10**400), 2**64, 0.1, "x" * 64, None, -0.0):
            socket.tell({"type": "ping", "t": t})
            assert await socket.next() == {"type": "pong", "t": t}
        for epoch, seq in ((-1, -1), (-5, -5), (0, 2**40), (2**63, 0), (10**400, 10**400), (0, -(10**400)), (7, 0)):
            socket.tell(example("resume", world.values, epoch=epoch, seq=seq))
            end = await socket.first(lambda frame: frame["type"] in ENDS | {"error"})
            assert end["type"] == "done", (epoch, seq, end)


async def test_depths_at_which_a_reader_or_writer_of_json_gives_up(world: World) -> None:
    """`invalid`, or `malformed` and the end; never a failure of ours."""
    good = json.dumps(example("send", world.values))[:-1]
    for depth in DEPTHS:
        async with opened(world) as socket:
            socket.tell(good + ', "params": {"stop": ' + "[" * depth + "]" * depth + "}}")
            assert (await socket.of("error"))["code"] in ("invalid", "malformed"), depth


# --- what ends the connection ---------------------------------------------------------------------------------------

MALFORMED: list[str | bytes] = [
    *("", " ", "hello", "{", '{"type": "ping"', '{"type": "ping"}}', "{'type': 'ping'}", '{"type": "ping", }'),
    *("[]", "[1]", "null", "true", "1", "1" * 5_000, '"ping"', "{}", '{"t": 1}', '{"Type": "ping"}'),
    *('{"type": null}', '{"type": 1}', '{"type": ["ping"]}', '{"type": {"a": 1}}', '{"type": "ping", "t": NaN}'),
    *('{"type": "ping", "t": "\\ud800"}', '{"type": "ping", "t": "a\x00b"}', '{"type": "ping", "t": 0x1}', "\ufeff{}"),
    *("[" * DEEP, "[" * DEEP + "]" * DEEP, '{"a":' * 5_000 + "1" + "}" * 5_000),
    '{"type": "send", "params": ' + '{"a":' * DEEP,
]


async def test_what_is_no_frame_ends_the_connection(world: World) -> None:
    """An `error malformed`, then 4400, and nothing of what was sent after it is taken."""
    for message in MALFORMED:
        socket = await Socket.open(world.ws_port, world.owner.token)
        assert (await socket.next())["type"] == "welcome"
        socket.tell(message)
        socket.tell({"type": "ping", "t": "after"})
        seen, closed = await socket.end()
        assert [frame["type"] for frame in seen] == ["error"], (message[:60], seen)
        assert (seen[0]["code"], seen[0]["retryable"], closed.code) == ("malformed", False, 4400), message[:60]
        socket.reset()


VIOLATIONS: list[tuple[str, bytes, int]] = [
    ("binary", client_frame(BINARY, b'{"type": "ping"}'), 4400),
    ("bad UTF-8", client_frame(TEXT, b'{"type": "ping", "t": "\xff"}'), 1007),
    ("a surrogate in UTF-8", client_frame(TEXT, b'"\xed\xa0\x80"'), 1007),
    ("overlong UTF-8", client_frame(TEXT, b'"\xc0\xaf"'), 1007),
    ("UTF-8 cut by the end", client_frame(TEXT, b'"\xf0\x9f\x92'), 1007),
    ("one byte too many", client_frame(TEXT, b"x" * 65_537), 1009),
    ("announced as too large", client_frame(TEXT, b"", length=b"\x7f" + (2**40).to_bytes(8, "big")), 1009),
    (
        "too large in fragments",
        client_frame(TEXT, b"x" * 40_000, fin=False) + client_frame(CONTINUATION, b"x" * 40_000),
        1009,
    ),
    ("unmasked", client_frame(TEXT, b"{}", masked=False), 1002),
    ("reserved bits", client_frame(TEXT, b"{}", rsv=4), 1002),
    ("an unknown opcode", client_frame(3, b"{}"), 1002),
    ("a continuation of nothing", client_frame(CONTINUATION, b"{}"), 1002),
]


async def test_violations_of_the_websocket_protocol(world: World) -> None:
    for what, data, code in VIOLATIONS:
        socket = await Socket.open(world.ws_port, world.owner.token)
        assert (await socket.next())["type"] == "welcome"
        socket.send(data)
        _, closed = await socket.end()
        assert closed.code == code, (what, closed)
        socket.reset()


async def test_the_largest_frame_is_taken(world: World) -> None:
    async with opened(world) as socket:
        frame = json.dumps({"type": "ping", "t": 1, "more": ""})
        socket.tell({"type": "ping", "t": 1, "more": "x" * (65_536 - len(frame))})
        assert await socket.next() == {"type": "pong", "t": 1}
        assert len(LONG) > 65_536
        socket.tell({"type": "ping", "t": LONG})
        _, closed = await socket.end()
        assert closed.code == 1009


async def test_too_many_frames(world: World) -> None:
    """An error that says when to come back, then 4429, whose reason says it too."""
    async with opened(world) as socket:
        socket.send(b"".join(client_frame(TEXT, b'{"type": "ping", "t": 1}') for _ in range(1_000)))
        seen, closed = await socket.end()
        assert {frame["type"] for frame in seen[:-1]} == {"pong"}
        error = seen[-1]
        assert (error["type"], error["code"], error["retryable"], closed.code) == ("error", "rate_limited", True, 4429)
        assert error["retry_after_ms"] > 0
        assert f"retry_after_ms={error['retry_after_ms']}" in closed.reason
        assert 200 <= len(seen) < 400


@pytest.mark.parametrize(
    "flood",
    [client_frame(PING) * 1_000, client_frame(TEXT, json.dumps({"type": "ping", "t": "x" * 60_000}).encode()) * 40],
    ids=["pings", "bytes"],
)
async def test_pings_and_bytes_count_too(world: World, flood: bytes) -> None:
    """They are told the same, and what came above the limit is not answered."""
    async with opened(world) as socket:
        socket.send(flood)
        seen, closed = await socket.end()
        assert (seen[-1]["code"], closed.code) == ("rate_limited", 4429)
        assert f"retry_after_ms={seen[-1]['retry_after_ms']}" in closed.reason
        assert len(seen) <= 1_048_576 // 60_000 + 1


async def test_too_many_frames_that_wait(world: World) -> None:
    """What comes while sixteen frames wait for their answers is refused one by one; the connection goes on."""
    async with opened(world) as socket:
        frames = [example("cancel", world.values) for _ in range(60)]
        socket.send(b"".join(client_frame(TEXT, json.dumps(frame).encode()) for frame in frames))
        codes = [(await socket.first(lambda f: f["type"] in ENDS | {"error"})).get("code") for _ in frames]
        assert codes.count("rate_limited") > 20
        assert codes.count(None) >= 16
        assert set(codes) == {None, "rate_limited"}
        await answered(socket, {"type": "zz"})


# --- other people's things ------------------------------------------------------------------------------------------


def told(error: Frame) -> Frame:
    """An error without what the client itself has said."""
    return {name: value for name, value in error.items() if name not in ("message_id", "turn_id", "generation_id")}


NAMING = [kind for kind in FRAMES if kind != "ping"]


@pytest.mark.parametrize("kind", NAMING)
async def test_anothers_things_are_as_if_they_were_not_there(world: World, kind: str) -> None:
    conversation = world.conversation(world.stranger)
    gone = {"conversation_id": conversation, "generation_id": world.answer(world.stranger, conversation)}
    fetch("DELETE", f"{world.url}/v1/conversations/{conversation}", **world.stranger.headers)
    async with opened(world, world.stranger) as socket:
        nothing = await answered(socket, example(kind, absent(world.values)))
        assert nothing["code"] == "not_found"
        for values in (world.values, gone):
            assert told(await answered(socket, example(kind, values))) == told(nothing)


async def test_anothers_things_inside_ones_own(world: World) -> None:
    """A parent that is another's, and an answer's id put together from one's own conversation and another's turn."""
    mine = world.conversation(world.stranger)
    mixed = generation_id(mine, world.values["message_id"])
    async with opened(world, world.stranger) as socket:
        own = {"conversation_id": mine}
        anothers = await answered(socket, example("send", own, parent_id=world.values["generation_id"]))
        nothing = await answered(socket, example("send", own, parent_id=absent(world.values)["generation_id"]))
        assert nothing["code"] == "not_found"
        assert told(anothers) == told(nothing)
        for kind in NAMING[1:]:
            error = await answered(socket, example(kind, {"generation_id": mixed}))
            assert (error["code"], error["param"]) == ("not_found", "generation_id")
    shown = fetch("GET", f"{world.url}/v1/generations/{world.values['generation_id']}", **world.owner.headers)
    assert shown["status"] == "done"

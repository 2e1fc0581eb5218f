"""The frames on the wire: what docs/protocol.md says is there is there, and what is stored reads back as it was."""

from __future__ import annotations

import json
from typing import Any, get_args

import msgspec
import pytest

from core.model import (
    END_FRAMES,
    Accepted,
    Cancel,
    ClientFrame,
    Continue,
    Delta,
    Drain,
    End,
    EndKind,
    ErrorFrame,
    Event,
    Notice,
    Part,
    Piece,
    Ping,
    Pong,
    Queued,
    Regenerate,
    Restart,
    Resume,
    Resumed,
    Send,
    ServerFrame,
    Snapshot,
    Turn,
    Usage,
    Welcome,
    end_frame,
)
from tests.support.turns import new_end, new_id, new_turn, text

OPENED = new_turn(new_id())


def wire(frame: ServerFrame) -> dict[str, Any]:
    decoded: dict[str, Any] = json.loads(msgspec.json.encode(frame))
    return decoded


@pytest.mark.parametrize(
    ("frame", "told"),
    [
        (
            Welcome(connection_id="c", user="u", time=5, heartbeat_s=25.0, limits={"frame_bytes": 9}),
            {
                "type": "welcome",
                "connection_id": "c",
                "user": "u",
                "time": 5,
                "heartbeat_s": 25.0,
                "limits": {"frame_bytes": 9},
            },
        ),
        (Accepted(message_id="m", generation_id="g"), {"type": "accepted", "message_id": "m", "generation_id": "g"}),
        (
            Accepted(message_id="m", generation_id="g", duplicate=True),
            {"type": "accepted", "message_id": "m", "generation_id": "g", "duplicate": True},
        ),
        (
            Queued(generation_id="g", position=2, eta_s=1.5),
            {"type": "queued", "generation_id": "g", "position": 2, "eta_s": 1.5},
        ),
        (Resumed(generation_id="g", epoch=0, seq=-1), {"type": "resumed", "generation_id": "g", "epoch": 0, "seq": -1}),
        (Delta(g="g", e=0, n=0, d="hi"), {"type": "delta", "g": "g", "e": 0, "n": 0, "d": "hi"}),
        (
            Delta(g="g", e=1, n=4, d="hm", k="reasoning", i=2),
            {"type": "delta", "g": "g", "e": 1, "n": 4, "d": "hm", "k": "reasoning", "i": 2},
        ),
        (
            Snapshot(generation_id="g", epoch=0, seq=-1, at=0, parts=[], more=False),
            {"type": "snapshot", "generation_id": "g", "epoch": 0, "seq": -1, "at": 0, "parts": [], "more": False},
        ),
        (
            Snapshot(generation_id="g", epoch=0, seq=1, at=3, parts=[Part(0, "text", "a")], more=True),
            {
                "type": "snapshot",
                "generation_id": "g",
                "epoch": 0,
                "seq": 1,
                "at": 3,
                "parts": [{"i": 0, "k": "text", "d": "a"}],
                "more": True,
            },
        ),
        (
            Restart(generation_id="g", epoch=1, reason="attempt_lost"),
            {"type": "restart", "generation_id": "g", "epoch": 1, "reason": "attempt_lost"},
        ),
        (
            ErrorFrame(code="invalid", message="no", retryable=False),
            {
                "type": "error",
                "code": "invalid",
                "message": "no",
                "retryable": False,
                "message_id": None,
                "turn_id": None,
                "generation_id": None,
                "retry_after_ms": None,
                "param": None,
            },
        ),
        (Notice(code="degraded", message="slow"), {"type": "notice", "code": "degraded", "message": "slow"}),
        (Event(name="title", data={"a": 1}), {"type": "event", "name": "title", "data": {"a": 1}}),
        (Pong(t=None), {"type": "pong", "t": None}),
        (Pong(t="x"), {"type": "pong", "t": "x"}),
        (Drain(reconnect_after_ms=0), {"type": "drain", "reconnect_after_ms": 0}),
    ],
)
def test_a_frame_has_the_documented_fields(frame: ServerFrame, told: dict[str, Any]) -> None:
    assert wire(frame) == told


@pytest.mark.parametrize("kind", get_args(EndKind))
def test_an_end_tells_what_is_stored(kind: EndKind) -> None:
    stored = new_end(OPENED, kind=kind, seq=7, epoch=1, code="unavailable", message="why", usage=Usage(3, 5, 1, 2))
    assert wire(end_frame("g", stored)) == {
        "type": kind,
        "generation_id": "g",
        "epoch": 1,
        "seq": 7,
        "finish_reason": stored.finish_reason,
        "usage": {"prompt_tokens": 3, "completion_tokens": 5, "cached_tokens": 1, "reasoning_tokens": 2},
        "cost": stored.cost,
        "model": stored.model,
        "provider": stored.provider,
        "code": "unavailable",
        "message": "why",
    }


def test_an_end_without_text_usage_or_code_still_has_its_fields() -> None:
    told = wire(end_frame("g", new_end(OPENED, usage=None, cost=0)))
    assert told["seq"] == -1
    assert (told["usage"], told["cost"]) == (None, 0)
    assert set(END_FRAMES) == set(get_args(EndKind))


@pytest.mark.parametrize(
    ("text", "frame"),
    [
        ('{"type":"send","conversation_id":"c","content":"x"}', Send(conversation_id="c", content="x")),
        (
            '{"type":"send","conversation_id":"c","content":"x","message_id":"m","parent_id":"p","files":["f"],'
            '"model":"small","params":{"stop":["a"]}}',
            Send(
                conversation_id="c",
                content="x",
                message_id="m",
                parent_id="p",
                files=["f"],
                model="small",
                params={"stop": ["a"]},
            ),
        ),
        ('{"type":"regenerate","generation_id":"g"}', Regenerate(generation_id="g")),
        (
            '{"type":"regenerate","generation_id":"g","turn_id":"t","model":"small"}',
            Regenerate(generation_id="g", turn_id="t", model="small"),
        ),
        ('{"type":"continue","generation_id":"g","turn_id":"t"}', Continue(generation_id="g", turn_id="t")),
        ('{"type":"resume","generation_id":"g","epoch":1,"seq":-1}', Resume(generation_id="g", epoch=1, seq=-1)),
        ('{"type":"cancel","generation_id":"g"}', Cancel(generation_id="g")),
        ('{"type":"ping","t":1.5}', Ping(t=1.5)),
        ('{"type":"ping"}', Ping()),
    ],
)
def test_a_clients_frame_is_read(text: str, frame: ClientFrame) -> None:
    assert msgspec.json.decode(text, type=Send | Regenerate | Continue | Resume | Cancel | Ping) == frame


def test_the_empty_defaults_of_frames_are_not_shared() -> None:
    one = msgspec.json.decode('{"type":"send","conversation_id":"c","content":"x"}', type=Send)
    other = msgspec.json.decode('{"type":"send","conversation_id":"c","content":"x"}', type=Send)
    assert one.files is not other.files
    assert one.params is not other.params


def test_stored_structs_read_back() -> None:
    ended = Turn(opened=OPENED, epoch=1, run="r", since_ms=5, cancelled=True, end=new_end(OPENED, epoch=1, chunks=2))
    for value in (ended, text(0, "ä\0\U0001f600", seq=4), OPENED):
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(value), type=type(value)) == value
    assert ended.key == OPENED.key


def test_an_end_of_an_older_process_reads_with_its_defaults() -> None:
    """Fields with a default may be missing: rows outlive the code that wrote them."""
    required = msgspec.to_builtins(new_end(OPENED))
    for name in ("provider", "usage", "cost", "attempt", "code", "message", "hash"):
        del required[name]
    found = msgspec.convert(required, End)
    assert (found.usage, found.cost, found.attempt, found.hash) == (None, 0, None, "")


def test_pieces_are_small_on_disk() -> None:
    assert msgspec.to_builtins(Piece("text", 0, "a")) == ["text", 0, "a"]

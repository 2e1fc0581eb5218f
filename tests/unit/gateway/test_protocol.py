"""The session machine: every frame a client may send, every one it may not, and how a session ends."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import TABLE, ParleyError
from core.events import Text
from core.model import (
    Accepted,
    Cancel,
    Continue,
    Drain,
    ErrorFrame,
    Notice,
    Piece,
    Ping,
    Pong,
    Queued,
    Regenerate,
    Resume,
    Resumed,
    Send,
    ServerFrame,
    Welcome,
    end_frame,
)
from gateway import protocol as do
from gateway.hub import Answer
from gateway.protocol import MAX_PENDING, MAX_VIEWS, Effect, Session
from tests.support.turns import new_end, new_id, new_turn

SEND = {"type": "send", "conversation_id": "c", "content": "hello", "message_id": "m"}
REGENERATE = {"type": "regenerate", "generation_id": "g", "turn_id": "t"}
CONTINUE = {"type": "continue", "generation_id": "g", "turn_id": "t"}
RESUME = {"type": "resume", "generation_id": "g", "epoch": 0, "seq": -1}
CANCEL = {"type": "cancel", "generation_id": "g"}
PING = {"type": "ping", "t": 1}
FRAMES: list[dict[str, Any]] = [SEND, REGENERATE, CONTINUE, RESUME, CANCEL, PING]
ENDING = new_end(new_turn(new_id()), epoch=0, seq=0)


def say(session: Session, frame: object) -> list[Effect]:
    return session.on_message(json.dumps(frame))


def told(effects: list[Effect]) -> list[ServerFrame]:
    return [effect.frame for effect in effects if isinstance(effect, do.Tell)]


def error(effects: list[Effect]) -> ErrorFrame:
    """The one effect: an error that leaves the connection open."""
    (effect,) = effects
    assert isinstance(effect, do.Tell)
    assert isinstance(effect.frame, ErrorFrame)
    assert effect.frame.code in TABLE
    return effect.frame


def number(effects: list[Effect]) -> int:
    (effect,) = effects
    assert isinstance(effect, do.Ask | do.View | do.Stop)
    return effect.number


def answer(generation: str = "g") -> Answer:
    found = Answer(generation)
    found.on_text(0.0, Text(generation, 0, "r", 0, Piece("text", 0, "hi")))
    return found


# --- what a client may send ---------------------------------------------------------------------------------------


def test_the_first_frame_is_the_welcome() -> None:
    effects = Session().open("gw-1.7", "u", 1234, 25.0, {"frame_bytes": 9})
    expected = Welcome(connection_id="gw-1.7", user="u", time=1234, heartbeat_s=25.0, limits={"frame_bytes": 9})
    assert effects == [do.Tell(expected)]


@pytest.mark.parametrize(
    ("said", "effect", "frame"),
    [
        (SEND, do.Ask, Send(conversation_id="c", content="hello", message_id="m")),
        (REGENERATE, do.Ask, Regenerate(generation_id="g", turn_id="t")),
        (CONTINUE, do.Ask, Continue(generation_id="g", turn_id="t")),
        (RESUME, do.View, Resume(generation_id="g", epoch=0, seq=-1)),
        (CANCEL, do.Stop, Cancel(generation_id="g")),
    ],
)
def test_each_frame_asks_its_own_of_the_shell(said: dict[str, Any], effect: type[Effect], frame: object) -> None:
    (found,) = say(Session(), said)
    assert isinstance(found, effect)
    assert getattr(found, "frame", None) == frame


@pytest.mark.parametrize("t", [None, 0, 17, 1.5, "x", ""])
def test_a_ping_is_answered_by_its_own_t(t: object) -> None:
    assert told(say(Session(), {"type": "ping", "t": t})) == [Pong(t=msgspec.convert(t, int | float | str | None))]


def test_a_message_may_come_as_bytes_and_hold_fields_of_later_versions() -> None:
    message = json.dumps(CANCEL | {"later": {"deep": [1]}}).encode()
    assert number(Session().on_message(message)) == 0


def test_requests_are_told_apart_by_their_numbers() -> None:
    session = Session()
    numbers = [number(say(session, frame)) for frame in (SEND, SEND, RESUME, CANCEL)]
    assert len(set(numbers)) == 4


# --- what it may not ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        "",
        "hello",
        "{",
        '{"type": "ping"} {"type": "ping"}',
        "[]",
        "null",
        "5",
        '"ping"',
        "{}",
        '{"type": 5}',
        '{"type": null}',
        '{"type": ["ping"]}',
        '{"Type": "ping"}',
        "[" * 60_000,
        '{"type": "send", "params": ' + '{"a":' * 10_000 + "1" + "}" * 10_000 + "}",
        '{"type": "ping", "t": "\\ud800"}',
        b"\x00\x01\x02",
    ],
    ids=lambda message: repr(message[:24]),
)
def test_what_is_no_frame_at_all_closes_with_4400(message: str | bytes) -> None:
    session = Session()
    tell, close = session.on_message(message)
    assert error([tell]).code == "malformed"
    assert close == do.Close(4400, "malformed")
    assert session.closed
    assert say(session, PING) == []


def test_a_binary_message_closes_with_4400() -> None:
    session = Session()
    tell, close = session.on_binary()
    assert error([tell]).code == "malformed"
    assert "binary" in error([tell]).message
    assert close == do.Close(4400, "malformed")
    assert session.on_message(json.dumps(PING)) == []


@pytest.mark.parametrize("name", ["unknown", "", "Send", "accepted", "x" * 10_000])
def test_an_unknown_type_is_refused_and_told_which_are_known(name: str) -> None:
    session = Session()
    found = error(say(session, {"type": name, "message_id": "m"}))
    assert (found.code, found.param, found.message_id, found.retryable) == ("invalid", "type", "m", False)
    assert "resume" in found.message
    assert len(found.message) < 200
    assert told(say(session, PING)) == [Pong(t=1)]


WRONG: dict[str, list[object]] = {
    "conversation_id": [None, 5, ["c"], {}],
    "content": [None, 5, ["x"]],
    "parent_id": [5, []],
    "files": [None, "f", [5], {}],
    "model": [5, []],
    "params": [None, [], "x"],
    "epoch": [None, "0", 1.5, []],
    "seq": [None, "0", 1.5, []],
}


@pytest.mark.parametrize(
    ("frame", "field", "value"),
    [(frame, field, value) for frame in FRAMES for field in frame for value in WRONG.get(field, [])]
    + [(SEND, field, value) for field in ("parent_id", "files", "model", "params") for value in WRONG[field]]
    + [(REGENERATE, "generation_id", 5), (REGENERATE, "model", 5), (CONTINUE, "generation_id", None)]
    + [(RESUME, "generation_id", 5), (CANCEL, "generation_id", []), (PING, "t", []), (PING, "t", True)],
)
def test_a_wrong_type_is_refused_and_named(frame: dict[str, Any], field: str, value: object) -> None:
    session = Session()
    found = error(say(session, frame | {field: value}))
    assert (found.code, found.retryable) == ("invalid", False)
    assert found.param == field
    assert (found.message_id, found.turn_id) == (frame.get("message_id"), frame.get("turn_id"))
    assert told(say(session, PING)) == [Pong(t=1)]


@pytest.mark.parametrize(
    ("frame", "field"),
    [
        (SEND, "conversation_id"),
        (SEND, "content"),
        (REGENERATE, "generation_id"),
        (CONTINUE, "generation_id"),
        (RESUME, "generation_id"),
        (RESUME, "epoch"),
        (RESUME, "seq"),
        (CANCEL, "generation_id"),
    ],
)
def test_a_missing_field_is_refused_and_named(frame: dict[str, Any], field: str) -> None:
    session = Session()
    found = error(say(session, {name: value for name, value in frame.items() if name != field}))
    assert found.code == "invalid"
    assert field in found.message
    assert (found.message_id, found.turn_id) == (frame.get("message_id"), frame.get("turn_id"))
    assert not session.closed


@pytest.mark.parametrize("frame", [SEND, REGENERATE, CONTINUE])
def test_an_id_of_a_wrong_type_is_refused_like_any_other_field(frame: dict[str, Any]) -> None:
    name = "message_id" if frame is SEND else "turn_id"
    assert error(say(Session(), frame | {name: 5})).param == name


def test_only_so_many_frames_may_wait_for_an_answer() -> None:
    session = Session()
    first, *_ = [number(say(session, SEND)) for _ in range(MAX_PENDING)]
    for frame in (SEND, REGENERATE, CONTINUE, RESUME, CANCEL):
        found = error(say(session, frame))
        assert (found.code, found.retryable) == ("rate_limited", True)
        assert found.retry_after_ms
        assert (found.message_id, found.turn_id) == (frame.get("message_id"), frame.get("turn_id"))
        assert found.generation_id == frame.get("generation_id")
    assert told(say(session, PING)) == [Pong(t=1)]
    session.refused(first, ParleyError("busy", "wait"))
    assert isinstance(say(session, SEND)[0], do.Ask)


# --- answers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frame", [SEND, REGENERATE, CONTINUE, RESUME, CANCEL])
def test_a_refusal_echoes_the_ids_of_its_frame(frame: dict[str, Any]) -> None:
    session = Session()
    refusal = ParleyError("rate_limited", "Slow down.", param="content", retry_after_ms=70)
    at = number(say(session, frame))
    assert error(session.refused(at, refusal)) == ErrorFrame(
        code="rate_limited",
        message="Slow down.",
        retryable=True,
        message_id=frame.get("message_id"),
        turn_id=frame.get("turn_id"),
        generation_id=frame.get("generation_id"),
        retry_after_ms=70,
        param="content",
    )
    assert session.refused(at, refusal) == []


def test_an_accepted_turn_is_told_before_its_text() -> None:
    session = Session()
    accepted = Accepted(message_id="m", generation_id="g")
    assert session.accepted(number(say(session, SEND)), accepted) == [do.Tell(accepted)]
    assert [getattr(frame, "d", None) for frame in session.frames(answer(), 100)] == ["hi"]


def test_a_resumed_answer_goes_on_from_the_clients_address() -> None:
    session = Session()
    at = number(say(session, RESUME | {"seq": 0}))
    assert list(session.frames(answer(), 100)) == []
    assert session.watching(at) == []
    assert list(session.frames(answer(), 100)) == [Resumed(generation_id="g", epoch=0, seq=0)]


def test_a_view_ends_with_the_end_frame() -> None:
    session, found = Session(), answer()
    session.accepted(number(say(session, SEND)), Accepted(message_id="m", generation_id="g"))
    found.on_end(ENDING)
    assert list(session.frames(found, 100))[-1] == end_frame("g", ENDING)
    assert session.views == {}
    assert list(session.frames(found, 100)) == []


def test_a_cancel_is_answered_by_the_stored_end_unless_the_answer_is_watched() -> None:
    session, end = Session(), end_frame("g", ENDING)
    assert session.ended(number(say(session, CANCEL)), end) == [do.Tell(end)]
    # A client that comes back to cancel says both at once: the end waits for the text that it lacks.
    resume = number(say(session, RESUME))
    assert session.ended(number(say(session, CANCEL)), end) == []
    session.watching(resume)
    assert session.ended(number(say(session, CANCEL)), end) == []
    found = answer()
    found.on_end(ENDING)
    assert list(session.frames(found, 100))[-1] == end


def test_only_so_many_answers_are_watched_at_once() -> None:
    session = Session()
    for n in range(MAX_VIEWS):
        session.watching(number(say(session, RESUME | {"generation_id": f"g{n}"})))
    tell, leave = session.watching(number(say(session, RESUME | {"generation_id": "one more"})))
    assert error([tell]).code == "rate_limited"
    assert leave == do.Leave("one more")
    assert session.watching(number(say(session, RESUME | {"generation_id": "g0"}))) == []
    assert len(session.views) == MAX_VIEWS


def test_one_view_too_many_is_named() -> None:
    session = Session()
    for n in range(MAX_VIEWS):
        session.watching(number(say(session, RESUME | {"generation_id": f"g{n}"})))
    refused = session.watching(number(say(session, RESUME | {"generation_id": "one more"})))
    assert error(refused[:1]).generation_id == "one more"


def test_queued_is_told_only_of_what_is_watched() -> None:
    session = Session()
    frame = Queued(generation_id="g", position=1, eta_s=1.0)
    assert session.queued(frame) == []
    session.accepted(number(say(session, SEND)), Accepted(message_id="m", generation_id="g"))
    assert session.queued(frame) == [do.Tell(frame)]


# --- draining and closing -----------------------------------------------------------------------------------------


def test_a_draining_gateway_says_so_once_and_opens_nothing_new() -> None:
    session = Session()
    assert session.drain(250) == [do.Tell(Drain(reconnect_after_ms=250))]
    assert session.drain(250) == []
    for frame in (SEND, REGENERATE, CONTINUE):
        found = error(say(session, frame))
        assert (found.code, found.retryable) == ("unavailable", True)
        assert (found.message_id, found.turn_id) == (frame.get("message_id"), frame.get("turn_id"))
    assert isinstance(say(session, CANCEL)[0], do.Stop)
    assert isinstance(say(session, RESUME)[0], do.View)
    assert told(say(session, PING)) == [Pong(t=1)]


def test_who_overruns_is_told_when_to_come_back_before_the_close_which_says_it_too() -> None:
    session = Session()
    tell, close = session.overrun("Too many frames.", 5_000)
    assert (error([tell]).code, error([tell]).retry_after_ms, error([tell]).retryable) == ("rate_limited", 5_000, True)
    assert isinstance(close, do.Close)
    assert (close.code, "5000" in close.reason) == (4429, True)
    assert session.overrun("Too many frames.", 5_000) == []
    assert say(session, PING) == []


def test_after_a_close_nothing_is_told() -> None:
    session = Session()
    numbers = [number(say(session, frame)) for frame in (SEND, RESUME, CANCEL, SEND)]
    session.accepted(number(say(session, SEND)), Accepted(message_id="m", generation_id="g"))
    assert session.close(4401, "unauthorized") == [do.Close(4401, "unauthorized")]
    assert session.close() == []
    assert session.on_message(json.dumps(PING)) == []
    assert session.accepted(numbers[0], Accepted(message_id="m", generation_id="g")) == []
    assert session.watching(numbers[1]) == []
    assert session.ended(numbers[2], end_frame("h", ENDING)) == []
    assert session.refused(numbers[3], ParleyError("busy", "wait")) == []
    assert list(session.frames(answer(), 100)) == []
    assert session.queued(Queued(generation_id="g", position=1, eta_s=1.0)) == []
    assert session.notice(Notice(code="degraded", message="slow")) == []
    assert session.drain(1) == []


def test_who_goes_leaves_the_answers_and_they_go_on() -> None:
    session = Session()
    at = number(say(session, SEND))
    for generation in ("g", "h"):
        session.watching(number(say(session, RESUME | {"generation_id": generation})))
    assert session.gone() == [do.Leave("g"), do.Leave("h")]
    assert session.gone() == []
    assert session.accepted(at, Accepted(message_id="m", generation_id="late")) == []
    assert session.views == {}


# --- anything -----------------------------------------------------------------------------------------------------

anything: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def nearly(draw: st.DrawFn) -> str:
    """A good frame with one field changed, added or taken away."""
    frame = dict(draw(st.sampled_from(FRAMES)))
    field = draw(st.sampled_from([*frame, *WRONG, "message_id", "turn_id", "t"]))
    if draw(st.booleans()):
        frame[field] = draw(anything)
    else:
        frame.pop(field, None)
    return json.dumps(frame)


messages = (
    nearly() | anything.map(json.dumps) | st.text(max_size=40) | st.binary(max_size=40) | nearly().map(lambda t: t[:-2])
)


@settings(max_examples=200, deadline=None)
@given(st.lists(messages, max_size=6))
def test_no_message_is_an_exception_and_every_answer_is_of_the_table(said: list[str | bytes]) -> None:
    session = Session()
    for message in said:
        was_closed = session.closed
        effects = session.on_message(message)
        assert not (was_closed and effects)
        for effect in effects:
            if isinstance(effect, do.Close):
                assert (effect.code, effect.reason) == (4400, "malformed")
                assert effect is effects[-1]
                assert session.closed
            elif isinstance(effect, do.Tell):
                assert isinstance(effect.frame, Pong) or error([effect]).code in ("invalid", "malformed")
                msgspec.json.encode(effect.frame)
            else:
                assert isinstance(effect, do.Ask | do.View | do.Stop)
                assert not isinstance(effect.frame, Ping)
        assert session.closed or effects


@pytest.mark.parametrize("value", ["\x01" * 64, "é", "a" * 129, 'a"b', ""])
@pytest.mark.parametrize("wrong", [{}, {"epoch": "x", "type": "resume"}])
def test_what_has_no_form_of_an_id_is_not_repeated(value: str, wrong: dict[str, Any]) -> None:
    session = Session()
    (effect,) = say(session, CANCEL | {"generation_id": value} | wrong)
    if isinstance(effect, do.Stop):
        effects = session.refused(effect.number, ParleyError("not_found", "no such answer: " + value * 100))
        told_back = error(effects)
        assert len(told_back.message) <= 500
    else:
        told_back = error([effect])
    assert told_back.generation_id is None


def test_a_ping_carries_little() -> None:
    session = Session()
    assert told(say(session, PING | {"t": "a" * 64})) == [Pong(t="a" * 64)]
    assert error(say(session, PING | {"t": "a" * 65})).param == "t"

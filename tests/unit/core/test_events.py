"""Bus messages: each survives the wire, as an array that its class name tags; nothing else decodes."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import events
from core.events import (
    Attach,
    Beat,
    CancelRun,
    Detach,
    Dispatch,
    EdgeMessage,
    Ended,
    Finishing,
    Go,
    GrantMessage,
    Held,
    Life,
    Message,
    No,
    RunMessage,
    SessionRevoked,
    Stop,
    Superseded,
    Taken,
    Text,
    UserEvent,
)
from core.model import Piece, TurnKey
from tests.support.turns import new_end, new_id, new_turn

END = new_end(new_turn(new_id()))
EDGE: list[EdgeMessage] = [
    Taken("g", 1, "r", "router-1"),
    Text("g", 1, "r", 0, Piece("text", 0, "ä")),
    Beat("router-1", [Life("g", 1, "r", -1, False), Life("h", 0, "s", 7, True)]),
    Beat("router-1", []),
    Held("g", 1, "r"),
    Ended("g", END),
    Superseded("g", 1, "r"),
    Finishing("g", 1, "r"),
    UserEvent("u", "title", {"id": "c", "title": "t"}),
    SessionRevoked("u", ""),
]
RUN: list[RunMessage] = [Attach("g", "gw-1", -1, -1), Detach("g", "gw-1"), CancelRun("g"), Stop("g", 2)]
GRANTS: list[GrantMessage] = [Go("g", 1, "r"), No("g", 1, "r")]
DISPATCH = Dispatch("g", TurnKey("c", "t"), 1, "r", "gw-1")

edge = msgspec.msgpack.Decoder(list[EdgeMessage])
run = msgspec.msgpack.Decoder(RunMessage)
grant = msgspec.msgpack.Decoder(GrantMessage)


def test_a_batch_keeps_its_messages_and_their_order() -> None:
    assert edge.decode(msgspec.msgpack.encode(EDGE)) == EDGE
    assert edge.decode(msgspec.msgpack.encode(EDGE[::-1])) == EDGE[::-1]


def test_what_is_told_to_one_run_or_router_survives() -> None:
    assert [run.decode(msgspec.msgpack.encode(message)) for message in RUN] == RUN
    assert [grant.decode(msgspec.msgpack.encode(message)) for message in GRANTS] == GRANTS
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(DISPATCH), type=Dispatch) == DISPATCH


def test_every_message_is_an_array_tagged_by_its_class() -> None:
    told: list[Message] = [*EDGE, *RUN, *GRANTS, DISPATCH]
    for message in told:
        decoded = msgspec.msgpack.decode(msgspec.msgpack.encode(message))
        assert isinstance(decoded, list)
        assert decoded[0] == type(message).__name__


def test_every_message_is_tried_here() -> None:
    known = {type(message) for message in [*EDGE, *RUN, *GRANTS, DISPATCH]} | {Life}
    defined = {value for value in vars(events).values() if isinstance(value, type) and issubclass(value, Message)}
    assert defined - {Message} == known


@pytest.mark.parametrize("message", [*RUN, *GRANTS, DISPATCH])
def test_a_message_of_another_subject_is_malformed(message: Message) -> None:
    with pytest.raises(msgspec.DecodeError):
        edge.decode(msgspec.msgpack.encode([message]))


@given(st.binary(max_size=60))
def test_bytes_decode_or_raise_one_error(data: bytes) -> None:
    for decoder in (edge, run, grant):
        try:
            decoded = decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
        assert isinstance(decoded, list | Message)


@given(st.integers(-1, 2**62), st.integers(-1, 2**31))
def test_addresses_of_any_size_travel(seq: int, epoch: int) -> None:
    message = Attach("g", "gw-1", epoch, seq)
    assert run.decode(msgspec.msgpack.encode(message)) == message

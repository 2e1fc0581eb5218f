"""The compiled frame kernel and its plain reference give the same results on everything, split anywhere."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from wsproto.frame_protocol import FrameProtocol, Opcode, ParseFailed

from ext import ws_frames, ws_reference
from ext.ws_reference import FAILED
from tests.support.websocket import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, client_frame, close_body

IMPLEMENTATIONS = pytest.mark.parametrize("kernel", [ws_frames, ws_reference], ids=["compiled", "reference"])
MAX_MESSAGE, MAX_FRAGMENTS = 400, 4

texts = st.text(max_size=60).map(str.encode)
payloads = st.one_of(texts, st.binary(max_size=140), st.binary(min_size=380, max_size=420))
frames = st.one_of(
    st.builds(
        client_frame,
        st.sampled_from([TEXT, BINARY, CONTINUATION, CONTINUATION, PING, PONG]),
        payloads,
        fin=st.booleans(),
    ),
    st.builds(client_frame, st.just(CLOSE), st.builds(close_body, st.integers(990, 5001), st.text(max_size=9))),
    st.builds(client_frame, st.integers(0, 15), payloads, rsv=st.integers(0, 7), masked=st.booleans()),
    st.binary(max_size=20),
)
streams = st.one_of(st.binary(max_size=64), st.lists(frames, max_size=8).map(b"".join))


def pieces_of(data: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in pairwise(places)]


@settings(max_examples=300, deadline=None)
@given(streams, st.lists(st.integers(0, 2000), max_size=12))
@example(client_frame(TEXT, b"\xf0\x9f", fin=False) + client_frame(0, b"\x98\x80"), [])
@example(client_frame(TEXT, b"ok\xed\xa0\x80"), [9])
@example(client_frame(TEXT, b"ok\xed\xa0\x80"), [10])
@example(client_frame(TEXT, "é".encode()[:1]), [])
@example(client_frame(BINARY, b"", fin=False) * 2, [])
def test_both_parsers_agree_after_every_piece(data: bytes, cuts: list[int]) -> None:
    compiled = ws_frames.FrameParser(MAX_MESSAGE, MAX_FRAGMENTS)
    reference = ws_reference.FrameParser(MAX_MESSAGE, MAX_FRAGMENTS)
    for piece in pieces_of(data, cuts):
        events = compiled.feed(piece)
        assert events == reference.feed(piece)
        assert compiled.idle == reference.idle
        if FAILED not in {kind for kind, _ in events}:
            assert compiled.frames == reference.frames
        else:
            return


@settings(max_examples=150, deadline=None)
@given(streams, st.lists(st.integers(0, 2000), max_size=12))
def test_splits_change_nothing(data: bytes, cuts: list[int]) -> None:
    whole = ws_frames.FrameParser(MAX_MESSAGE, MAX_FRAGMENTS).feed(data)
    parser = ws_frames.FrameParser(MAX_MESSAGE, MAX_FRAGMENTS)
    assert [event for piece in pieces_of(data, cuts) for event in parser.feed(piece)] == whole


@st.composite
def conversations(draw: st.DrawFn) -> tuple[bytes, list[tuple[int, object]]]:
    """A valid stream of messages in fragments, with control frames anywhere between them, and what it says."""
    data, said = b"", []
    for _ in range(draw(st.integers(0, 4))):
        message = draw(st.one_of(st.text(max_size=80), st.binary(max_size=140)))
        opcode, payload = (TEXT, message.encode()) if isinstance(message, str) else (BINARY, message)
        parts = pieces_of(payload, draw(st.lists(st.integers(0, 400), max_size=MAX_FRAGMENTS - 1)))
        for number, part in enumerate(parts):
            for control in draw(st.lists(st.sampled_from([PING, PONG]), max_size=2)):
                said.append((control, draw(st.binary(max_size=125))))
                data += client_frame(*said[-1])
            data += client_frame(CONTINUATION if number else opcode, part, fin=number == len(parts) - 1)
        said.append((opcode, message))
    return data, said


@settings(max_examples=200, deadline=None)
@given(conversations(), st.lists(st.integers(0, 4000), max_size=12))
def test_what_is_said_arrives(conversation: tuple[bytes, list[tuple[int, object]]], cuts: list[int]) -> None:
    data, said = conversation
    for kernel in (ws_frames, ws_reference):
        parser = kernel.FrameParser(MAX_MESSAGE, MAX_FRAGMENTS)
        assert [event for piece in pieces_of(data, cuts) for event in parser.feed(piece)] == said
        assert parser.idle
    assert opinion_of_wsproto(data) == said


# The largest limits that there are, so that wsproto, which has none, is asked about frames only.
UNLIMITED = (1 << 40, 1 << 20)
codes = st.one_of(st.integers(990, 1030), st.integers(2990, 5001)).filter(lambda code: code != BAD_GATEWAY)
BAD_GATEWAY = 1014  # registered after RFC 6455, and unknown to wsproto
well_formed = st.one_of(
    st.builds(
        client_frame,
        st.sampled_from([TEXT, BINARY, CONTINUATION, CONTINUATION, PING, PONG]),
        st.one_of(texts, texts.map(lambda text: text[:-1]), st.binary(max_size=140)),
        fin=st.booleans(),
    ),
    st.builds(client_frame, st.just(CLOSE), st.builds(close_body, codes, st.text(max_size=9))),
    st.builds(client_frame, st.just(CLOSE), st.binary(max_size=3).filter(lambda body: body[:2] != b"\x03\xf6")),
    st.builds(client_frame, st.integers(0, 15), texts, rsv=st.sampled_from([0, 0, 0, 1, 4]), masked=st.booleans()),
)


def opinion_of_wsproto(data: bytes) -> list[tuple[int, object]]:
    """What wsproto makes of whole frames, as our events; of a violation, the code only."""
    protocol = FrameProtocol(client=False, extensions=[])
    protocol.receive_bytes(data)
    events: list[tuple[int, object]] = []
    parts: list[Any] = []
    try:
        for frame in protocol.received_frames():
            if frame.opcode is Opcode.CLOSE:
                code, reason = frame.payload
                return [*events, (CLOSE, (int(code), reason or ""))]
            if frame.opcode.iscontrol():
                events.append((int(frame.opcode), bytes(frame.payload)))
                continue
            parts.append(frame.payload)
            if frame.message_finished:
                events.append((int(frame.opcode), parts[0][:0].join(parts)))
                parts.clear()
    except ParseFailed as failed:
        events.append((0, int(failed.code)))
    return events


@settings(max_examples=300, deadline=None)
@given(st.lists(well_formed, max_size=8).map(b"".join))
@example(client_frame(TEXT, b"\xf0\x9f", fin=False) + client_frame(PING, b"!") + client_frame(0, b"\x98\x80"))
@example(client_frame(TEXT, b"", fin=False) + client_frame(0, b"") + client_frame(BINARY, b""))
@example(client_frame(CLOSE, b"\x03\xe8\xff") + client_frame(TEXT, b"too late"))
def test_wsproto_agrees(data: bytes) -> None:
    events = ws_frames.FrameParser(*UNLIMITED).feed(data)
    assert [(kind, value[0] if kind == 0 else value) for kind, value in events] == opinion_of_wsproto(data)


@IMPLEMENTATIONS
def test_masks_at_every_alignment(kernel: Any) -> None:
    data, key = bytes(range(0, 250, 7)), b"\x01\x80\xff\x10"
    for start in range(9):
        for size in range(len(data) - start):
            for offset in range(8):
                piece = memoryview(data)[start : start + size]
                expected = bytes(byte ^ key[(offset + at) % 4] for at, byte in enumerate(piece))
                assert kernel.mask(piece, key, offset) == expected


@IMPLEMENTATIONS
def test_unmasks_in_place_at_every_alignment_and_cut(kernel: Any) -> None:
    key, whole = b"\x01\x80\xff\x10", bytes(range(0, 250, 9))
    for shift in range(8):
        before = client_frame(PING, whole[:shift])
        for size in range(len(whole)):
            payload = whole[:size]
            frame = bytes((0x82, 0x80 | size)) + key + ws_reference.mask(payload, key)
            for cut in range(0, len(frame), 3):
                parser = kernel.FrameParser(1000, 4)
                events = [*parser.feed(before + frame[:cut]), *parser.feed(frame[cut:])]
                assert events == [(PING, whole[:shift]), (BINARY, payload)]


@given(st.binary(max_size=200), st.binary(min_size=4, max_size=4), st.integers(0, 9))
def test_both_maskers_agree_and_undo_themselves(data: bytes, key: bytes, offset: int) -> None:
    masked = ws_frames.mask(data, key, offset)
    assert masked == ws_reference.mask(data, key, offset)
    assert ws_frames.mask(masked, key, offset) == data


@given(st.sampled_from([TEXT, BINARY, CLOSE, PING, PONG]), st.integers(0, 300) | st.integers(65_530, 65_540))
def test_both_encoders_agree(opcode: int, size: int) -> None:
    def encoded(kernel: Any) -> bytes | None:
        try:
            return kernel.encode_frame(opcode, bytes(size))
        except ValueError:
            return None

    assert encoded(ws_frames) == encoded(ws_reference)
    assert (encoded(ws_frames) is None) == (opcode >= CLOSE and size > 125)


@given(st.integers(0, 6000), st.text(max_size=70))
def test_both_close_frames_agree(code: int, reason: str) -> None:
    assert ws_frames.close_code_valid(code) == ws_reference.close_code_valid(code)
    if ws_frames.close_code_valid(code):
        assert ws_frames.encode_close(code, reason) == ws_reference.encode_close(code, reason)


@IMPLEMENTATIONS
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda k: k.mask(b"x", b"123"), "four bytes"),
        (lambda k: k.encode_close(1006, ""), "1006 may not be sent"),
        (lambda k: k.encode_frame(PING, bytes(126)), "125 bytes"),
    ],
)
def test_misuse_is_told(kernel: Any, call: Callable[[Any], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(kernel)


@IMPLEMENTATIONS
def test_reason_is_cut_at_a_character(kernel: Any) -> None:
    frame = kernel.encode_close(1000, "é" * 100)
    assert frame[1] == len(frame) - 2 == 2 + 122
    assert frame[4:].decode() == "é" * 61
    assert kernel.encode_close(1005, "never sent") == b"\x88\x00"


@IMPLEMENTATIONS
@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, 70_000])
def test_every_length_form_carries_a_message(kernel: Any, size: int) -> None:
    parser = kernel.FrameParser(100_000, 4)
    payload = bytes(range(256)) * (size // 256 + 1)
    assert parser.feed(client_frame(BINARY, payload[:size])) == [(BINARY, payload[:size])]
    assert parser.idle


@IMPLEMENTATIONS
def test_bad_text_is_seen_at_its_first_bad_byte(kernel: Any) -> None:
    parser = kernel.FrameParser(1000, 4)
    header = 6
    frame = client_frame(TEXT, b"fine \xce\xba \xf4\x90\x80\x80 and more")
    bad = header + len(b"fine \xce\xba \xf4")
    assert parser.feed(frame[:bad]) == []
    assert parser.feed(frame[bad : bad + 1]) == [(0, (1007, "text is not UTF-8"))]
    assert parser.feed(frame[bad + 1 :]) == []


def test_memory_follows_what_arrived_not_what_was_announced() -> None:
    parser = ws_frames.FrameParser(1 << 40, 4)
    assert parser.feed(client_frame(BINARY, b"x", length=b"\x7f" + (1 << 39).to_bytes(8, "big"))) == []
    assert not parser.idle

"""The event-stream parser: any split gives the same events, and they are what the standard says."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.providers.sse import ServerSentEvent, SSELimitError, SSEParser

_VALUES = st.text(
    st.characters(exclude_characters="\r\n", codec="utf-8") | st.sampled_from([":", " ", "\0", "\ufeff"]),
    max_size=12,
)
_NAMES = st.sampled_from(["data", "data", "data", "event", "id", "retry", "", "unknown", "dat", "data "])
_LINES = st.one_of(
    st.just(""),
    st.builds(lambda name, gap, value: f"{name}:{gap}{value}", _NAMES, st.sampled_from(["", " ", "  "]), _VALUES),
    st.sampled_from(["data", "event", "id", ": comment", ":"]),
    _VALUES,
)
_STREAMS = st.tuples(
    st.sampled_from(["", "\ufeff"]),
    st.lists(st.tuples(_LINES, st.sampled_from(["\n", "\r\n", "\r"])), max_size=25),
    _VALUES,
).map(lambda stream: (stream[0] + "".join(line + end for line, end in stream[1]) + stream[2]).encode())


def reference(stream: bytes) -> list[ServerSentEvent]:
    """The standard's algorithm, word for word, over the whole stream at once."""
    text = stream.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    events: list[ServerSentEvent] = []
    data, event, last_id = b"", "", ""
    for line in text.split(b"\n")[:-1]:
        name, colon, value = line.partition(b":")
        if not line:
            if data:
                events.append(ServerSentEvent(data[:-1], event or "message", last_id))
            data, event = b"", ""
            continue
        if colon and not name:
            continue
        value = value[1:] if value[:1] == b" " else value
        if name == b"data":
            data += value + b"\n"
        elif name == b"event":
            event = value.decode()
        elif name == b"id" and b"\0" not in value:
            last_id = value.decode()
    return events


def parse(stream: bytes, cuts: list[int]) -> list[ServerSentEvent]:
    parser = SSEParser()
    events: list[ServerSentEvent] = []
    bounds = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    for start, end in pairwise(bounds):
        events += parser.feed(stream[start:end])
    return events


@settings(deadline=None)
@given(_STREAMS, st.lists(st.integers(0, 400), max_size=12))
def test_any_split_gives_the_events_of_the_standard(stream: bytes, cuts: list[int]) -> None:
    expected = reference(stream)
    assert parse(stream, cuts) == expected
    assert parse(stream, list(range(len(stream)))) == expected


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"data: a\ndata: b\n\n", [ServerSentEvent(b"a\nb")]),
        (b"data\n\ndata:\n\n", [ServerSentEvent(b""), ServerSentEvent(b"")]),
        (b"event: x\n\ndata: y\n\n", [ServerSentEvent(b"y")]),
        (
            b"id: 7\nevent: x\ndata:  two\n\ndata: z\n\n",
            [ServerSentEvent(b" two", "x", "7"), ServerSentEvent(b"z", "message", "7")],
        ),
        (b"data: never ended\n", []),
        (b"\xef\xbb\xbfdata: bom\r\rdata: cr\r\n\r\n", [ServerSentEvent(b"bom"), ServerSentEvent(b"cr")]),
    ],
)
def test_examples(stream: bytes, expected: list[ServerSentEvent]) -> None:
    assert parse(stream, []) == expected


def test_retry_is_kept() -> None:
    parser = SSEParser()
    parser.feed(b"retry: 1500\nretry: soon\n")
    assert parser.retry_ms == 1500


def test_a_line_over_the_limit_fails_before_it_ends() -> None:
    parser = SSEParser(max_bytes=100)
    parser.feed(b"data: " + b"x" * 94)
    with pytest.raises(SSELimitError):
        parser.feed(b"x")


def test_a_whole_line_over_the_limit_fails() -> None:
    with pytest.raises(SSELimitError):
        SSEParser(max_bytes=100).feed(b"data: " + b"x" * 200 + b"\n\n")


def test_an_event_of_many_lines_over_the_limit_fails() -> None:
    parser = SSEParser(max_bytes=100)
    for _ in range(101):
        parser.feed(b"data:\n")
    with pytest.raises(SSELimitError):
        parser.feed(b"data:\n")


def test_a_dripped_line_costs_linear_time() -> None:
    parser = SSEParser()
    for _ in range(200_000):
        assert parser.feed(b"x") == []
    assert parser.feed(b"\ndata: y\n\n") == [ServerSentEvent(b"y")]

"""Requests, chunks and errors of OpenAI's chat completions, without a connection."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.providers.openai_wire import AnswerDecoder, encode_request, kind_of_status, response_error, retry_after_ms
from core.providers.port import (
    Finished,
    ProviderError,
    ProviderEvent,
    ProviderMessage,
    ProviderRequest,
    StreamLimits,
    TextDelta,
    Usage,
)

DONE = b"data: [DONE]\n\n"


def chunk(delta: dict[str, Any] | None = None, finish: str | None = None, **fields: Any) -> bytes:
    body = {"choices": [{"index": 0, "delta": delta or {}, "finish_reason": finish}], **fields}
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def decode(*data: bytes, limits: StreamLimits = StreamLimits()) -> tuple[list[ProviderEvent], AnswerDecoder]:  # noqa: B008
    decoder = AnswerDecoder(limits)
    events: list[ProviderEvent] = []
    for piece in data:
        decoder.feed(piece, events)
    return events, decoder


def parts(events: list[ProviderEvent]) -> dict[tuple[str, int], str]:
    texts: dict[tuple[str, int], str] = {}
    for event in events:
        if isinstance(event, TextDelta):
            assert event.text
            texts[event.kind, event.part] = texts.get((event.kind, event.part), "") + event.text
    return texts


def tool(index: int | None, name: str | None, arguments: str | None, call_id: str | None) -> dict[str, Any]:
    call: dict[str, Any] = {"function": {"name": name, "arguments": arguments}, "id": call_id}
    return {"tool_calls": [call if index is None else {"index": index, **call}]}


@pytest.mark.parametrize("tokens", [-1, 1 << 41, 1 << 63, 1 << 70])
@pytest.mark.parametrize("field", ["prompt_tokens", "completion_tokens"])
def test_usage_that_nobody_can_have_counted_is_not_taken(field: str, tokens: int) -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 4, field: tokens}
    told = b'data: {"choices":[],"usage":' + json.dumps(usage).encode() + b"}\n\n"
    events, _ = decode(chunk({"content": "Hello"}), chunk({}, "stop"), told + DONE)
    assert events == [TextDelta("Hello"), Finished("stop")]


def test_a_whole_answer() -> None:
    usage = {
        "prompt_tokens": 9,
        "completion_tokens": 4,
        "prompt_tokens_details": {"cached_tokens": 5},
        "completion_tokens_details": {"reasoning_tokens": 3},
    }
    events, decoder = decode(
        chunk({"role": "assistant", "content": ""}),
        chunk({"reasoning_content": "hm"}),
        chunk({"content": "Grüße"}),
        chunk({"refusal": "!"}),
        chunk({}, "stop", usage=None),
        b'data: {"choices":[],"usage":' + json.dumps(usage).encode() + b"}\n\n" + DONE,
    )
    assert events == [
        TextDelta("hm", "reasoning"),
        TextDelta("Grüße"),
        TextDelta("!"),
        Finished("stop"),
        Usage(9, 4, 5, 3),
    ]
    assert decoder.complete


@settings(deadline=None)
@given(st.data(), st.text(max_size=40), st.lists(st.text(min_size=1, max_size=9), min_size=1, max_size=4))
def test_any_split_gives_the_same_parts(data: st.DataObject, text: str, fragments: list[str]) -> None:
    stream = b"".join(
        [
            *(chunk({"content": letter}) for letter in text),
            chunk(tool(0, "f", None, "call_1")),
            *(chunk(tool(0, None, fragment, None)) for fragment in fragments),
            chunk({}, "tool_calls"),
            DONE,
        ]
    )
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=10)) | {0, len(stream)})
    events, decoder = decode(*(stream[a:b] for a, b in pairwise(cuts)))
    assert decoder.complete
    texts = parts(events)
    assert texts.get(("text", 0), "") == text
    call = json.loads(texts["tool_call", 0])
    assert call == {"id": "call_1", "name": "f", "arguments": "".join(fragments)}


def test_tool_calls_that_interleave_are_parts_of_their_own() -> None:
    events, _ = decode(
        chunk(tool(3, "a", "", "call_a")),
        chunk(tool(5, "b", '{"q"', "call_b")),
        chunk(tool(3, None, "{}", None)),
        chunk(tool(5, None, ': "\\n"}', None)),
        chunk({}, "tool_calls"),
    )
    texts = parts(events)
    assert json.loads(texts["tool_call", 0]) == {"id": "call_a", "name": "a", "arguments": "{}"}
    assert json.loads(texts["tool_call", 1]) == {"id": "call_b", "name": "b", "arguments": '{"q": "\\n"}'}


def test_tool_calls_without_numbers_go_by_id_then_by_order() -> None:
    events, _ = decode(
        chunk(tool(None, "a", "{", "call_a")),
        chunk(tool(None, None, "}", None)),
        chunk(tool(None, "b", None, "call_b")),
        chunk({}, "stop"),
    )
    texts = parts(events)
    assert json.loads(texts["tool_call", 0]) == {"id": "call_a", "name": "a", "arguments": "{}"}
    assert json.loads(texts["tool_call", 1]) == {"id": "call_b", "name": "b", "arguments": ""}


@pytest.mark.parametrize(
    ("wire", "reason"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("function_call", "tool_calls"),
        ("content_filter", "content_filter"),
        ("eos", "stop"),
    ],
)
def test_finish_reasons(wire: str, reason: str) -> None:
    assert decode(chunk({}, wire))[0] == [Finished(reason)]  # type: ignore[arg-type]


def test_other_choices_and_text_after_the_end_are_ignored() -> None:
    second = b'data: {"choices":[{"index":1,"delta":{"content":"no"}}]}\n\n'
    events, decoder = decode(second, chunk({"content": "yes"}), chunk({}, "stop"), chunk({"content": "no"}), DONE, b"x")
    assert events == [TextDelta("yes"), Finished("stop")]
    assert decoder.complete


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"data: {\n\n", "malformed"),
        (b"data: []\n\n", "malformed"),
        (b'data: {"choices":[{"delta":{"content":7}}]}\n\n', "malformed"),
        (b'data: {"choices":[{"delta":{"content":"\xff"}}]}\n\n', "malformed"),
        (b"data: " + b"[" * 100_000 + b"\n\n", "malformed"),
        (DONE, "cut"),
        (b'data: {"error":{"message":"no","code":429}}\n\n', "rate_limited"),
        (b'data: {"error":{"message":"no","type":"rate_limit_error"}}\n\n', "rate_limited"),
        (b'data: {"error":"no"}\n\n', "server"),
        (chunk({}, "error"), "server"),
    ],
)
@pytest.mark.parametrize("text_first", [False, True])
def test_failures_keep_what_came_before(data: bytes, kind: str, text_first: bool) -> None:
    decoder = AnswerDecoder(StreamLimits())
    events: list[ProviderEvent] = []
    with pytest.raises(ProviderError) as failure:
        decoder.feed((chunk({"content": "a"}) if text_first else b"") + data, events)
    assert failure.value.kind == kind
    assert failure.value.before_text is not text_first
    assert events == ([TextDelta("a")] if text_first else [])


@pytest.mark.parametrize("limits", [StreamLimits(line_bytes=64), StreamLimits(total_bytes=200), StreamLimits(parts=2)])
def test_limits(limits: StreamLimits) -> None:
    with pytest.raises(ProviderError) as failure:
        decode(*(chunk(tool(i, "f", "{}", f"call_{i}")) for i in range(4)), limits=limits)
    assert failure.value.kind == "malformed"


def test_the_request() -> None:
    request = ProviderRequest(
        model="m",
        messages=(ProviderMessage("system", "s"), ProviderMessage("user", "u")),
        max_tokens=7,
        params={"temperature": 0.5, "n": 3, "stream": False, "max_tokens": 9, "model": "other"},
        continue_from="so far",
    )
    body = encode_request(
        request,
        max_tokens_field="max_completion_tokens",
        extra={"user": "x"},
        continue_extra={"continue_final_message": True},
    )
    assert json.loads(body) == {
        "temperature": 0.5,
        "max_completion_tokens": 7,
        "user": "x",
        "continue_final_message": True,
        "model": "m",
        "messages": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": "u"},
            {"role": "assistant", "content": "so far"},
        ],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"Retry-After": "2"}, 2000),
        ({"Retry-After": "0.25"}, 250),
        ({"Retry-After": "2", "retry-after-ms": "150"}, 150),
        ({"Retry-After": "-5"}, 0),
        ({"Retry-After": "1e300"}, 3_600_000),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "soon", "Date": "Wed, 21 Oct 2015 07:28:00 GMT"}, None),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:05 GMT", "Date": "Wed, 21 Oct 2015 07:28:00 GMT"}, 5000),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:05 GMT"}, None),
    ],
)
def test_retry_after(headers: dict[str, str], expected: int | None) -> None:
    assert retry_after_ms(headers) == expected


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, "bad_request"), (401, "auth"), (403, "auth"), (404, "bad_request"), (408, "server"), (429, "rate_limited"),
     (500, "server"), (503, "server"), (302, "malformed"), (200, "malformed")],
)  # fmt: skip
def test_statuses(status: int, kind: str) -> None:
    assert kind_of_status(status) == kind


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error": {"message": "why"}}', "HTTP 500: why"),
        (b'{"error": "why"}', "HTTP 500: why"),
        (b'{"detail": "why"}', 'HTTP 500: {"detail":"why"}'),
        (b"<html>\xff", "HTTP 500: <html>\ufffd"),
        (b"", "HTTP 500: "),
    ],
)
def test_error_bodies(body: bytes, message: str) -> None:
    error = response_error(500, body, {})
    assert (error.message, error.status, error.before_text) == (message, 500, True)


def test_a_long_error_is_shortened() -> None:
    assert len(response_error(500, b"x" * 10_000, {}).message) < 600

"""An answer as the terminal follows it: what is printed, whatever happens to it on its way."""

from __future__ import annotations

import pytest

from cli.chat_answer import MAX_RESENDS, Answer, Frame, Out
from core.model import (
    Accepted,
    Cancel,
    Cancelled,
    Delta,
    Done,
    EndFrame,
    ErrorFrame,
    Failed,
    Interrupted,
    Notice,
    Part,
    Queued,
    Restart,
    Resume,
    Send,
    Snapshot,
)

SEND = Send(message_id="m", conversation_id="c", content="Hello?")
ACCEPTED = Accepted(message_id="m", generation_id="g")


def delta(n: int, text: str, e: int = 0, **more: object) -> Delta:
    return Delta(g="g", e=e, n=n, d=text, **more)  # type: ignore[arg-type]


def end(kind: type[EndFrame], seq: int = 1, finish_reason: str = "stop", message: str | None = None) -> EndFrame:
    return kind(
        generation_id="g",
        epoch=0,
        seq=seq,
        finish_reason=finish_reason,
        usage=None,
        cost=0,
        model="m",
        provider="p",
        message=message,
    )


def error(retryable: bool, wait_ms: int | None = None, message_id: str | None = "m") -> ErrorFrame:
    return ErrorFrame(
        code="busy", message="not now", retryable=retryable, message_id=message_id, retry_after_ms=wait_ms
    )


def begun() -> Answer:
    answer = Answer(SEND)
    assert answer.connected() == (SEND,)
    answer.take(ACCEPTED)
    return answer


def printed(answer: Answer, *frames: Frame) -> str:
    return "".join(answer.take(frame).text for frame in frames)


def test_deltas_are_printed_as_they_come() -> None:
    answer = begun()
    assert [answer.take(delta(n, text)).text for n, text in enumerate(("Hel", "lo", "."))] == ["Hel", "lo", "."]
    assert answer.take(end(Done)) == Out()
    assert answer.outcome == "done"


def test_what_was_seen_is_not_printed_again() -> None:
    answer = begun()
    assert printed(answer, delta(0, "a"), delta(3, "bcd"), delta(0, "a"), delta(3, "bcd"), delta(4, "e")) == "abcde"


def test_frames_of_others_are_not_ours() -> None:
    answer = begun()
    assert answer.take(Delta(g="other", e=0, n=0, d="x")) == Out()
    assert answer.take(Accepted(message_id="other", generation_id="h")) == Out()
    assert answer.take(Restart(generation_id="other", epoch=5, reason="")) == Out()
    assert answer.generation_id == "g"


def test_before_it_was_accepted_a_new_connection_sends_again() -> None:
    answer = Answer(SEND)
    assert answer.connected() == (SEND,)
    assert answer.connected() == (SEND,)


def test_afterwards_it_resumes_where_it_was() -> None:
    answer = begun()
    printed(answer, delta(7, "so far", e=2))
    assert answer.connected() == (Resume(generation_id="g", epoch=2, seq=7),)


def test_a_snapshot_that_goes_on_prints_only_the_rest() -> None:
    answer = begun()
    printed(answer, delta(0, "Hel"))
    pieces = [
        Snapshot(generation_id="g", epoch=0, seq=9, at=0, parts=[Part(i=0, k="text", d="Hello, ")], more=True),
        Snapshot(generation_id="g", epoch=0, seq=9, at=7, parts=[Part(i=0, k="text", d="world")], more=False),
    ]
    assert [answer.take(piece) for piece in pieces] == [Out(), Out(text="lo, world")]
    assert answer.connected() == (Resume(generation_id="g", epoch=0, seq=9),)
    assert printed(answer, delta(9, "world"), delta(10, "!")) == "!"


def test_a_new_epoch_begins_again_and_says_so() -> None:
    answer = begun()
    printed(answer, delta(0, "Once upon"))
    assert answer.take(Restart(generation_id="g", epoch=1, reason="provider")) == Out()
    out = answer.take(delta(0, "A long", e=1))
    assert out.text == "A long"
    assert "begins again" in out.remark
    assert answer.take(delta(1, "late", e=0)) == Out()
    assert answer.take(delta(1, " time", e=1)) == Out(text=" time")


def test_a_new_epoch_before_any_text_is_not_remarked() -> None:
    answer = begun()
    assert printed(answer, Restart(generation_id="g", epoch=1, reason="")) == ""
    assert answer.take(delta(0, "A", e=1)) == Out(text="A")


def test_only_text_is_printed_in_the_order_of_its_parts() -> None:
    answer = begun()
    assert printed(answer, delta(0, "thinking", k="reasoning"), delta(1, "Yes.")) == "Yes."


@pytest.mark.parametrize(
    ("frame", "outcome", "remark"),
    [
        (end(Done, finish_reason="length"), "done", "cut at its longest"),
        (end(Cancelled), "cancelled", "stopped"),
        (end(Interrupted, message="the provider went away"), "interrupted", "interrupted: the provider went away"),
        (end(Failed, message="no provider"), "failed", "no answer: no provider"),
    ],
)
def test_the_four_ends(frame: EndFrame, outcome: str, remark: str) -> None:
    answer = begun()
    assert answer.take(frame) == Out(remark=remark)  # type: ignore[arg-type]
    assert answer.outcome == outcome
    assert answer.ended


def test_cancelling_is_told_again_on_every_connection() -> None:
    answer = begun()
    cancel = Cancel(generation_id="g")
    assert answer.cancel() == (cancel,)
    assert answer.connected() == (Resume(generation_id="g", epoch=0, seq=-1), cancel)


def test_cancelling_before_it_was_accepted_waits_for_the_generation() -> None:
    answer = Answer(SEND)
    assert answer.cancel() == ()
    assert answer.take(ACCEPTED).frames == (Cancel(generation_id="g"),)


def test_a_retryable_refusal_is_sent_again_after_its_delay_and_not_for_ever() -> None:
    answer = Answer(SEND)
    out = answer.take(error(True, 250))
    assert (out.frames, out.again_ms) == ((SEND,), 250)
    assert "not now" in out.remark
    for _ in range(MAX_RESENDS - 1):
        assert not answer.ended
        assert answer.take(error(True)).again_ms == 1000
    assert answer.take(error(True)).frames == ()
    assert answer.outcome == "refused"


def test_a_refusal_ends_it() -> None:
    answer = Answer(SEND)
    assert answer.take(error(False)) == Out(remark="not now")
    assert answer.outcome == "refused"


def test_remarks() -> None:
    answer = begun()
    assert "place 3" in answer.take(Queued(generation_id="g", position=3, eta_s=2.0)).remark
    assert answer.take(Notice(code="degraded", message="slow today")).remark == "slow today"
    assert answer.take(error(True, message_id=None)).remark == "not now"
    assert not answer.ended

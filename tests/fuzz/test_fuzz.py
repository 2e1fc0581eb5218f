"""A short run of the fuzzer; the long ones are by hand: `python -m tests.fuzz`, results in docs/websocket.md."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from ext import ws_frames
from tests.fuzz import runs
from tests.fuzz.mutations import generator, mutate

SEED = 4


@pytest.mark.parametrize(
    ("target", "count"),
    [("frames", 1500), ("handshake", 2500), ("proxy", 500), ("session", 800), ("listener", 300), ("gateway", 200)],
)
def test_nothing_is_found(target: str, count: int) -> None:
    done, findings = runs.run(target, SEED, 0, count)
    assert "\n".join(map(str, findings)) == ""
    assert done == count


def test_a_planted_fault_is_found_and_found_again_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Forgetful(ws_frames.FrameParser):
        """Loses messages of five characters."""

        def feed(self, data: bytes) -> list[Any]:
            return [event for event in super().feed(data) if len(str(event[1])) != 5]

    monkeypatch.setattr(ws_frames, "FrameParser", Forgetful)
    _, findings = runs.run("frames", SEED, 0, 500)
    assert findings
    first = findings[0]
    assert f"execution {first.number}" in str(first)
    assert [again.what for again in runs.run("frames", SEED, first.number, 1)[1]] == [first.what]


def test_what_is_logged_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(runs.TARGETS, "frames", lambda rng: logging.getLogger("ext.ws").warning("so so"))
    _, findings = runs.run("frames", SEED, 0, 1)
    assert [finding.what for finding in findings] == ["logged: so so"]


def test_an_execution_is_the_same_every_time_and_no_other() -> None:
    made = [mutate(generator(SEED, "frames", number), b"x" * 300, [b"word"]) for number in (7, 7, 8)]
    assert made[0] == made[1] != made[2]

"""What `parley reconcile` shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cli.main import main
from cli.reconcile import SHOWN, summary
from core.books import Cut, Problem, Report
from core.model import TurnKey

KEY = TurnKey("c", "t")


def report(**changes: Any) -> Report:
    values: dict[str, Any] = {
        "turns": 2,
        "attempts": 3,
        "users_by_ledger": 1_000_000_007,
        "users_by_history": 1_000_000_007,
        "users_unstored": 0,
        "platform": 5,
        "problems": (),
        "cut": (),
        "pending": (),
        "running": (),
        "unstored": 0,
        "unnamed": 0,
    }
    return Report(**(values | changes))


def test_balanced_books() -> None:
    said = summary(report()).splitlines()
    assert said[0] == "2 turns, 3 attempts"
    assert said[1] == "users pay      $1.000000007 by the ledger, $1.000000007 by history"
    assert "$0.000000005" in said[3]
    assert said[-1] == "balanced"


def test_what_is_open_and_what_is_wrong() -> None:
    problems = tuple(Problem(finding="missing", attempt=f"a{n}", key=KEY, detail="lost") for n in range(SHOWN + 1))
    cut = Cut(attempt="b", key=KEY, outcome="lost", charged_to="platform", counted=None, bound=7, cost=0)
    said = summary(report(problems=problems, cut=(cut,), running=(KEY,), unnamed=4)).splitlines()
    assert "on its way: 1 running, 0 ended and not yet recorded" in said
    assert "cut short: 1 attempts, 0 tokens counted, at most 7" in said
    assert "lines of the log that name no attempt: 4" in said
    assert "missing: a0: lost" in said
    assert said[-2:] == ["and 1 more: --json shows all", f"NOT BALANCED: {SHOWN + 1} problems"]


@pytest.mark.parametrize("words", [["--since", "yesterday"], ["--hours", "1", "--since", "2026-03-01T00:00Z"]])
def test_a_window_that_is_none_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["reconcile", *words])
    assert "--since" in capsys.readouterr().err


@pytest.mark.parametrize("content", [None, "{", '{"attempt": 1}'])
def test_a_log_that_cannot_be_read_is_named(
    tmp_path: Path, content: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "calls.jsonl"
    if content is not None:
        log.write_text(content)
    assert main(["reconcile", "--log", str(log)]) == 1
    assert str(log) in capsys.readouterr().err

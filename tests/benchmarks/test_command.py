"""`parley bench run` from the command line to the pages."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks import command, machine, results
from benchmarks.harness import Lent, Outcome, run_scenario
from benchmarks.scenario import Scenario
from cli.main import main
from tests.support.figures import IDLE, MACHINE, TURNS, made


@pytest.fixture
def committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree of its own with two scenarios, whose results hold one of them."""
    monkeypatch.setattr(command, "COMMITTED", tmp_path / "docs" / "results.jsonl")
    monkeypatch.setattr(command, "SCRATCH", tmp_path / "scratch" / "results.jsonl")
    monkeypatch.setattr(command, "README", tmp_path / "README.md")
    monkeypatch.setattr(command, "all_scenarios", lambda: {"idle": IDLE, "turns": TURNS})
    monkeypatch.setattr(machine, "describe", lambda folder: MACHINE)
    command.README.write_text(
        "# Parley\n\n<!-- figures: written by `parley bench report` -->\n<!-- end of the figures -->\n"
    )
    command.COMMITTED.parent.mkdir()
    made(tmp_path, IDLE).write(command.COMMITTED)
    return command.COMMITTED


def _run(*words: str) -> int:
    return main(["bench", "run", *words])


def _quick(scenario: Scenario[Any], bench: Lent, *, peers: bool, rounds: int | None, tell: Any) -> Outcome:
    """Nothing to wait for between these measurements."""
    bench.settles = False
    return run_scenario(scenario, bench, peers=peers, rounds=rounds or 1)


@pytest.mark.parametrize(
    "words",
    [[], ["all"], ["all", "--rounds", "1", "--peers"], ["all", "--tiny", "--peers"], ["turns", "--peers"]],
    ids=" ".join,
)
def test_only_a_complete_run_replaces_what_is_committed(
    words: Sequence[str], committed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "run_scenario", _quick)
    before, readme = committed.read_bytes(), command.README.read_bytes()
    assert _run(*words) == 1, "a contestant tells of something wrong"
    assert (committed.read_bytes(), command.README.read_bytes()) == (before, readme)
    assert "turns" in results.read(command.SCRATCH).sections
    assert _run("all", "--peers") == 1
    assert list(results.read(committed).sections) == ["idle", "turns"]
    assert "frames out" in command.README.read_text()
    assert sorted(path.name for path in committed.parent.iterdir()) == ["report.html", "report.md", "results.jsonl"]


def _interrupt() -> None:
    raise KeyboardInterrupt


def _terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("end", [_interrupt, _terminate])
def test_what_is_interrupted_leaves_results_as_they_were(
    end: Callable[[], None],
    committed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def ended(scenario: Scenario[Any], bench: Lent, **how: Any) -> Outcome:
        if scenario is TURNS:
            end()
        return _quick(scenario, bench, **how)

    monkeypatch.setattr(command, "run_scenario", ended)
    before, handler, files = committed.read_bytes(), signal.getsignal(signal.SIGTERM), tmp_path / "files"
    files.mkdir()
    assert _run("all", "--peers", "--folder", str(files)) == 130
    assert committed.read_bytes() == before
    assert list(results.read(committed.with_name("results.jsonl.part")).sections) == ["idle"]
    assert "results.jsonl.part" in capsys.readouterr().err
    assert list(files.iterdir()) == [], "temporary files are gone"
    assert signal.getsignal(signal.SIGTERM) is handler


def test_what_cannot_be_read_or_written_is_told_in_a_sentence(
    committed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = committed.read_bytes().splitlines(keepends=True)
    wrong = {
        "garbage": [b"\x00what?\n"],
        "early": [lines[0], lines[2], lines[1]],
        "nowhere": lines[1:],
        "nothing": [],
    }
    for name, content in wrong.items():
        path = tmp_path / name
        path.write_bytes(b"".join(content))
        assert main(["bench", "report", "--results", str(path)]) == 2
        if content:
            assert _run("turns", "--keep", "--results", str(path)) == 2
            assert path.read_bytes() == b"".join(content)
    assert _run("turns", "--folder", str(tmp_path / "no")) == 2
    assert main(["bench", "report", "--results", str(tmp_path)]) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 9
    assert all(line.startswith("parley bench: ") for line in told)
    for rounds in ("0", "-1", "x"):
        with pytest.raises(SystemExit):
            _run("turns", "--rounds", rounds)
    assert "number of 1 or more" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_prints_and_writes_results_and_pages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "results.jsonl"
    assert main(["bench", "run", "kernels", "--tiny", "--results", str(path)]) == 0
    kinds = [json.loads(line)["kind"] for line in capsys.readouterr().out.splitlines()]
    assert kinds[:2] == ["run", "scenario"]
    assert set(kinds[2:]) == {"value", "aggregate"}
    assert list(results.read(path).sections) == ["kernels"]
    assert "Tiny runs" in (tmp_path / "report.md").read_text()
    assert "<svg" not in (tmp_path / "report.html").read_text(), "kernels have no charts"


def test_committed_results_keep_what_is_not_measured_again(
    committed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "run_scenario", _quick)
    assert main(["bench", "run", "turns", "--keep", "--rounds", "1"]) == 1
    found = results.read(committed)
    assert list(found.sections) == ["idle", "turns"]
    assert len(found.used) == 2
    assert "frames out" in command.README.read_text()
    assert "Not all of this was measured in one run" in (tmp_path / "docs" / "report.md").read_text()

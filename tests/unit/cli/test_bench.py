"""`parley bench` where there are benchmarks, and where there are none."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli import bench
from cli.main import main


def test_scenarios_are_listed_with_their_questions(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "list"]) == 0
    said = capsys.readouterr().out
    assert "kernels" in said
    assert "plain Python?" in said


def test_without_a_source_tree_it_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "ROOT", tmp_path)
    assert main(["bench", "run", "kernels", "--tiny"]) == 1
    said = capsys.readouterr().err
    assert "need a source tree" in said
    assert "make setup" in said


def test_a_wrong_name_is_told_with_the_right_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "run", "colonels"]) == 2
    said = capsys.readouterr().err
    assert "'colonels'" in said
    assert "kernels" in said


def test_tiny_runs_stay_out_of_the_committed_results(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "run", "kernels", "--tiny", "--keep"]) == 2
    assert "--keep" in capsys.readouterr().err

"""`parley bench run` from the command line to the pages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import command, results
from cli.main import main
from tests.support.figures import IDLE, made


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


@pytest.mark.slow
def test_committed_results_keep_what_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "COMMITTED", tmp_path / "docs" / "results.jsonl")
    monkeypatch.setattr(command, "README", tmp_path / "README.md")
    command.README.write_text(
        "# Parley\n\n<!-- figures: written by `parley bench report` -->\n<!-- end of the figures -->\n"
    )
    command.COMMITTED.parent.mkdir()
    made(tmp_path, IDLE).write(command.COMMITTED)
    assert main(["bench", "run", "kernels", "--keep", "--rounds", "1"]) == 0
    found = results.read(command.COMMITTED)
    assert list(found.sections) == ["idle", "kernels"]
    assert len(found.used) == 2
    assert "frames out" in command.README.read_text()
    assert "Not all of this was measured in one run" in (tmp_path / "docs" / "report.md").read_text()

"""The command line itself."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cli.main import COMMANDS, main, parser_for


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        parser_for(command).parse_args([command, "--help"])
    assert left.value.code == 0
    assert f"parley {command}" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--version"])
    assert left.value.code == 0
    assert capsys.readouterr().out.startswith("parley ")


def test_one_command_imports_nothing_of_the_others() -> None:
    parser_for("status")
    assert "cli.status" in sys.modules
    assert "xllamacpp" not in sys.modules


def test_a_wrong_setting_is_told_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = tmp_path / "parley.toml"
    wrong.write_text("zone = [1]")
    assert main(["migrate", "--config", str(wrong)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("parley: ")
    assert str(wrong) in said


def test_a_database_that_is_away_is_told_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    away = tmp_path / "parley.toml"
    away.write_text('[postgres]\ndsn = "postgresql://parley@127.0.0.1:1/parley"')
    assert main(["admin", "user", "add", "a@example.org", "--config", str(away)]) == 1
    said = capsys.readouterr().err
    assert "PostgreSQL" in said
    assert "Traceback" not in said

"""Logs: bounded, read from their end, followed through rotations."""

from __future__ import annotations

import os
from pathlib import Path

from cli.logfiles import Follower, last_lines, rotate


def test_rotation_keeps_the_old_and_the_writer_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "part.log"
    writer = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(writer, b"old\n" * 100)
        assert not rotate(log, max_bytes=400)
        assert rotate(log, max_bytes=399)
        os.write(writer, b"new\n")
    finally:
        os.close(writer)
    assert log.read_bytes() == b"new\n"
    assert (tmp_path / "part.log.1").read_bytes() == b"old\n" * 100
    assert not rotate(tmp_path / "none.log", max_bytes=1)


def test_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "part.log"
    assert last_lines(log, 3) == []
    log.write_bytes(b"".join(b"line %d\n" % i for i in range(20_000)) + b"\xff\n")
    assert last_lines(log, 3) == ["line 19998", "line 19999", "�"]


def test_following_gives_whole_lines_through_a_rotation(tmp_path: Path) -> None:
    log = tmp_path / "part.log"
    log.write_text("before\n")
    follower = Follower(log)
    assert follower.read() == []
    with log.open("a") as file:
        file.write("one\ntw")
    assert follower.read() == ["one"]
    with log.open("a") as file:
        file.write("o\n")
    assert follower.read() == ["two"]
    rotate(log, max_bytes=0)
    assert follower.read() == []
    log.write_text("three\n")
    assert follower.read() == ["three"]
    log.unlink()
    assert follower.read() == []

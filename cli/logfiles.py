"""The logs of the parts: one file each, bounded by rotation, read from its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

MAX_BYTES = 8 * 1024 * 1024
CHECK_EVERY_S = 2.0
TAIL_BYTES = 64 * 1024


def rotate(log: Path, max_bytes: int = MAX_BYTES) -> bool:
    """Keeps a log that has outgrown `max_bytes` as `NAME.log.1` and empties it; True where it was rotated.

    Its writer appends, so it goes on at the new beginning; what it writes during the copy may be lost.
    """
    try:
        if log.stat().st_size <= max_bytes:
            return False
        shutil.copyfile(log, log.with_name(log.name + ".1"))
        os.truncate(log, 0)
    except FileNotFoundError:
        return False
    return True


async def keep_bounded(logs: Iterable[Path], max_bytes: int = MAX_BYTES) -> None:
    """Rotates these logs for as long as it runs. A full disk does not end it."""
    paths = tuple(logs)
    while True:
        for path in paths:
            with contextlib.suppress(OSError):
                rotate(path, max_bytes)
        await asyncio.sleep(CHECK_EVERY_S)


def last_lines(log: Path, count: int) -> list[str]:
    """The newest lines of a log, oldest first; none where there is no log. Reads at most 64 KiB."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL_BYTES))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return []
    return lines[-count:] if count else []


class Follower:
    """Reads what is added to a log, through its rotations. A line is given when it is complete."""

    def __init__(self, log: Path, from_start: bool = False) -> None:
        self._log = log
        self._at = 0 if from_start or not log.exists() else log.stat().st_size
        self._rest = b""

    def read(self) -> list[str]:
        try:
            with self._log.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                if size < self._at:
                    self._at, self._rest = 0, b""
                file.seek(self._at)
                added = file.read(size - self._at)
        except FileNotFoundError:
            return []
        self._at += len(added)
        *lines, self._rest = (self._rest + added).split(b"\n")
        return [line.decode("utf-8", "replace") for line in lines]

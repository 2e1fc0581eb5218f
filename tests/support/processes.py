"""Processes seen from outside: whole trees, and whether anything of them is left."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

import psutil


def tree(pid: int) -> list[psutil.Process]:
    """A process and all its descendants, as they are now."""
    try:
        top = psutil.Process(pid)
        return [top, *top.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def alive(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Those that still run; one that nobody has reaped yet does not."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def naming(text: str) -> list[psutil.Process]:
    """Processes whose command line or environment holds `text`."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if any(text in word for word in (*process.cmdline(), *process.environ().values())):
                found.append(process)
    return [process for process in alive(found) if process.pid != psutil.Process().pid]

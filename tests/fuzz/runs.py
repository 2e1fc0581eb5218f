"""Runs of a seed: so many executions of each target, nothing logged above debug, all that goes wrong as findings."""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
from collections.abc import Callable
from random import Random
from typing import NamedTuple

import uvloop

from tests.fuzz import gateway, listener, parsers, session
from tests.fuzz.mutations import generator

TARGETS: dict[str, Callable[[Random], None]] = {
    "frames": parsers.frames,
    "handshake": parsers.handshake,
    "proxy": parsers.proxy,
    "session": session.session,
}
LISTENER = "listener"
GATEWAY = "gateway"
AT_ONCE = 16
MOST_FINDINGS = 20


class Finding(NamedTuple):
    target: str
    seed: int
    number: int
    what: str

    def __str__(self) -> str:
        return f"{self.target}, seed {self.seed}, execution {self.number}: {self.what}"


class _Records(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(self.format(record))


def run(target: str, seed: int, first: int, count: int, until: float = float("inf")) -> tuple[int, list[Finding]]:
    """Executions `first`, `first` + 1, …, at most `count`, none begun after `until` (time.monotonic). How many were
    made, and what they found.
    """
    records = _Records()
    root = logging.getLogger()
    level = root.level
    root.addHandler(records)
    root.setLevel(logging.INFO)
    try:
        if target in (LISTENER, GATEWAY):
            done, findings = uvloop.run(_served(target, seed, first, count, until))
        else:
            done, findings = _direct(target, seed, first, count, until)
    finally:
        root.removeHandler(records)
        root.setLevel(level)
    findings += [Finding(target, seed, first, f"logged: {said}") for said in records.said[:MOST_FINDINGS]]
    return done, findings


def _direct(target: str, seed: int, first: int, count: int, until: float) -> tuple[int, list[Finding]]:
    findings: list[Finding] = []
    for number in range(first, first + count):
        if time.monotonic() >= until or len(findings) >= MOST_FINDINGS:
            return number - first, findings
        try:
            TARGETS[target](generator(seed, target, number))
        except Exception:
            findings.append(Finding(target, seed, number, traceback.format_exc()))
    return count, findings


async def _served(target: str, seed: int, first: int, count: int, until: float) -> tuple[int, list[Finding]]:
    findings: list[Finding] = []
    numbers = iter(range(first, first + count))
    done = 0
    site = listener.Site() if target == LISTENER else gateway.Site()
    await site.start()

    async def lane() -> None:
        nonlocal done
        for number in numbers:
            try:
                await site.talk(generator(seed, target, number))
            except Exception:
                findings.append(Finding(target, seed, number, traceback.format_exc()))
            done += 1
            if time.monotonic() >= until or len(findings) >= MOST_FINDINGS:
                return

    await asyncio.gather(*(lane() for _ in range(AT_ONCE)))
    left = await site.stop()
    if left:
        findings.append(Finding(target, seed, first, f"{left} connections did not end"))
    return done, findings

"""Connections come and go in every way that they can end: what the gateway holds afterwards is what it held before."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.native.engine import Engine
from benchmarks.native.upgrade import ACCEPT, upgrade
from tests.support.endings import LOOPBACK, Crowd, ways
from tests.support.polling import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

MIB = 1024 * 1024
EACH = 150
# Until all of their lists, dicts and pools have the size that a crowd needs.
WARM_UP = 2
# What may differ, however many come: caches of the interpreter and the loop, and how memory is cut up.
SLACK_OBJECTS = 20
SLACK_BLOCKS = 60
# The last turn of each listener's wheel, and of its refusals, may be still to come.
TIMERS = frozenset({"uvloop.loop.UVTimer", "uvloop.loop.TimerHandle", "_contextvars.Context"})
SLACK_TIMERS = 8
RSS_BYTES = 6 * MIB
ROOT = Path(__file__).parents[2]


class Gateway:
    """The child process of tests/support/leaking.py."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._heard: dict[str, Any] = {}
        with log.open("wb") as said:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.leaking"],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
            )
        self.told = self._hear()

    def tell(self, command: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(command.encode() + b"\n")
        self._process.stdin.flush()

    def hear(self, command: str) -> Any:
        """The answer to this one, though others may have come before."""
        while command not in self._heard:
            self._heard |= self._hear()
        return self._heard.pop(command)

    def _hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the gateway is gone: {self.said}"
        return dict(json.loads(line))

    def ask(self, command: str) -> Any:
        self.tell(command)
        return self.hear(command)

    @property
    def said(self) -> str:
        return self._log.read_text()

    def left(self) -> bool:
        return not any(self.ask("held").values())

    def weighed(self) -> dict[str, Any]:
        """What it holds once nobody is there."""
        until(self.left, 20, "nobody is left")
        weight: dict[str, Any] = self.ask("weigh")
        return weight

    def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        finally:
            self._process.kill()
            self._process.wait()


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    made = Gateway(tmp_path / "said")
    yield made
    made.stop()


def test_whoever_comes_and_goes_leaves_nothing(
    gateway: Gateway, pytestconfig: pytest.Config, record_property: Callable[[str, object], None]
) -> None:
    expected, seen = ways(gateway.told["short"], gateway.told["long"]), Counter[tuple[str, int, int]]()

    def crowd() -> int:
        ends = Crowd(gateway.told, EACH, gateway.ask).end()
        seen.update((name, *end) for name, found in ends.items() for end in found)
        return EACH * len(ends)

    for _ in range(WARM_UP):
        crowd()
        gateway.weighed()  # that leaves something in caches too, the first time
    before, gone, wanted = gateway.weighed(), 0, pytestconfig.getoption("leak")
    while gone < wanted:
        gone += crowd()
    after = gateway.weighed()
    grown = {name: count for name, count in (Counter(after["types"]) - Counter(before["types"])).items() if count}
    record_property("gone", gone)
    record_property("objects", str(grown))
    for what in ("blocks", "rss", "files", "tasks"):
        record_property(what, f"{before[what]} before, {after[what]} after")
    assert {name for name in grown if not name.startswith("builtins.")} <= TIMERS, grown
    assert all(grown.get(name, 0) <= SLACK_TIMERS for name in TIMERS), grown
    assert sum(grown.values()) < SLACK_OBJECTS + len(TIMERS) * SLACK_TIMERS, grown
    assert after["blocks"] - before["blocks"] < SLACK_BLOCKS
    assert (after["files"], after["tasks"]) == (before["files"], before["tasks"])
    assert after["rss"] - before["rss"] < RSS_BYTES
    assert seen.keys() == {(name, *end) for name, way in expected.items() for end in way.ends}
    assert gateway.said == ""


def test_a_drain_leaves_nobody(gateway: Gateway) -> None:
    """Some stay to the end, some leave meanwhile; some are still being looked up when it begins: they are let in, or
    leave before they are, or have too many connections already.
    """
    engine, target = Engine(5 * EACH), [(LOOPBACK, gateway.told["ports"]["gateway"])]

    def prepared(name: str, share: int = 1) -> range:
        requests = [upgrade(token=f"{name}-{number // share}") for number in range(EACH)]
        return engine.prepare(target, requests, accept=ACCEPT, timeout_s=20.0)

    stays, leaves = prepared("stays"), prepared("leaves")
    late, lost, crowd = prepared("slowlate"), prepared("slowlost"), prepared("slowcrowd", share=EACH)
    engine.open([*stays, *leaves])
    assert engine.run(20)
    engine.open([*late, *lost, *crowd])

    def held(what: str, count: int) -> bool:
        engine.run(0.02, until="time")
        return bool(gateway.ask("held")[what] == count)

    until(lambda: held("authorising", 3 * EACH), 20, "they are being looked up")
    gateway.tell("drain")
    engine.end(leaves, "fin")
    engine.end(lost, "rst")
    gateway.ask("let in")
    until(lambda: held("connections", 0), 20, "all are gone")
    engine.run(0.1, until="time")
    codes = {name: {engine.connection(n)["code"] for n in of} for name, of in (("stays", stays), ("late", late))}
    types = engine.statistics()["types"]
    engine.close()
    assert set(gateway.hear("drain").values()) == {0}
    assert codes == {"stays": {1001}, "late": {1001}}
    assert types.get("drain", 0) >= 2 * EACH
    assert gateway.said == ""

"""Who watches an answer, and when they are told."""

from __future__ import annotations

import asyncio
import logging

import pytest

from core.clock import SystemClock
from core.model import Notice, Queued
from gateway.dispatch import Supervisor
from gateway.hub import Answer
from gateway.live import LONG_ROUND_S, Live, Telling
from tests.support.clock import ManualClock
from tests.support.polling import eventually
from tests.support.turns import new_id, new_turn


class Watcher:
    """Takes `takes_s` of `clock` for each frame that it is told."""

    def __init__(self, fails: bool = False, clock: ManualClock | None = None, takes_s: float = 0.0) -> None:
        self.told: list[Answer] = []
        self._fails = fails
        self._clock = clock
        self._takes_s = takes_s

    def changed(self, answer: Answer) -> None:
        self.told.append(answer)
        if self._clock is not None:
            self._clock.advance(self._takes_s)
        if self._fails:
            raise RuntimeError("a viewer's mistake")

    def queued(self, frame: Queued) -> None:
        raise NotImplementedError

    def notice(self, frame: Notice) -> None:
        raise NotImplementedError


def live(*viewers: Watcher) -> Live:
    made = Live("u", Supervisor("gen", new_turn(new_id()).key, "gw-1", lambda: "run", 30.0), Answer("gen"))
    made.viewers.update(dict.fromkeys(viewers))
    return made


async def turn_of_the_loop() -> None:
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def test_viewers_are_told_once_for_each_turn_of_the_loop() -> None:
    first, second, telling = Watcher(), Watcher(), Telling(SystemClock())
    one, other = live(first, second), live(second)
    for changed in (one, other, one, one):
        telling.soon([changed])
    assert first.told == []
    await turn_of_the_loop()
    assert first.told == [one.answer]
    assert second.told == [one.answer, other.answer]
    telling.soon([other])
    await turn_of_the_loop()
    assert second.told == [one.answer, other.answer, other.answer]
    assert first.told == [one.answer]


async def test_a_viewer_that_fails_keeps_no_other_answer_from_its_own(caplog: pytest.LogCaptureFixture) -> None:
    fine, telling = Watcher(), Telling(SystemClock())
    with caplog.at_level(logging.ERROR):
        telling.soon([live(Watcher(fails=True))])
        telling.soon([live(fine)])
        await turn_of_the_loop()
    assert len(fine.told) == 1
    assert "the viewers of gen could not be told" in caplog.text


async def test_a_long_round_is_followed_by_a_rest_in_which_changes_gather() -> None:
    clock = ManualClock()
    watcher, telling = Watcher(clock=clock, takes_s=10 * LONG_ROUND_S), Telling(clock)
    one, other = live(watcher), live(watcher)
    telling.soon([one])
    await turn_of_the_loop()
    assert len(watcher.told) == 1
    asked = asyncio.get_running_loop().time()
    for changed in (one, other, one):
        telling.soon([changed])
        await turn_of_the_loop()
    assert len(watcher.told) == 1
    await eventually(lambda: len(watcher.told) == 3)
    # A loop's clock has a grain of a millisecond.
    assert asyncio.get_running_loop().time() - asked >= 5 * LONG_ROUND_S - 0.001
    assert watcher.told == [one.answer, one.answer, other.answer]


async def test_short_rounds_are_followed_by_no_rest() -> None:
    clock = ManualClock()
    watcher, telling = Watcher(clock=clock, takes_s=LONG_ROUND_S / 2), Telling(clock)
    changed = live(watcher)
    for told in range(1, 4):
        telling.soon([changed])
        await turn_of_the_loop()
        assert len(watcher.told) == told

"""Who watches an answer, and when they are told."""

from __future__ import annotations

import asyncio
import logging

import pytest

from core.model import Notice, Queued
from gateway.dispatch import Supervisor
from gateway.hub import Answer
from gateway.live import Live, Telling
from tests.support.turns import new_id, new_turn


class Watcher:
    def __init__(self, fails: bool = False) -> None:
        self.told: list[Answer] = []
        self._fails = fails

    def changed(self, answer: Answer) -> None:
        self.told.append(answer)
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
    first, second, telling = Watcher(), Watcher(), Telling()
    one, other = live(first, second), live(second)
    for changed in (one, other, one, one):
        telling.soon(changed)
    assert first.told == []
    await turn_of_the_loop()
    assert first.told == [one.answer]
    assert second.told == [one.answer, other.answer]
    telling.soon(other)
    await turn_of_the_loop()
    assert second.told == [one.answer, other.answer, other.answer]
    assert first.told == [one.answer]


async def test_a_viewer_that_fails_keeps_no_other_answer_from_its_own(caplog: pytest.LogCaptureFixture) -> None:
    fine, telling = Watcher(), Telling()
    with caplog.at_level(logging.ERROR):
        telling.soon(live(Watcher(fails=True)))
        telling.soon(live(fine))
        await turn_of_the_loop()
    assert len(fine.told) == 1
    assert "the viewers of gen could not be told" in caplog.text

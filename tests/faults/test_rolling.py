"""All gateways are restarted, one after the other, under a load of turns: nobody loses anything or sees an error."""

from __future__ import annotations

import asyncio
import signal
import time

import pytest

from tests.mockllm.control import MockControl
from tests.support.books import balanced
from tests.support.load import Load
from tests.support.obedient import Obedient
from tests.support.stack import GATEWAYS, Stack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

PEOPLE = 16
SCRIPT = '[[mock {"chunks": 40, "delay_ms": 40}]]'


async def test_a_rolling_restart_loses_nothing_and_shows_no_error(stack: Stack, mock: MockControl) -> None:
    since = time.time()
    async with Load(stack, PEOPLE, SCRIPT, Obedient) as load:
        await load.more(4)
        for gateway in GATEWAYS:
            began = time.monotonic()
            old = await asyncio.to_thread(stack.kill, gateway, signal.SIGTERM)
            await asyncio.to_thread(stack.wait_replaced, gateway, old)
            assert time.monotonic() - began < 15.0, "the drain, the start"
            await load.more(4)
        await load.stop()
        await load.check([call for call in await mock.calls() if call.opened >= since])
    people = [person for person in load.people if isinstance(person, Obedient)]
    assert [turn.refused for turn in load.turns if turn.refused] == []
    assert [turn for turn in load.turns if turn.answer.count("restart")] == [], "no run was given up"
    assert sum(person.moves - 1 for person in people) >= PEOPLE, "each was moved at least once on average"
    assert sum(turn.answer.count("resumed") for turn in load.turns) > 0, "some were moved in the middle of an answer"
    report = await balanced(stack, mock, since)
    assert report["users_by_ledger"] == report["users_by_history"] > 0
    assert (report["platform"], report["cut"]) == (0, [])

"""A gateway is killed, and all of its clients come to another one at once: how soon they are back, what is lost."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks import credentials
from benchmarks.dialogue import Dialogue, Script, broken, dialogue, open_all
from benchmarks.native.upgrade import ACCEPT
from benchmarks.target import Target
from tests.mockllm.control import MockControl
from tests.support.books import balanced
from tests.support.own import OwnGateway
from tests.support.stack import Stack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]

IDLE = 1_200
WATCHING = 40
EARLIER = 20
CLIENTS = IDLE + WATCHING
RATE, AT_ONCE = 300.0, 10
LEAST_S = CLIENTS / RATE
LATE_S = 4.0
SHOWN = 5
SCRIPT = Script(deltas=90, delay_ms=90.0)
PING = b'{"type":"ping","t":1000000000000000000}'
PINGS_PER_S = 20.0


@pytest.fixture
def gateways(stack: Stack, tmp_path: Path) -> Iterator[tuple[OwnGateway, OwnGateway]]:
    """One that lets in whoever comes, and one that admits few a second."""
    dies = OwnGateway(stack, tmp_path, name="dies", handshakes_per_s=0)
    lives = OwnGateway(stack, tmp_path, name="lives", handshakes_per_s=RATE, handshakes_at_once=AT_ONCE)
    try:
        dies.start()
        lives.start()
        yield dies, lives
    finally:
        dies.kill()
        lives.kill()


def connected(talk: Dialogue, gateway: OwnGateway, count: int) -> range:
    """So many people who only listen."""
    tokens = credentials.tokens(talk.target.config, count)
    requests = credentials.bearers(gateway.ws_port, tokens)
    numbers = talk.engine.prepare([("127.0.0.1", gateway.ws_port)], requests, accept=ACCEPT)
    open_all(talk.engine, numbers)
    return numbers


def asked(talk: Dialogue) -> int:
    """Each watches an answer of its own, whose text has begun; the seed of the first."""
    frames, first = talk.prepare(WATCHING, SCRIPT)
    talk.engine.turns(frames, talk.numbers, timeout_s=60.0)
    until = time.monotonic() + 20.0
    while min(talk.engine.turn(number)["deltas"] for number in range(WATCHING)) < SHOWN:
        assert time.monotonic() < until, "all answers have begun"
        talk.engine.run(0.05, until="time")
    assert {talk.engine.turn(number)["state"] for number in range(WATCHING)} == {"accepted"}, "none is over"
    return first


def back(talk: Dialogue, began: float) -> float:
    """Seconds from `began` until everybody is connected again."""
    while time.monotonic() < began + 4 * LEAST_S + LATE_S:
        talk.engine.run(0.02, until="time")
        counted = talk.engine.statistics()
        if counted["back"] >= CLIENTS and counted["open"] >= CLIENTS + EARLIER:
            return time.monotonic() - began
    raise AssertionError(f"not all are back: {talk.engine.statistics()}")


def test_all_of_a_killed_gateway_come_to_another_at_once(
    stack: Stack, gateways: tuple[OwnGateway, OwnGateway], record_property: Callable[[str, object], None]
) -> None:
    dies, lives = gateways
    since = time.time()
    target = Target(stack.layout, stack.mock.port, 0)
    with dialogue(target, WATCHING, [("127.0.0.1", dies.ws_port)], spare=IDLE + EARLIER) as talk:
        engine = talk.engine
        connected(talk, dies, IDLE)
        earlier = connected(talk, lives, EARLIER)
        first = asked(talk)
        engine.reset()
        engine.retry(attempts=1_000, jitter=0.1)
        engine.come_back([("127.0.0.1", lives.ws_port)], within_ms=100.0)
        engine.send(earlier, PING, rate=PINGS_PER_S, count=int(LEAST_S * PINGS_PER_S), answer=b'{"type":"pong"')
        dies.signal(signal.SIGKILL)
        took_s = back(talk, time.monotonic())
        assert engine.run(SCRIPT.seconds + 30.0), "all answers have ended"

        counted = engine.statistics()
        turns = [engine.turn(number) for number in range(WATCHING)]
        record_property("seconds", f"{took_s:.2f} until all were back, {LEAST_S:.2f} at the least")
        record_property("handshakes_each", round(counted["retries"] / CLIENTS + 1, 2))
        record_property("types", str(counted["types"]))
        assert LEAST_S * 0.8 < took_s < LEAST_S * 1.3 + LATE_S
        assert engine.states(range(CLIENTS + EARLIER)) == {"open": CLIENTS + EARLIER}
        assert counted["back"] == CLIENTS, "who was at the other before has stayed there"
        assert counted["unanswered"] == 0, "and was answered all the while"
        assert counted["retries"] > CLIENTS / 2, "they were too many to be let in at once"
        assert broken(engine, range(WATCHING), first, SCRIPT.deltas) == []
        assert [turn["holes"] for turn in turns] == [0] * WATCHING
        assert counted["types"].get("resumed", 0) + counted["types"].get("snapshot", 0) == WATCHING
    assert "Traceback" not in lives.said
    asyncio.run(settled(stack, since))


async def settled(stack: Stack, since: float) -> None:
    mock = MockControl(stack.mock.url)
    try:
        report = await balanced(stack, mock, since)
    finally:
        await mock.close()
    assert report["users_by_ledger"] == report["users_by_history"] > 0

"""What the connections of a listener share: one buffer for each loop, and a clock that does not judge rashly."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext.ws import Accept, Limits, Refuse, Request
from ext.ws_connection import BufferedConnection
from ext.ws_reference import Meter
from ext.ws_wheel import Timer
from ext.ws_writer import Shared


async def never(request: Request) -> Accept | Refuse:
    raise AssertionError("no connection is made here")


def shared_on(loop: Any) -> Shared:
    return Shared(loop, never, Limits(close_s=0.05), lambda: None)


class Bell(Timer):
    def __init__(self) -> None:
        self.rung = asyncio.Event()

    def fire(self) -> None:
        self.rung.set()


class Broken(Timer):
    def fire(self) -> None:
        raise RuntimeError("broken")


class HandTurned:
    """What `Shared` needs of a loop, with a clock that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0
        self.due: list[Callable[[], None]] = []

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[[], None]) -> object:
        self.due.append(callback)
        return callback

    def turn(self, now: float) -> None:
        self.now = now
        self.due.pop()()


async def test_the_listeners_of_a_loop_read_into_one_buffer() -> None:
    one, two = (BufferedConnection(shared_on(asyncio.get_running_loop()), ("", 0)) for _ in range(2))
    assert one.get_buffer(-1).obj is two.get_buffer(-1).obj
    elsewhere = BufferedConnection(shared_on(HandTurned()), ("", 0))
    assert elsewhere.get_buffer(-1).obj is not one.get_buffer(-1).obj


async def test_deadlines_outlive_one_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    loop = asyncio.get_running_loop()
    shared = shared_on(loop)
    connection = BufferedConnection(shared, ("", 0))
    broken, bell = Broken(), Bell()
    shared.wheel.schedule(broken, loop.time(), 0.02)
    shared.wheel.schedule(bell, loop.time(), 0.1)
    with caplog.at_level(logging.CRITICAL, logger="asyncio"):
        await asyncio.wait_for(bell.rung.wait(), 5)
    connection.connection_lost(None)
    assert shared.connections == 0


RATES = st.sampled_from([0.0, 0.25, 8.0, 4096.0])
SIZES = st.integers(2**17, 2**20)
SPENT = st.tuples(st.integers(0, 65_536), st.integers(0, 200), st.integers(0, 2**12).map(lambda n: n / 256))


@given(RATES, RATES, SIZES, st.integers(1, 2**20), st.lists(SPENT, max_size=60))
def test_the_meter_agrees_with_its_reference(
    byte_rate: float, frame_rate: float, at_once: int, frames_at_once: int, spent: list[tuple[int, int, float]]
) -> None:
    limits = Limits(
        bytes_per_s=byte_rate, bytes_at_once=at_once, frames_per_s=frame_rate, frames_at_once=frames_at_once
    )
    loop = HandTurned()
    meter: Any = BufferedConnection(Shared(cast(Any, loop), never, limits, lambda: None), ("", 0))
    reference = Meter(limits, loop.now)
    now = loop.now
    for size, frames, pause in spent:
        now += pause
        while loop.now < now:
            loop.turn(min(now, loop.now + 1.0))
        assert meter.spend(size, frames, now) == reference.spend(size, frames, now)


@pytest.mark.parametrize("noticed", [True, False], ids=["after the turn", "before the turn"])
def test_a_stall_of_ours_is_not_taken_for_a_burst_of_theirs(noticed: bool) -> None:
    loop = HandTurned()
    limits = Limits(frames_per_s=50.0, frames_at_once=20)
    meter: Any = BufferedConnection(Shared(cast(Any, loop), never, limits, lambda: None), ("", 0))
    assert meter.spend(0, 20, 100.0) == (False, False)
    loop.now = 106.0
    if noticed:
        loop.turn(106.0)
    # Six seconds' worth, in two reads, and no more.
    assert meter.spend(0, 145, 106.0) == (False, False)
    if not noticed:
        loop.turn(106.0)
    assert meter.spend(0, 155, 106.0) == (False, False)
    assert meter.spend(0, 1, 106.0) == (False, True)


def test_what_is_forgiven_after_a_stall_has_an_end() -> None:
    loop = HandTurned()
    limits = Limits(frames_per_s=50.0, frames_at_once=20)
    shared = Shared(cast(Any, loop), never, limits, lambda: None)
    meters: list[Any] = [BufferedConnection(shared, ("", 0)) for _ in range(3)]
    loop.turn(1000.0)
    # Of fifteen minutes half a minute.
    assert meters[0].spend(0, 30 * 50 + 20, 1000.0) == (False, False)
    assert meters[1].spend(0, 30 * 50 + 21, 1000.0) == (False, True)
    for second in range(1, 6):
        loop.turn(1000.0 + second)
    assert meters[2].spend(0, 21, 1005.0) == (False, True)


def test_the_wheel_turns_only_while_there_are_connections() -> None:
    loop = HandTurned()
    shared = shared_on(loop)
    assert loop.due == []
    connections = [BufferedConnection(shared, ("", 0)) for _ in range(2)]
    assert len(loop.due) == 1
    for connection in connections:
        connection.connection_lost(None)
    loop.turn(100.1)
    assert loop.due == []
    BufferedConnection(shared, ("", 0))
    assert len(loop.due) == 1


@pytest.mark.parametrize("again_s", [0.01, 9.0], ids=["once", "twice"])
def test_after_a_stall_the_loop_reads_before_anyone_is_judged(again_s: float) -> None:
    loop = HandTurned()
    shared = shared_on(loop)
    connection = BufferedConnection(shared, ("", 0))
    bell = Bell()
    shared.wheel.schedule(bell, loop.now, 0.5)
    loop.turn(105.0)
    assert not bell.rung.is_set()
    loop.turn(105.0 + again_s)
    assert bell.rung.is_set()
    connection.connection_lost(None)

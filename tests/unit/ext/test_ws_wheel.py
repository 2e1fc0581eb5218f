"""The timer wheel, given the time: never early, at most a tick late, whatever its callbacks do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext.ws_wheel import Timer, Wheel


class Alarm(Timer):
    def __init__(self, fired: list[Alarm]) -> None:
        self.fired = fired

    def fire(self) -> None:
        self.fired.append(self)


@given(st.lists(st.floats(0, 40), max_size=30), st.integers(1, 16))
def test_fires_after_its_deadline_within_a_tick(delays: list[float], slots: int) -> None:
    wheel = Wheel(0.5, 100.0, slots)
    fired: list[Alarm] = []
    due = {}
    for delay in delays:
        alarm = Alarm(fired)
        wheel.schedule(alarm, 100.0, delay)
        due[alarm] = 100.0 + delay
    for step in range(1, 100):
        now = 100.0 + step * 0.5
        before = len(fired)
        wheel.advance(now)
        for alarm in fired[before:]:
            assert due[alarm] <= now
            assert now <= due[alarm] + 1.0
    assert len(fired) == len(delays)
    assert wheel.armed == 0


def test_a_late_call_fires_all_that_is_due_and_nothing_else() -> None:
    wheel = Wheel(0.1, 0.0, 8)
    fired: list[Alarm] = []
    soon, later = Alarm(fired), Alarm(fired)
    wheel.schedule(soon, 0.0, 1.0)
    wheel.schedule(later, 0.0, 500.0)
    wheel.advance(499.0)
    assert fired == [soon]
    assert wheel.timers() == [later]
    wheel.advance(500.1)
    assert fired == [soon, later]


def test_rearming_replaces_and_cancelling_is_idempotent() -> None:
    wheel = Wheel(1.0, 0.0)
    fired: list[Alarm] = []
    alarm = Alarm(fired)
    wheel.schedule(alarm, 0.0, 2.0)
    wheel.schedule(alarm, 0.0, 5.0)
    assert wheel.armed == 1
    wheel.advance(4.0)
    assert fired == []
    wheel.cancel(alarm)
    wheel.cancel(alarm)
    wheel.advance(9.0)
    assert (fired, wheel.armed) == ([], 0)


def test_time_that_stands_or_goes_back_fires_nothing() -> None:
    wheel = Wheel(1.0, 50.0)
    fired: list[Alarm] = []
    wheel.schedule(Alarm(fired), 50.0, 1.0)
    wheel.advance(50.0)
    wheel.advance(10.0)
    assert fired == []
    wheel.advance(51.0)
    assert len(fired) == 1


def test_callbacks_may_rearm_themselves_and_cancel_others() -> None:
    wheel = Wheel(1.0, 0.0)
    fired: list[Timer] = []

    class Meddler(Timer):
        def fire(self) -> None:
            fired.append(self)
            wheel.cancel(victim)
            wheel.schedule(self, 1.0, 0.0)

    meddler, victim = Meddler(), Alarm([])
    wheel.schedule(meddler, 0.0, 1.0)
    wheel.schedule(victim, 0.0, 1.0)
    wheel.advance(1.0)
    assert fired == [meddler]
    assert (victim.fired, wheel.armed) == ([], 1)
    wheel.advance(2.0)
    assert fired == [meddler, meddler]


def test_a_failing_callback_loses_nobody_else() -> None:
    wheel = Wheel(1.0, 0.0)
    fired: list[Alarm] = []

    class Broken(Timer):
        def fire(self) -> None:
            raise RuntimeError("broken")

    broken, alarm = Broken(), Alarm(fired)
    wheel.schedule(broken, 0.0, 1.0)
    wheel.schedule(alarm, 0.0, 1.0)
    with pytest.raises(RuntimeError, match="broken"):
        wheel.advance(1.0)
    wheel.advance(2.0)
    assert (fired, wheel.armed) == ([alarm], 0)


@pytest.mark.parametrize(("tick", "slots"), [(0.0, 8), (-1.0, 8), (1.0, 0)])
def test_a_wheel_needs_a_tick_and_a_slot(tick: float, slots: int) -> None:
    with pytest.raises(ValueError, match="positive tick"):
        Wheel(tick, 0.0, slots)

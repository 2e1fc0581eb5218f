"""Who is let in, and when the others are told to come back: the arithmetic, on a clock of the test's."""

from __future__ import annotations

import heapq
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext.ws_admission import JITTER_S, SHARE, Admission

RATES = st.floats(0.5, 20_000)
BURSTS = st.integers(1, 1_000)


@given(RATES, BURSTS, st.lists(st.floats(0, 0.5), max_size=300))
def test_no_stretch_of_time_admits_more_than_the_rate(per_s: float, at_once: int, pauses: list[float]) -> None:
    admission = Admission(per_s, at_once, 30.0)
    now, admitted = 1000.0, []
    for pause in pauses:
        now += pause
        if admission.admit(now):
            admitted.append(now)
    for first in range(0, len(admitted), 7):
        for last in range(first, len(admitted)):
            span = admitted[last] - admitted[first]
            assert last - first + 1 <= at_once + span * per_s + 0.002


@given(RATES, BURSTS)
def test_a_pause_gives_the_whole_burst_and_no_more(per_s: float, at_once: int) -> None:
    admission = Admission(per_s, at_once, 30.0)
    for now in (0.0, 1e6):
        assert all(admission.admit(now) for _ in range(at_once))
        assert not admission.admit(now)


def test_no_rate_admits_everyone() -> None:
    admission = Admission(0.0, 1, 30.0)
    assert all(admission.admit(0.0) for _ in range(10_000))


@given(RATES, st.floats(0.1, 60), st.lists(st.floats(0, 0.1), min_size=1, max_size=300), st.integers(0, 2**32))
def test_what_is_told_is_bounded_and_grows_with_who_was_told(
    per_s: float, longest_s: float, pauses: list[float], seed: int
) -> None:
    admission = Admission(per_s, 1, longest_s, random.Random(seed).random)
    now = 0.0
    for place, pause in enumerate(pauses, 1):
        now += pause
        told = admission.come_back_ms(now)
        assert 1 <= told <= 1000 * longest_s + 1
        # Everybody before this one has a place of their own, unless the queue is as long as it may be.
        queued_s = place / (per_s * SHARE) - now
        assert told >= 1000 * min(queued_s, longest_s / 2) - 1
        assert told <= 1000 * (place / (per_s * SHARE) + JITTER_S) + 1


@pytest.mark.parametrize("whole_seconds", [False, True], ids=["ms", "s"])
@pytest.mark.parametrize(("clients", "per_s", "longest_s"), [(5_000, 1_000, 30), (20_000, 500, 120), (20_000, 500, 10)])
def test_a_storm_that_obeys_is_in_after_its_number_by_the_rate(
    clients: int, per_s: int, longest_s: int, whole_seconds: bool
) -> None:
    chance = random.Random(clients + longest_s)
    admission = Admission(per_s, per_s if whole_seconds else per_s // 5, longest_s, chance.random)
    due = [(chance.random() / 2, client, 1) for client in range(clients)]
    heapq.heapify(due)
    admitted: list[float] = []
    attempts = 0
    while due:
        now, client, tries = heapq.heappop(due)
        if admission.admit(now):
            admitted.append(now)
            attempts += tries
        else:
            told_s = admission.come_back_ms(now) / 1000
            heapq.heappush(due, (now + (-(-told_s // 1) if whole_seconds else told_s), client, tries + 1))
    assert admitted[-1] <= 1.2 * clients / per_s + 1
    # One try to be told, one to get in; where the queue may be no longer, some more.
    assert attempts / clients <= (2.1 if clients / per_s < longest_s else 4.5)

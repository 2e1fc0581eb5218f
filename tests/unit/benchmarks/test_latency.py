"""Percentiles are those of the sorted values to 3 digits, however the counting was spread and written down."""

from __future__ import annotations

import json

import pytest
from hdrh.histogram import HdrHistogram
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.native.engine import bucket
from benchmarks.native.latency import HIGHEST_US, Latencies, fnv1a, merge

VALUES = st.lists(st.integers(1, HIGHEST_US), min_size=1, max_size=200)
PERCENTILES = (1.0, 25.0, 50.0, 90.0, 99.0, 99.9, 100.0)


def _exact(values: list[int], percentile: float) -> float:
    """The value at the nearest rank: HdrHistogram's Python rounds it."""
    return sorted(values)[max(int(percentile / 100 * len(values) + 0.5), 1) - 1] / 1e3


@settings(deadline=None, max_examples=30)
@given(VALUES)
def test_percentiles_are_exact_to_three_digits(values: list[int]) -> None:
    latencies = Latencies()
    for value in values:
        latencies.record(value)
    for percentile in PERCENTILES:
        assert latencies.at(percentile) == pytest.approx(_exact(values, percentile), rel=1e-3)
    assert latencies.highest == pytest.approx(max(values) / 1e3, rel=1e-3)
    assert latencies.mean == pytest.approx(sum(values) / len(values) / 1e3, rel=1e-3)


@settings(deadline=None, max_examples=30)
@given(VALUES, VALUES)
def test_processes_merge_into_what_one_would_have_counted(some: list[int], others: list[int]) -> None:
    tables = []
    for values in (some, others):
        one = Latencies()
        for value in values:
            one.record(value)
        tables.append(json.loads(json.dumps({"answer": one.counts()})))
    both = Latencies()
    for value in some + others:
        both.record(value)
    assert merge(tables)["answer"].counts() == both.counts()


@settings(deadline=None, max_examples=30)
@given(st.integers(1, HIGHEST_US))
def test_the_engine_counts_in_the_same_buckets(us: int) -> None:
    assert bucket(us) == HdrHistogram(1, HIGHEST_US, 3)._counts_index_for(us)


def test_what_is_out_of_range_stands_at_its_end() -> None:
    assert bucket(-5) == bucket(1)
    assert bucket(10**12) == bucket(HIGHEST_US)
    latencies = Latencies()
    latencies.record(10**12)
    assert latencies.highest == pytest.approx(HIGHEST_US / 1e3, rel=1e-3)


def test_nothing_recorded_is_nothing() -> None:
    assert Latencies().summary() == {"p50": 0, "p90": 0, "p95": 0, "p99": 0, "p99.9": 0, "max": 0, "count": 0}


def test_fnv_is_the_published_one() -> None:
    assert (fnv1a(b""), fnv1a(b"foobar")) == (0xCBF29CE484222325, 0x85944171F73967E8)

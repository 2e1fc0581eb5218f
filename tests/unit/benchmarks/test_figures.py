"""Percentiles of samples."""

from __future__ import annotations

import random

import pytest

from benchmarks import latencies
from benchmarks.figures import percentile


@pytest.mark.parametrize(("percent", "expected"), [(50, 50.0), (99, 99.0), (99.5, 100.0), (100, 100.0), (0, 1.0)])
def test_percentiles_are_samples(percent: float, expected: float) -> None:
    samples = [float(number) for number in range(1, 101)]
    random.Random(1).shuffle(samples)
    assert percentile(samples, percent) == expected
    assert percentile([7.0], percent) == 7.0


def test_nothing_has_no_percentile() -> None:
    with pytest.raises(ValueError, match="nothing"):
        percentile([], 50)


def test_latencies_are_told_as_their_metrics() -> None:
    values = latencies.values("call", latencies.counted([0.001] * 98 + [0.004] * 2))
    assert {value.metric: round(value.value, 2) for value in values} == {
        "call_p50": 1.0,
        "call_p99": 4.0,
        "call_most": 4.0,
    }
    assert [metric.key for metric in latencies.metrics("call", "a call")] == [value.metric for value in values]
    assert latencies.values("call", latencies.counted([])) == []

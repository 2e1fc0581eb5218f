"""Latencies as metrics: the same three for every kind of call, from samples or from counted histograms."""

from __future__ import annotations

from collections.abc import Iterable

from benchmarks.native.latency import Latencies
from benchmarks.scenario import Goal, Metric, Value

PARTS = ((50.0, "p50"), (99.0, "p99"))


def counted(samples_s: Iterable[float]) -> Latencies:
    """A histogram of samples in seconds."""
    found = Latencies()
    for sample in samples_s:
        found.record(round(sample * 1e6))
    return found


def values(key: str, found: Latencies, at: float | None = None) -> list[Value]:
    """KEY_p50, KEY_p99 and KEY_most in ms; nothing where nothing was counted."""
    if not found.count:
        return []
    parts = [Value(f"{key}_{name}", found.at(percent), at) for percent, name in PARTS]
    return [*parts, Value(f"{key}_most", found.highest, at)]


def metrics(
    key: str, label: str, *, p99: Goal | None = None, per: str = "", chart: bool = False, headline: bool = False
) -> list[Metric]:
    """What `values` gives; `chart` and `headline` are the p99's."""
    return [
        Metric(key=f"{key}_p50", label=f"{label}, p50", unit="ms", per=per),
        Metric(key=f"{key}_p99", label=f"{label}, p99", unit="ms", per=per, goal=p99, chart=chart, headline=headline),
        Metric(key=f"{key}_most", label=f"{label}, greatest", unit="ms", per=per),
    ]

"""Latencies in HdrHistogram's form: what the engine counted, merged over processes, as percentiles and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from hdrh.histogram import HdrHistogram

LOWEST_US = 1
HIGHEST_US = 60_000_000
DIGITS = 3

Counts = Iterable[Sequence[int]]
"""Pairs (index of a bucket, count): as the engine tells them and as JSON holds them."""

PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9)


class Latencies:
    """Microseconds from 1 to 60 s with 3 significant digits: a percentile is at most 0.1 % off."""

    def __init__(self, *counts: Counts) -> None:
        self._histogram = HdrHistogram(LOWEST_US, HIGHEST_US, DIGITS)
        for each in counts:
            self.add(each)

    def add(self, counts: Counts) -> None:
        """Merges what another process (or phase) counted."""
        histogram = self._histogram
        for index, count in counts:
            histogram.record_value(histogram.get_value_from_index(index), count)

    def record(self, value_us: int, count: int = 1) -> None:
        """What is out of range is recorded at its end."""
        self._histogram.record_value(min(max(value_us, LOWEST_US), HIGHEST_US), count)

    def counts(self) -> list[tuple[int, int]]:
        """The buckets that hold something, for JSON."""
        return [(index, count) for index, count in enumerate(self._histogram.counts) if count]

    @property
    def count(self) -> int:
        total: int = self._histogram.get_total_count()
        return total

    def at(self, percentile: float) -> float:
        """Milliseconds at a percentile (0-100); 0 where nothing was recorded."""
        if not self.count:
            return 0.0
        return float(self._histogram.get_value_at_percentile(percentile)) / 1e3

    @property
    def highest(self) -> float:
        """Milliseconds."""
        return float(self._histogram.get_max_value()) / 1e3 if self.count else 0.0

    @property
    def mean(self) -> float:
        """Milliseconds."""
        return float(self._histogram.get_mean_value()) / 1e3 if self.count else 0.0

    def summary(self) -> dict[str, float]:
        """Milliseconds: p50, p90, p95, p99, p99.9, max; and how many."""
        told = {f"p{percentile:g}": self.at(percentile) for percentile in PERCENTILES}
        return {**told, "max": self.highest, "count": self.count}


def merge(tables: Iterable[Mapping[str, Counts]]) -> dict[str, Latencies]:
    """By name, what several processes' `Engine.histograms` tell."""
    merged: dict[str, Latencies] = {}
    for table in tables:
        for name, counts in table.items():
            merged.setdefault(name, Latencies()).add(counts)
    return merged


def fnv1a(data: bytes) -> int:
    """FNV-1a of 64 bits, as the engine keeps of a turn's text: over the JSON text between its quotes."""
    value = 14695981039346656037
    for byte in data:
        value = (value ^ byte) * 1099511628211 % 2**64
    return value

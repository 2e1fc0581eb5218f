"""Percentiles that are exact, for few samples; many are counted (benchmarks/latencies.py)."""

from __future__ import annotations

import math
from collections.abc import Sequence


def percentile(samples: Sequence[float], percent: float) -> float:
    """The smallest sample that at least `percent` of all do not exceed (nearest rank). Raises ValueError for none."""
    if not samples:
        raise ValueError("there is no percentile of nothing")
    return sorted(samples)[max(1, math.ceil(len(samples) * percent / 100)) - 1]

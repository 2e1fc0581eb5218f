"""What a measurement gives: figures with their goals, and percentiles that are exact."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec


class Figure(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One number. `goal` is the most that it should be, or with `least` the least; the unit is the same."""

    name: str
    value: float
    unit: str
    goal: float | None = None
    least: bool = False
    note: str = ""

    @property
    def reached(self) -> bool | None:
        """Whether the goal is; None where there is none."""
        if self.goal is None:
            return None
        return self.value >= self.goal if self.least else self.value <= self.goal


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One scenario: `how` says what was done; `wrong` what must not have happened and did, `logged` what the stack's
    parts warned of meanwhile.
    """

    scenario: str
    title: str
    how: str
    figures: tuple[Figure, ...]
    wrong: tuple[str, ...] = ()
    logged: tuple[str, ...] = ()


def percentile(samples: Sequence[float], percent: float) -> float:
    """The smallest sample that at least `percent` of all do not exceed (nearest rank). Raises ValueError for none."""
    if not samples:
        raise ValueError("there is no percentile of nothing")
    return sorted(samples)[max(1, math.ceil(len(samples) * percent / 100)) - 1]


def latencies(name: str, samples_s: Sequence[float], *, p99: float | None = None) -> list[Figure]:
    """Median, p99 and the greatest of samples in seconds, as milliseconds; `p99`: its goal. Without samples
    there is no figure: what went wrong says why.
    """
    if not samples_s:
        return []
    return [
        Figure(name=f"{name}, p50", value=percentile(samples_s, 50) * 1e3, unit="ms"),
        Figure(name=f"{name}, p99", value=percentile(samples_s, 99) * 1e3, unit="ms", goal=p99),
        Figure(name=f"{name}, greatest", value=max(samples_s) * 1e3, unit="ms"),
    ]

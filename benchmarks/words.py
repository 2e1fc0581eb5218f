"""Numbers and goals as a reader wants them."""

from __future__ import annotations

import math

from benchmarks.results import Aggregate
from benchmarks.scenario import Goal, Metric


def number(value: float) -> str:
    """Three figures that count, no exponent, thousands apart."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    if value == int(value):
        return f"{value:.0f}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{digits}f}"


def spread(found: Aggregate) -> str:
    """Median, and in brackets the least and the greatest of the rounds."""
    if found.rounds < 2:
        return number(found.median)
    return f"{number(found.median)} ({number(found.low)}–{number(found.high)})"


def times(ratio: float) -> str:
    return f"{ratio:.2f} ×" if ratio < 10 else f"{ratio:,.0f} ×"


def percent(share: float) -> str:
    return f"{share * 100:.0f} %"


def goal(found: Goal, unit: str) -> str:
    """All its bounds in words."""
    bounds = [
        (found.most, "≤ {} {unit}"),
        (found.least, "≥ {} {unit}"),
        (found.most_of_floor, "≤ {} × floor"),
        (found.least_of_floor, "≥ {} × floor"),
    ]
    told = [text.format(number(bound), unit=unit).replace("≤ 0 ", "0 ") for bound, text in bounds if bound is not None]
    return " and ".join(told).strip()


def label(metric: Metric, at: float | None) -> str:
    """With the load, where there are several."""
    return metric.label if at is None else f"{metric.label}, {load(metric, at)}"


def load(metric: Metric, at: float) -> str:
    """The load, as "4,000 pings/s" or "1 delta that comes at once"."""
    first, _, rest = metric.per.partition(" ")
    if at == 1 and first.isalpha() and first.endswith("s"):
        return f"1 {first.removesuffix('s')} {rest}".replace(" that come ", " that comes ").rstrip()
    return f"{number(at)} {metric.per}"

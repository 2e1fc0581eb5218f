"""Charts as inline SVG, written by hand: bars with their spread, and lines over a load. No scripts, no fonts, no files.

Colours are CSS variables of the page (benchmarks/pages/style.py), so that they are right on dark and on light ground.
Every chart has a title and a description with its numbers, for those who hear it.
"""

from __future__ import annotations

import html
import math
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from benchmarks.words import number

WIDTH = 760
ROW = 30
LEFT = 190
RIGHT = 170
PLOT_HEIGHT = 250
TICKS = 6
NAME = 16
WIDE = 20.0  # times the least: from there on an axis is logarithmic


@dataclass(frozen=True)
class Bar:
    """`kind`: a colour, one of style.py's. `low`, `high`: the spread. `mark`: said behind the number."""

    label: str
    kind: str
    value: float
    low: float
    high: float
    mark: str = ""


@dataclass(frozen=True)
class Series:
    """`points`: (load, median, low, high), by load."""

    label: str
    kind: str
    points: Sequence[tuple[float, float, float, float]]


def bars(title: str, unit: str, rows: Sequence[Bar], goal: float | None = None) -> str:
    """Horizontal bars from zero, in the order given, each with its number beside it. Raises ValueError for none."""
    if not rows:
        raise ValueError("there is no chart of nothing")
    top = 26 if goal is not None else 6
    height = top + ROW * len(rows) + 6
    most = max([row.high for row in rows] + [goal or 0.0]) or 1.0
    scale = (WIDTH - LEFT - RIGHT) / most
    marks = [part for number_, row in enumerate(rows) for part in _bar(row, unit, top + number_ * ROW, scale)]
    parts = [part for part in marks if not part.startswith("<text")]
    if goal is not None:
        x = LEFT + goal * scale
        parts.append(f'<line class="goal" x1="{x:.1f}" y1="{top - 6}" x2="{x:.1f}" y2="{height - 4}"/>')
        parts.append(_text(x, top - 11, f"goal {number(goal)} {unit}", "note", "middle"))
    # Words last: nothing is drawn over them.
    parts += [part for part in marks if part.startswith("<text")]
    parts.append(f'<line class="axis" x1="{LEFT}" y1="{top}" x2="{LEFT}" y2="{height - 6}"/>')
    told = "; ".join(f"{row.label} {number(row.value)} {unit}" for row in rows)
    return _svg(title, told, height, parts)


def _bar(row: Bar, unit: str, y: float, scale: float) -> Iterator[str]:
    middle, width = y + ROW / 2, max(row.value * scale, 1.0)
    yield _text(LEFT - 10, middle + 4.5, row.label, "strong" if row.kind.startswith("ours") else "label", "end")
    yield f'<rect class="fill-{row.kind}" x="{LEFT}" y="{y + 5}" width="{width:.1f}" height="{ROW - 10}" rx="2"/>'
    low, high = LEFT + row.low * scale, LEFT + row.high * scale
    if high - low > 1.5:
        ends = "".join(f"M{at:.1f} {middle - 4}v8" for at in (low, high))
        yield f'<path class="spread" d="M{low:.1f} {middle}H{high:.1f}{ends}"/>'
    end = max(LEFT + width, high) + 8
    yield _text(end, middle + 4.5, " ".join(filter(None, (number(row.value), unit, row.mark))), "value")


class _Axis:
    """From values to places. Logarithmic where the values span more than `WIDE` times, and none is zero."""

    def __init__(self, values: Iterable[float], start: float, end: float, *, zero: bool) -> None:
        found = sorted(values)
        least, most = found[0], found[-1] or 1.0
        self.log = least > 0 and most / least > WIDE
        if not self.log:
            least = 0.0 if zero or least == most else least
            most = most * 1.05 if zero else most
        self._low, self._high = self._of(least), self._of(most)
        if self.log and zero:
            self._low, self._high = math.floor(self._low * 3) / 3, math.ceil(self._high * 3) / 3
        self._start, self._end = start, end

    def _of(self, value: float) -> float:
        return math.log10(value) if self.log else value

    def place(self, value: float) -> float:
        share = (self._of(value) - self._low) / ((self._high - self._low) or 1.0)
        return self._start + share * (self._end - self._start)

    def ticks(self) -> list[float]:
        """Round numbers within, five or so."""
        if self.log:
            decades = range(math.floor(self._low), math.ceil(self._high) + 1)
            steps = (1, 2, 5) if self._high - self._low < 2.5 else (1,)
            found = [10.0**decade * step for decade in decades for step in steps]
            return [tick for tick in found if self._low - 1e-9 <= math.log10(tick) <= self._high + 1e-9]
        span = (self._high - self._low) or 1.0
        raw = span / 4
        unit = 10.0 ** math.floor(math.log10(raw))
        step = next(unit * times for times in (1, 2, 2.5, 5, 10) if unit * times >= raw)
        first = math.ceil(self._low / step)
        return [step * at for at in range(first, math.floor(self._high / step + 1e-9) + 1)]


def lines(title: str, unit: str, per: str, series: Sequence[Series], goal: float | None = None) -> str:
    """Medians over a load, with the spread of the rounds as bars; each line is named at its end. Raises ValueError
    for none.
    """
    points = [point for one in series for point in one.points]
    if not points:
        raise ValueError("there is no chart of nothing")
    left, right, top, bottom = 64, WIDTH - RIGHT, 26, 26 + PLOT_HEIGHT
    x = _Axis([point[0] for point in points], left, right, zero=False)
    heights = [value for point in points for value in point[1:]] + ([goal] if goal is not None else [])
    y = _Axis(heights, bottom, top, zero=True)
    parts = [_text(8, 14, unit, "note"), _text(right, bottom + 36, per, "note", "end")]
    for tick in y.ticks():
        parts.append(f'<line class="grid" x1="{left}" y1="{y.place(tick):.1f}" x2="{right}" y2="{y.place(tick):.1f}"/>')
        parts.append(_text(left - 8, y.place(tick) + 4, number(tick), "note", "end"))
    loads = sorted({point[0] for point in points})
    for tick in loads if len(loads) <= TICKS else x.ticks():
        parts.append(_text(x.place(tick), bottom + 18, number(tick), "note", "middle"))
    parts.append(f'<line class="axis" x1="{left}" y1="{bottom}" x2="{right}" y2="{bottom}"/>')
    if goal is not None:
        at = y.place(goal)
        parts.append(f'<line class="goal" x1="{left}" y1="{at:.1f}" x2="{right}" y2="{at:.1f}"/>')
        parts.append(_text(left + 6, at - 5, f"goal {number(goal)} {unit}", "note"))
    for one in sorted(series, key=lambda one: one.kind.startswith("ours")):
        parts += _line(one, x, y)
    parts += _names(series, y, right, top, bottom)
    told = "; ".join(
        f"{one.label}: " + ", ".join(f"{number(point[1])} {unit} at {number(point[0])} {per}" for point in one.points)
        for one in series
    )
    return _svg(title, told, bottom + 44, parts)


def _line(one: Series, x: _Axis, y: _Axis) -> Iterator[str]:
    places = [(x.place(at), *(y.place(value) for value in values)) for at, *values in one.points]
    path = " ".join(f"{at:.1f},{middle:.1f}" for at, middle, _, _ in places)
    yield f'<polyline class="line line-{one.kind}" points="{path}"/>'
    for at, middle, low, high in places:
        if low - high > 3:
            yield f'<line class="whisker line-{one.kind}" x1="{at:.1f}" y1="{low:.1f}" x2="{at:.1f}" y2="{high:.1f}"/>'
        yield f'<circle class="fill-{one.kind}" cx="{at:.1f}" cy="{middle:.1f}" r="3.5"/>'


def _names(series: Sequence[Series], y: _Axis, right: float, top: float, bottom: float) -> Iterator[str]:
    """Beside the last points, moved apart where they would cover each other, and kept within the plot."""
    ends = sorted((y.place(one.points[-1][1]), number_) for number_, one in enumerate(series))
    places: list[float] = []
    for place, _ in ends:
        places.append(max(place, places[-1] + NAME if places else top))
    lowest = bottom
    for at in reversed(range(len(places))):
        places[at] = min(places[at], lowest)
        lowest = places[at] - NAME
    for place, (_, number_) in zip(places, ends, strict=True):
        yield _text(right + 12, place + 4.5, series[number_].label, f"text-{series[number_].kind}")


def _text(x: float, y: float, text: str, kind: str, anchor: str = "start") -> str:
    at = f'x="{x:.1f}" y="{y:.1f}"'
    return f'<text class="{kind}" {at} text-anchor="{anchor}">{html.escape(text)}</text>'


def _svg(title: str, told: str, height: float, parts: Sequence[str]) -> str:
    # The same results give the same page; a chart that stands twice on it is not expected.
    digest = zlib.crc32("".join([title, told, *parts]).encode())
    name = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") + f"-{digest:08x}"
    return "\n".join(
        [
            f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-labelledby="{name}-t {name}-d">',
            f'<title id="{name}-t">{html.escape(title)}</title><desc id="{name}-d">{html.escape(told)}</desc>',
            *parts,
            "</svg>",
        ]
    )

"""What a scenario is: one small file under benchmarks/scenarios/ with a `SCENARIO`, found by benchmarks/registry.py.

The harness starts all its contestants (ours, the floor, peers) side by side, then measures each once in every round, in
an order that is rotated, and reports the median and the spread of the rounds. So a scenario only says what is asked and
how one contestant is measured once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar

import msgspec

from benchmarks.target import Target

Role = Literal["ours", "floor", "peer", "reference"]
"""`ours`: what Parley runs. `floor`: the cheapest program that moves the same bytes. `peer`: what others run; measured
only with `--peers`. `reference`: our own plain version of a kernel."""

Feeds = Literal[
    "rss_kib_per_connection",
    "kernel_kib_per_connection",
    "rss_mib_per_gateway",
    "idle_cpu_us_per_connection_s",
    "handshakes_per_core_s",
    "cpu_us_per_message",
    "cpu_us_per_delta",
    "wire_bytes_per_delta",
    "cpu_ms_per_turn",
]
"""What the sizing table of the report is computed from; benchmarks/fleet.py says what each means."""

Size = TypeVar("Size", bound=msgspec.Struct)


class CannotStart(Exception):
    """A contestant that this machine cannot run; the text says why, and the report shows it."""


class LeftOut(Exception):
    """A contestant that does not do what is asked, on any machine; the text says why, and the report shows it."""


class Goal(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A bound on our median, in the metric's unit, or on the ratio to the floor. All that are set must hold; `at`: only
    at this load.
    """

    most: float | None = None
    least: float | None = None
    most_of_floor: float | None = None
    least_of_floor: float | None = None
    at: float | None = None


class Metric(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that is measured. `key` is unique in the scenario; `label` is read beside the unit in the report.

    `more`: more is better. `per`: what `Value.at` counts, where the figure is taken at several loads ("pings/s").
    `chart`: drawn, not only told: as bars, or over its loads as lines. `headline`: told at the head of the report and
    in README. `feeds`: see `Feeds`; the unit must be that one's.
    """

    key: str
    label: str
    unit: str
    more: bool = False
    goal: Goal | None = None
    per: str = ""
    chart: bool = False
    headline: bool = False
    feeds: Feeds | None = None
    note: str = ""


CLOCKED = ("ms", "s", "1/s", "turns/s")
"""Units of what is told by the clock on the wall, where it is not CPU."""


def clocked(metrics: Sequence[Metric]) -> set[str]:
    """The keys of those that are told by the clock on the wall, by their units and labels; one "of it" is as the one
    before it that is not.
    """
    found: set[str] = set()
    whole = False
    for metric in metrics:
        if not metric.label.startswith("of it"):
            whole = metric.unit in CLOCKED and "CPU" not in metric.label
        if whole and metric.unit in CLOCKED:
            found.add(metric.key)
    return found


class Value(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a metric was in one round, in its unit; `at`: the load at which, see `Metric.per`."""

    metric: str
    value: float
    at: float | None = None


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One contestant measured once. `generator`: cores that the busiest process of the load generator used, 0 to 1 and
    a little; None where nothing was generated. Over `BUSY` the figures are marked as lower bounds. `wrong`: what must
    not have happened and did (for a peer: told beside its figures).
    """

    values: Sequence[Value]
    generator: float | None = None
    wrong: Sequence[str] = ()


BUSY = 0.8
"""A generator that used more of a core than this may have been the bottleneck."""


class Bench(Protocol):
    """What the harness lends a contestant. `folder`: for its files, empty at the start, gone at the end."""

    @property
    def tiny(self) -> bool: ...

    @property
    def folder(self) -> Path: ...

    @property
    def target(self) -> Target:
        """The stack; started at the first use, one for all scenarios of a run."""


Measure = Callable[[int], Sample]
"""Measures once; given the number of the round, from 0. What it raises drops the contestant, with the reason told."""


@dataclass(frozen=True)
class Contestant(Generic[Size]):
    """`start` sets it up, once for all rounds, and cleans up when left. Raises `CannotStart`, `LeftOut`.

    What wants a fresh process in each round starts it in the measure. While others are measured it must use no CPU.
    """

    name: str
    role: Role
    start: Callable[[Bench, Size], AbstractContextManager[Measure]]


@dataclass(frozen=True)
class Scenario(Generic[Size]):
    """`name`: as on the command line. `question`, `floor`, `peers`, `misleads`: sentences of the report; `floor` and
    `peers` say why there is none where there is none. `how`: what is done, a format string over the fields of the
    sizes. `order`: its place in the report. `rounds`, of a full run; a tiny one has one round. `needs_stack`: whether
    any contestant asks for `Bench.target`.
    """

    name: str
    order: int
    title: str
    question: str
    how: str
    floor: str
    peers: str
    misleads: str
    metrics: Sequence[Metric]
    full: Size
    tiny: Size
    contestants: Sequence[Contestant[Size]]
    rounds: int = 5
    needs_stack: bool = False

    def sizes(self, *, tiny: bool) -> Size:
        return self.tiny if tiny else self.full

    def described(self, *, tiny: bool) -> Mapping[str, Any]:
        """All that the report says of it, as plain data: a report can be made from results alone."""
        sizes = msgspec.to_builtins(self.sizes(tiny=tiny))
        return {
            "title": self.title,
            "order": self.order,
            "question": self.question,
            "how": self.how.format(**sizes),
            "floor": self.floor,
            "peers": self.peers,
            "misleads": self.misleads,
            "sizes": sizes,
            "metrics": [msgspec.to_builtins(metric) for metric in self.metrics],
        }

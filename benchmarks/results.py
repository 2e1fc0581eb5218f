"""Results as JSON lines: one for the run with its machine, then for each scenario one of what it is, one for each
figure and round, and one for each figure over all rounds. A report is made from these lines alone.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from benchmarks.harness import Outcome
from benchmarks.machine import Machine
from benchmarks.scenario import BUSY, Goal, Metric, Role, Sample, clocked

GENERATOR = "generator"
"""The metric that every contestant has which is offered a load: `Sample.generator`."""


class Run(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="run"):
    """Where and when. `run` is its id, which all lines of it carry; `peers`: whether they were asked for."""

    run: str
    at: str
    revision: str
    tiny: bool
    peers: bool
    machine: Machine


class Entrant(msgspec.Struct, frozen=True, omit_defaults=True):
    """A contestant; `absent`: why it has no figures, or ends early."""

    name: str
    role: Role
    absent: str = ""


class Wrong(msgspec.Struct, frozen=True):
    contestant: str
    round: int
    what: str


class Described(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="scenario"):
    """What a scenario was when it ran; the words are those of `benchmarks.scenario.Scenario`. `others`: cores that
    programs used meanwhile which are none of the run.
    """

    run: str
    at: str
    revision: str
    tiny: bool
    scenario: str
    rounds: int
    seconds: float
    contestants: tuple[Entrant, ...]
    title: str
    order: int
    question: str
    how: str
    floor: str
    peers: str
    misleads: str
    sizes: Mapping[str, object]
    metrics: tuple[Metric, ...]
    wrong: tuple[Wrong, ...] = ()
    logged: tuple[str, ...] = ()
    others: float = 0.0


class Figure(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind", tag="value"):
    """One figure of one contestant in one round, from 0; `at`: the load at which."""

    run: str
    scenario: str
    contestant: str
    round: int
    metric: str
    value: float
    at: float | None = None


class Ratio(msgspec.Struct, frozen=True):
    """Ours ÷ theirs, round by round: the median, the least and the greatest of these."""

    to: str
    median: float
    low: float
    high: float


class Aggregate(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind", tag="aggregate"):
    """A figure over all rounds. `ratios` and `reached` (the goal) only of ours."""

    run: str
    scenario: str
    contestant: str
    metric: str
    unit: str
    rounds: int
    median: float
    low: float
    high: float
    at: float | None = None
    ratios: tuple[Ratio, ...] = ()
    reached: bool | None = None


MOST = 10
"""How much that went wrong, or was warned of, is kept."""
Line = Run | Described | Figure | Aggregate
_decode = msgspec.json.Decoder(Line).decode
Key = tuple[str, str, float | None]
"""Contestant, metric, load."""


def lines_of(run: Run, outcome: Outcome) -> list[Line]:
    """All lines of one scenario, what it is first."""
    tiny, scenario = outcome.tiny, outcome.scenario
    described = msgspec.convert(
        {
            **scenario.described(tiny=tiny),
            **{"kind": "scenario", "run": run.run, "at": outcome.began, "revision": run.revision, "tiny": tiny},
            "scenario": scenario.name,
            "rounds": max(map(len, outcome.samples.values()), default=0),
            "seconds": round(outcome.seconds, 1),
            "contestants": [
                {"name": one.name, "role": one.role, "absent": outcome.absent.get(one.name, "")}
                for one in scenario.contestants
            ],
            "wrong": _wrong(outcome),
            "logged": outcome.logged[:MOST],
            "others": round(outcome.others, 3),
        },
        Described,
    )
    figures = [
        figure
        for name, samples in outcome.samples.items()
        for number, sample in enumerate(samples)
        for figure in _figures(described, name, number, sample)
    ]
    return [described, *figures, *aggregates(described, figures)]


def _wrong(outcome: Outcome) -> list[Wrong]:
    """Not more than `MOST` of a contestant and round: then how many there were."""
    found: list[Wrong] = []
    for name, samples in outcome.samples.items():
        for number, sample in enumerate(samples):
            found += [Wrong(name, number, what) for what in sample.wrong[:MOST]]
            if len(sample.wrong) > MOST:
                found.append(Wrong(name, number, f"and {len(sample.wrong) - MOST:,} more"))
    if outcome.ending:
        found.append(Wrong("the end of the scenario", 0, outcome.ending))
    return found


def _figures(described: Described, name: str, number: int, sample: Sample) -> Iterable[Figure]:
    found = [(value.metric, value.value, value.at) for value in sample.values]
    if sample.generator is not None:
        found.append((GENERATOR, sample.generator, None))
    for metric, value, at in found:
        yield Figure(
            run=described.run,
            scenario=described.scenario,
            contestant=name,
            round=number,
            metric=metric,
            value=value,
            at=at,
        )


def aggregates(described: Described, figures: Sequence[Figure]) -> list[Aggregate]:
    """Median and spread of every figure; for ours the ratios to the others, and whether the goal is reached."""
    rounds: dict[Key, dict[int, float]] = {}
    for figure in figures:
        rounds.setdefault((figure.contestant, figure.metric, figure.at), {})[figure.round] = figure.value
    roles = {entrant.name: entrant.role for entrant in described.contestants}
    metrics = {metric.key: metric for metric in described.metrics}
    found: list[Aggregate] = []
    for (name, key, at), values in rounds.items():
        ours, metric = roles[name] == "ours", metrics.get(key)
        ratios = tuple(_ratios(values, key, at, rounds, roles)) if ours and metric else ()
        middle = statistics.median(values.values())
        floor = next((ratio.median for ratio in ratios if roles[ratio.to] == "floor"), None)
        goal = metric.goal if metric and ours else None
        found.append(
            Aggregate(
                run=described.run,
                scenario=described.scenario,
                contestant=name,
                metric=key,
                unit=metric.unit if metric else "cores",
                rounds=len(values),
                median=middle,
                low=min(values.values()),
                high=max(values.values()),
                at=at,
                ratios=ratios,
                reached=_reached(goal, middle, floor, at) if goal else None,
            )
        )
    return found


def _ratios(
    values: Mapping[int, float],
    key: str,
    at: float | None,
    rounds: Mapping[Key, Mapping[int, float]],
    roles: Mapping[str, Role],
) -> Iterable[Ratio]:
    for name, role in roles.items():
        theirs = rounds.get((name, key, at), {})
        shares = [value / theirs[number] for number, value in values.items() if theirs.get(number)]
        if role != "ours" and shares:
            yield Ratio(name, statistics.median(shares), min(shares), max(shares))


def _reached(goal: Goal, median: float, of_floor: float | None, at: float | None) -> bool | None:
    """None where the goal is for another load, or is a share of a floor that was not measured."""
    if goal.at is not None and goal.at != at:
        return None
    bounds: list[tuple[float | None, float | None, bool]] = [(goal.most, median, True), (goal.least, median, False)]
    bounds += [(goal.most_of_floor, of_floor, True), (goal.least_of_floor, of_floor, False)]
    known = [(bound, value, most) for bound, value, most in bounds if bound is not None]
    if any(value is None for _, value, _ in known):
        return None
    return all(value <= bound if most else value >= bound for bound, value, most in known if value is not None)


class Section:
    """All lines of one scenario, as a report wants them."""

    def __init__(self, described: Described) -> None:
        self.described = described
        self.figures: list[Figure] = []
        self.aggregates: list[Aggregate] = []

    @property
    def lines(self) -> list[Line]:
        return [self.described, *self.figures, *self.aggregates]

    @property
    def measured(self) -> list[Entrant]:
        """The contestants that have figures, in the scenario's order."""
        with_figures = {found.contestant for found in self.aggregates}
        return [entrant for entrant in self.described.contestants if entrant.name in with_figures]

    def of(self, metric: str, contestant: str) -> list[Aggregate]:
        """By load, where there are several."""
        found = [one for one in self.aggregates if (one.metric, one.contestant) == (metric, contestant)]
        return sorted(found, key=lambda one: one.at or 0.0)

    def busy(self, contestant: str) -> bool:
        """Whether the load generator may have been the bottleneck."""
        return any(one.median > BUSY for one in self.of(GENERATOR, contestant))

    def bound(self, metric: str, contestant: str) -> bool:
        """Whether that makes the figure a bound: rates and latencies are, what CPU and memory things took is not."""
        return self.busy(contestant) and metric in clocked(self.described.metrics)


class Results:
    """The lines of a file: runs by id, and one section for each scenario in the report's order."""

    def __init__(self, lines: Iterable[Line] = ()) -> None:
        self.runs: dict[str, Run] = {}
        self.sections: dict[str, Section] = {}
        self.add(lines)

    def add(self, lines: Iterable[Line]) -> None:
        """A scenario that is described again replaces what was there of it; runs without a scenario are dropped.

        Raises ValueError for a figure before its scenario.
        """
        for line in lines:
            match line:
                case Run():
                    self.runs[line.run] = line
                case Described():
                    self.sections[line.scenario] = Section(line)
                case Figure():
                    self._section(line).figures.append(line)
                case Aggregate():
                    self._section(line).aggregates.append(line)
        order = sorted(self.sections.values(), key=lambda one: (one.described.order, one.described.scenario))
        self.sections = {one.described.scenario: one for one in order}

    def _section(self, line: Figure | Aggregate) -> Section:
        section = self.sections.get(line.scenario)
        if section is None or all(entrant.name != line.contestant for entrant in section.described.contestants):
            raise ValueError(f"{line.contestant!r} has a figure in {line.scenario!r}, where nothing says who that is")
        return section

    @property
    def used(self) -> list[Run]:
        """The runs that a scenario here is of: more than one where some were measured by themselves."""
        named = {section.described.run for section in self.sections.values()}
        return [run for run in self.runs.values() if run.run in named]

    def write(self, path: Path) -> None:
        """Whole or not at all. Raises OSError."""
        lines: list[Line] = [*self.used, *(line for section in self.sections.values() for line in section.lines)]
        new = path.with_name(path.name + ".new")
        new.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
        new.replace(path)


def read(path: Path) -> Results:
    """Raises OSError, and ValueError (msgspec's errors are some) where it is not what a run writes."""
    with path.open("rb") as file:
        found = Results(_decode(line) for line in file)
    lost = [name for name, section in found.sections.items() if section.described.run not in found.runs]
    if lost:
        raise ValueError(f"the run that measured {lost[0]!r} is not in it: nothing says where and when")
    return found

"""What the report says, in its order: what matters, sizing, every scenario, the machine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import cycle

from benchmarks import svg
from benchmarks.harness import NOT_ASKED
from benchmarks.pages import fleet
from benchmarks.pages.blocks import Block, Bullets, Chart, Heading, Table, Text
from benchmarks.pages.style import OURS, PEERS
from benchmarks.results import GENERATOR, Aggregate, Entrant, Results, Run, Section
from benchmarks.scenario import BUSY, Metric
from benchmarks.words import goal, label, number, percent, spread, times

TITLE = "What Parley costs"
BUSY_SHARE = 0.1
OTHERS = 0.1  # cores
SHOWN = 10  # of what went wrong


def blocks(results: Results) -> list[Block]:
    """The whole report. Raises ValueError where there are no results."""
    if not results.sections:
        raise ValueError("there are no results")
    return [
        Heading(1, TITLE),
        *_head(results),
        Heading(2, "In short", "short"),
        *_short(results),
        *fleet.blocks(results),
        *(block for section in results.sections.values() for block in _section(section)),
        *_machines(results.used),
    ]


def _head(results: Results) -> Iterator[Block]:
    runs = results.used
    yield Text(
        "Contestants run side by side on one machine, which also runs the load generators, the scripted model provider "
        "and all servers: ours, the **floor** (the cheapest program that moves the same bytes) and peers. They are "
        "measured in turns, round by round. Figures are medians of the rounds, with the least and the greatest in "
        "brackets; ratios are taken within rounds. Loads are open unless a part says otherwise: work begins when it is "
        "due, and latencies count from then. `make bench` measures yours."
    )
    if any(run.tiny for run in runs):
        yield Text("**Tiny runs are among these**: they say that the benchmarks work, and nothing of costs.", "warning")
    if len(runs) > 1:
        told = ", ".join(f"`{run.revision or 'unknown'}` on {run.at}" for run in runs)
        yield Text(
            f"**Not all of this was measured in one run**: there were {len(runs)} ({told}). Every part says which one "
            "it is of; figures of different runs are not for comparing.",
            "warning",
        )
    if any(run.machine.busy > BUSY_SHARE for run in runs):
        yield Text(
            "**Others used the machine as well**, so these figures are noise: measure again when it is idle.", "warning"
        )
    shared = [section.described.title for section in results.sections.values() if section.described.others > OTHERS]
    if shared:
        yield Text(
            f"**Others used the machine meanwhile**, more than {OTHERS} cores of it, in: {', '.join(shared)}.",
            "warning",
        )
    failed = [section.described.title for section in results.sections.values() if section.described.wrong]
    if failed:
        yield Text(f"**Something went wrong in: {', '.join(failed)}.** What it was is told there.", "warning")


def _short(results: Results) -> Iterator[Block]:
    rows = [row for section in results.sections.values() for row in headlines(section, everything=True)]
    if rows:
        yield Table(["what has a goal", "Parley", "÷ floor", "best peer", "goal", "reached"], rows, [1], words=[3, 4])
    missing = [
        (section.described.title, entrant)
        for section in results.sections.values()
        for entrant in section.described.contestants
        if entrant.absent
    ]
    if unasked := list(dict.fromkeys(entrant.name for _, entrant in missing if entrant.absent == NOT_ASKED)):
        yield Text(f"Peers that were not asked for, in some parts or all (`--peers`): {', '.join(unasked)}.")
    told = [
        f"{title}: **{entrant.name}** {entrant.absent}" for title, entrant in missing if entrant.absent != NOT_ASKED
    ]
    if told:
        yield Text("Not measured, or not to the end:")
        yield Bullets(told)


def headlines(section: Section, *, everything: bool) -> Iterator[list[str]]:
    """Rows of metrics with `headline`, or with `everything` of all that have a goal: what, ours, ratio to the floor,
    the best peer, goal, whether it is reached.
    """
    for metric in section.described.metrics:
        if not metric.headline and not (everything and metric.goal):
            continue
        for entrant in section.measured:
            for found in section.of(metric.key, entrant.name) if entrant.role == "ours" else []:
                if found.at is None or found.reached is not None or metric.headline:
                    yield _headline(section, metric, found)


def _headline(section: Section, metric: Metric, found: Aggregate) -> list[str]:
    roles = {entrant.name: entrant.role for entrant in section.described.contestants}
    floor = next((times(ratio.median) for ratio in found.ratios if roles[ratio.to] == "floor"), "")
    reached = {None: "", True: "yes", False: "**no**"}[found.reached]
    told = goal(metric.goal, metric.unit) if metric.goal and found.reached is not None else ""
    what = f"{section.described.title}: {label(metric, found.at)}"
    if sum(entrant.role == "ours" for entrant in section.measured) > 1:
        what += f" ({found.contestant})"
    return [what, _figure(section, found), floor, _best(section, metric, found), told, reached]


def _figure(section: Section, found: Aggregate) -> str:
    bound = " (a bound: the generator was busy)" if section.bound(found.metric, found.contestant) else ""
    return f"{number(found.median)} {found.unit}{bound}"


def _best(section: Section, metric: Metric, found: Aggregate) -> str:
    peers = [
        other
        for entrant in section.measured
        if entrant.role == "peer"
        for other in section.of(metric.key, entrant.name)
        if other.at == found.at
    ]
    if not peers:
        return ""
    best = (max if metric.more else min)(peers, key=lambda one: one.median)
    return f"{best.contestant}: {number(best.median)} {best.unit}"


def _section(section: Section) -> Iterator[Block]:
    told = section.described
    yield Heading(2, told.title, told.scenario)
    yield Text(f"**{told.question}** {told.how}")
    if told.wrong:
        yield Text(f"**What went wrong ({len(told.wrong)}), so that these figures do not count:**", "warning")
        yield Bullets([f"{one.contestant}, round {one.round + 1}: {one.what[:200]}" for one in told.wrong[:SHOWN]])
    yield from _ratios(section)
    yield from _charts(section)
    yield from _figures(section)
    absent = [f"**{entrant.name}**: {entrant.absent}" for entrant in told.contestants if entrant.absent]
    notes = [f"Floor: {told.floor}", f"Peers: {told.peers}", f"How this could mislead: {told.misleads}", *absent]
    notes += [f"{metric.label}: {metric.note}" for metric in told.metrics if metric.note]
    rounds = f"{told.rounds} rounds" if told.rounds != 1 else "one round"
    notes.append(
        f"Measured {told.at}, revision `{told.revision or 'unknown'}`, {rounds}, {told.seconds:.0f} s; others used "
        f"{told.others:.2f} cores meanwhile."
    )
    yield Bullets(notes)
    if told.logged:
        yield Text(f"What the stack's parts warned of meanwhile ({len(told.logged)}):")
        yield Bullets([line[:200] for line in told.logged[:SHOWN]])


def _rows(section: Section) -> Iterator[tuple[Metric, float | None]]:
    """Metrics that were measured, at all their loads."""
    for metric in section.described.metrics:
        loads = {one.at for one in section.aggregates if one.metric == metric.key}
        for at in sorted(loads, key=lambda one: one or 0.0):
            yield metric, at


def _at(section: Section, metric: str, contestant: str, at: float | None) -> Aggregate | None:
    return next((one for one in section.of(metric, contestant) if one.at == at), None)


def _ratios(section: Section) -> Iterator[Block]:
    others = [entrant for entrant in section.measured if entrant.role != "ours"]
    for ours in (entrant for entrant in section.measured if entrant.role == "ours"):
        rows = []
        for metric, at in _rows(section):
            found = _at(section, metric.key, ours.name, at)
            ratios = {ratio.to: times(ratio.median) for ratio in found.ratios} if found else {}
            if ratios:
                rows.append([label(metric, at), *(ratios.get(entrant.name, "") for entrant in others)])
        if rows:
            yield Table([f"{ours.name} ÷", *(entrant.name for entrant in others)], rows)


def _figures(section: Section) -> Iterator[Block]:
    measured = section.measured
    rows = [
        [
            _unit(metric, at),
            *(_cell(section, metric.key, entrant, at) for entrant in measured),
            *_goal(section, metric, at),
        ]
        for metric, at in _rows(section)
    ]
    if any(section.of(GENERATOR, entrant.name) for entrant in measured):
        shares = [_share(section, entrant) for entrant in measured]
        rows.append(["load generator's busiest process, % of a core", *shares, ""])
    strong = [number_ for number_, entrant in enumerate(measured, 1) if entrant.role == "ours"]
    yield Table(["figure", *(entrant.name for entrant in measured), "goal"], rows, strong, words=[len(measured) + 1])
    if any(section.busy(entrant.name) for entrant in measured):
        yield Text(
            f"† The load generator used more than {percent(BUSY)} of a core: it may have been the bottleneck, so rates "
            "marked so are lower bounds and latencies upper ones. What CPU and memory things took is not marked."
        )


def _unit(metric: Metric, at: float | None) -> str:
    return f"{label(metric, at)} ({metric.unit})"


def _cell(section: Section, metric: str, entrant: Entrant, at: float | None) -> str:
    found = _at(section, metric, entrant.name, at)
    if found is None:
        return ""
    return spread(found) + (" †" if section.bound(metric, entrant.name) else "")


def _goal(section: Section, metric: Metric, at: float | None) -> Iterable[str]:
    reached = [one.reached for one in section.aggregates if (one.metric, one.at) == (metric.key, at)]
    if metric.goal is None or all(one is None for one in reached):
        return [""]
    return [goal(metric.goal, metric.unit) + (", **not reached**" if False in reached else "")]


def _share(section: Section, entrant: Entrant) -> str:
    found = section.of(GENERATOR, entrant.name)
    return f"{found[0].median * 100:.0f}" + (" †" if section.busy(entrant.name) else "") if found else ""


def _charts(section: Section) -> Iterator[Block]:
    kinds = _kinds(section.measured)
    for metric in (metric for metric in section.described.metrics if metric.chart):
        bound = (metric.goal.most or metric.goal.least) if metric.goal else None
        if metric.per:
            series = [
                svg.Series(name, kind, [(one.at or 0.0, one.median, one.low, one.high) for one in found])
                for name, kind in kinds.items()
                if (found := section.of(metric.key, name))
            ]
            if series and any(len(one.points) > 1 for one in series):
                title = f"{metric.label}, over {metric.per}"
                yield Chart(title, svg.lines(title, metric.unit, metric.per, series, bound))
        else:
            rows = [
                svg.Bar(
                    name,
                    kind,
                    found[0].median,
                    found[0].low,
                    found[0].high,
                    "†" if section.bound(metric.key, name) else "",
                )
                for name, kind in kinds.items()
                if (found := section.of(metric.key, name))
            ]
            if rows:
                title = f"{metric.label} ({'more' if metric.more else 'less'} is better)"
                yield Chart(title, svg.bars(title, metric.unit, rows, bound))


def _kinds(measured: Sequence[Entrant]) -> dict[str, str]:
    """The colour of each contestant."""
    several = {"ours": cycle(OURS), "peer": cycle(PEERS)}
    return {
        entrant.name: next(several[entrant.role]) if entrant.role in several else entrant.role for entrant in measured
    }


def _machines(runs: Sequence[Run]) -> Iterator[Block]:
    yield Heading(2, "The machine" if len(runs) == 1 else "The machines", "machine")
    for run in runs:
        yield Table([f"run {run.run}", ""], _machine(run), words=[1])
    yield Text(
        "All of it is loopback: the kernel's share is smaller than over a network, and so is latency. CPU is user and "
        "system time of whole process trees, to 10 ms. RSS counts shared pages in every process, PSS once in all; what "
        "the kernel keeps for sockets is in neither, and is told apart. Percentiles are HdrHistogram's, three digits."
    )


def _machine(run: Run) -> list[list[str]]:
    machine = run.machine
    rows = [
        ["measured", f"{run.at}, {'with' if run.peers else 'without'} peers"],
        ["revision", f"`{run.revision or 'unknown'}`"],
        ["processor", f"{machine.processor}, {machine.cores} cores"],
        ["memory", f"{machine.memory_gib:.1f} GiB"],
        ["system", f"{machine.system}, Python {machine.python}"],
        ["disk", f"{machine.disk}; a 4 KiB append with fsync takes {machine.sync_ms:.2f} ms (median)"],
        ["others on it, before", f"{percent(machine.busy)} of all cores busy, load average {machine.load:.2f}"],
    ]
    return rows + [[f"`{name}`" if "." in name else name, value] for name, value in machine.limits.items()]

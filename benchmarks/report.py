"""The figures as JSON lines, and as the page docs/benchmarks.md."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from benchmarks.figures import Figure, Result
from benchmarks.machine import Machine

WIDTH = 120
HEAD = """\
# Figures

Measured by `make bench` in one run on one machine, which also ran the load generators, the scripted model provider and
all servers. This page is that run's output; run it on yours before you compare. Where a figure has a goal, the goal is
beside it, and "not reached" where it is not. Loads are open unless a section says otherwise: work begins when it is
due, and latencies count from then. Percentiles are exact, of all samples. CPU is user and system time of whole
processes, to 10 ms.
{caveats}
| machine | |
|---|---|
{machine}
"""
SHORT = "\nThis was a **short run**: its figures say that the benchmarks work, and little more.\n"
BUSY = "\n**Others used the machine as well**, so these figures are noise: measure again when it is idle.\n"
BUSY_SHARE = 0.1
MISSING = """\
## Not measured here

- Peers and a floor (the cheapest program that does the same bytes) in the same run, 250,000 sockets on one machine,
  small frames and deltas per core, failover, and the ledger worker's rate: goals that have no scenario yet.
- The server's rate for the admission script against `redis-benchmark`, which the embedded Redis does not bring along.
- Anything over a network: all of it is loopback, so the kernel's share is smaller than it will be, and so is latency.
"""


def lines(machine: Machine, results: Iterable[Result]) -> list[dict[str, Any]]:
    """One object for the machine, then one for each figure and for each thing that went wrong."""
    found: list[dict[str, Any]] = [{"machine": msgspec.to_builtins(machine)}]
    for result in results:
        for figure in result.figures:
            reached = {} if figure.reached is None else {"reached": figure.reached}
            found.append({"scenario": result.scenario, **msgspec.to_builtins(figure), **reached})
        found += [{"scenario": result.scenario, "wrong": why} for why in result.wrong]
        found += [{"scenario": result.scenario, "logged": line} for line in result.logged]
    return found


def page(machine: Machine, results: Sequence[Result], seconds: float, *, quick: bool) -> str:
    """The whole page. `seconds`: what the run took."""
    rows = "\n".join(f"| {name} | {value} |" for name, value in _machine(machine, seconds))
    caveats = (SHORT if quick else "") + (BUSY if machine.busy > BUSY_SHARE else "")
    head = HEAD.format(machine=rows, caveats=caveats)
    return "\n".join([head, *map(_section, results), MISSING])


def _machine(machine: Machine, seconds: float) -> list[tuple[str, str]]:
    return [
        ("measured", f"{machine.date}, in {seconds:.0f} s"),
        ("revision", machine.revision or "unknown"),
        ("processor", f"{machine.processor}, {machine.cores} cores"),
        ("memory", f"{machine.memory_gib:.1f} GiB"),
        ("system", f"{machine.system}, Python {machine.python}"),
        ("disk", f"{machine.disk}; a 4 KiB append with fsync takes {machine.sync_ms:.2f} ms (median)"),
        ("others on it, before", f"{machine.busy * 100:.0f} % of all cores busy, load average {machine.load:.2f}"),
    ]


def _section(result: Result) -> str:
    how = textwrap.fill(" ".join(result.how.split()), WIDTH, break_long_words=False, break_on_hyphens=False)
    rows = "\n".join(_row(figure) for figure in result.figures)
    text = f"## {result.title}\n\n{how}\n\n| what | measured | goal | |\n|---|---|---|---|\n{rows}\n"
    if result.wrong:
        shown = "\n".join(f"- {why}" for why in result.wrong[:10])
        text += f"\n**What went wrong ({len(result.wrong)}), so that these figures do not count:**\n\n{shown}\n"
    if result.logged:
        shown = "\n".join(f"- {line[:200]}" for line in result.logged[:10])
        text += f"\nWhat the stack's parts warned of meanwhile ({len(result.logged)}):\n\n{shown}\n"
    return text


def _row(figure: Figure) -> str:
    goal = ""
    if figure.goal is not None:
        bound = "≥" if figure.least else "≤"
        goal = f"{figure.goal:g}" if figure.goal == 0 else f"{bound} {_number(figure.goal)}"
    remarks = [] if figure.reached in (None, True) else ["**not reached**"]
    remarks += [figure.note] if figure.note else []
    return f"| {figure.name} | {_number(figure.value)} {figure.unit} | {goal} | {'; '.join(remarks)} |"


def _number(value: float) -> str:
    """Three figures that count, no exponent."""
    if value == int(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if abs(value) >= 0.995 or value == 0 else f"{value:.3g}"

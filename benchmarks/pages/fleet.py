"""From what was measured to what a fleet needs: the inputs of the cost model, and the model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from benchmarks.pages.blocks import Block, Bullets, Heading, Table, Text
from benchmarks.results import Aggregate, Results, Section
from benchmarks.scenario import Feeds, Metric
from benchmarks.words import load, number, percent

ONLINE = (1_000, 10_000, 100_000, 1_000_000)
SOCKETS = 1.2  # connections of one user who is online: most have one device open
TURNS = 6.0  # an hour, of one user who is online
DELTAS = 400.0  # of one answer
PER_PROCESS = 15_000  # connections of one gateway process: `gateway.max_connections`
SHARE = 0.5  # of a core that is used at the busiest time
KIB_PER_GIB = 2**20


class Input(NamedTuple):
    """What a measured figure is to the model. `per`: how a reader counts it, from the figure."""

    label: str
    unit: str


INPUTS: Mapping[Feeds, Input] = {
    "rss_kib_per_connection": Input("memory of the gateway for an idle connection, all its state", "KiB"),
    "kernel_kib_per_connection": Input("memory of the kernel for it, our end", "KiB"),
    "rss_mib_per_gateway": Input("memory of a gateway process without connections", "MiB"),
    "idle_cpu_us_per_connection_s": Input("CPU of the gateway for it, idle", "µs/s"),
    "handshakes_per_core_s": Input("handshakes with authentication, of one core", "1/s"),
    "cpu_us_per_message": Input("CPU of the gateway for a small message and its answer", "µs"),
    "cpu_us_per_delta": Input("CPU of the gateway for a delta, from the bus to a socket", "µs"),
    "wire_bytes_per_delta": Input("bytes on the wire for a delta", "B"),
    "cpu_ms_per_turn": Input("CPU for a turn: gateways, routers, workers, PostgreSQL, NATS, Redis", "ms"),
}


class Measured(NamedTuple):
    """`by`: the scenario, and of what contestant and at what load, where there are several."""

    by: str
    value: float


def inputs(results: Results) -> dict[Feeds, Measured]:
    """Our medians that feed the model: of several contestants or loads the costliest, of several scenarios the last."""
    found: dict[Feeds, Measured] = {}
    for section in results.sections.values():
        ours = [entrant.name for entrant in section.measured if entrant.role == "ours"]
        for metric in section.described.metrics:
            all_ = [one for name in ours for one in section.of(metric.key, name)]
            if metric.feeds is not None and all_:
                costliest = (min if metric.more else max)(all_, key=lambda one: one.median)
                found[metric.feeds] = Measured(_by(section, metric, costliest, several=len(ours) > 1), costliest.median)
    return found


def _by(section: Section, metric: Metric, found: Aggregate, *, several: bool) -> str:
    of = [found.contestant] if several else []
    at = [] if found.at is None else [load(metric, found.at)]
    return ", ".join([section.described.title, *of, *at])


def blocks(results: Results) -> list[Block]:
    found = inputs(results)
    if not found:
        return []
    values: dict[Feeds, float] = {feeds: measured.value for feeds, measured in found.items()}
    rows = [
        [
            each.label,
            f"{number(found[feeds].value)} {each.unit}" if feeds in found else "not measured",
            found[feeds].by if feeds in found else "",
        ]
        for feeds, each in INPUTS.items()
    ]
    return [
        Heading(2, "Sizing a fleet", "fleet"),
        Text(
            "What one connection, one message and one turn cost is measured, and of several figures the "
            "costliest is taken; the rest is arithmetic, shown below."
        ),
        Table(["what the model takes", "measured", "by"], rows, words=[2]),
        Table(["so that", ""], derived(values)),
        Heading(3, "For so many users online"),
        Table(["users online", *(name for name, _ in _WANTED)], [_for(users, values) for users in ONLINE]),
        Text("The formulas, with the assumptions that you should replace by what you know of your users:"),
        Bullets(_formulas()),
        Text(
            "Memory is that of gateways: routers, PostgreSQL, NATS and Redis have theirs. The models, and one more "
            "machine than needed so that one may be lost, come on top."
        ),
    ]


def derived(values: Mapping[Feeds, float]) -> list[list[str]]:
    """What platform teams compare: per GiB, per core, per 100,000 connections, per million."""
    rows: list[list[str]] = []
    rss, kernel = values.get("rss_kib_per_connection"), values.get("kernel_kib_per_connection")
    if rss:
        rows.append(["idle connections for each GiB of the gateway's memory", f"{KIB_PER_GIB / rss:,.0f}"])
    if rss and kernel is not None:
        rows.append(
            ["idle connections for each GiB, the kernel's share included", f"{KIB_PER_GIB / (rss + kernel):,.0f}"]
        )
        rows.append(["memory for 100,000 connections, both", f"{100_000 * (rss + kernel) / KIB_PER_GIB:.2f} GiB"])
    if rate := values.get("handshakes_per_core_s"):
        rows.append(["handshakes with authentication a second, one core", f"{rate:,.0f}"])
    if idle := values.get("idle_cpu_us_per_connection_s"):
        rows.append([f"idle connections for each core, {percent(SHARE)} busy", f"{SHARE * 1e6 / idle:,.0f}"])
    if message := values.get("cpu_us_per_message"):
        rows.append(["small messages and their answers a second, one core", f"{1e6 / message:,.0f}"])
        rows.append(["CPU for a million of them", f"{number(message)} s"])
    if delta := values.get("cpu_us_per_delta"):
        rows.append(["deltas a second from the bus to sockets, one core", f"{1e6 / delta:,.0f}"])
        rows.append(["CPU for a million of them (one token each)", f"{number(delta)} s"])
    if turn := values.get("cpu_ms_per_turn"):
        rows.append(["turns a second, one core for all parts", f"{1e3 / turn:,.0f}"])
        rows.append(["CPU for a million turns, all parts", f"{number(turn * 1e3 / 3600)} h"])
    if wire := values.get("wire_bytes_per_delta"):
        rows.append(["wire for a million deltas (one token each)", f"{number(wire)} MB"])
    return rows


def _memory_gib(users: int, values: Mapping[Feeds, float]) -> float | None:
    rss, kernel = values.get("rss_kib_per_connection"), values.get("kernel_kib_per_connection", 0.0)
    base = values.get("rss_mib_per_gateway", 0.0) * 1024 * _gateways(users, values)
    return (users * SOCKETS * (rss + kernel) + base) / KIB_PER_GIB if rss else None


def _gateways(users: int, values: Mapping[Feeds, float]) -> float:
    """Processes, at least two: one may be lost."""
    return max(2, math.ceil(users * SOCKETS / PER_PROCESS))


def _cores(users: int, values: Mapping[Feeds, float]) -> float | None:
    turn, delta = values.get("cpu_ms_per_turn"), values.get("cpu_us_per_delta", 0.0)
    idle = values.get("idle_cpu_us_per_connection_s", 0.0)
    if not turn:
        return None
    us_per_s = users * (SOCKETS * idle + TURNS / 3600 * (turn * 1e3 + DELTAS * delta))
    return us_per_s / 1e6 / SHARE


def _megabits(users: int, values: Mapping[Feeds, float]) -> float | None:
    wire = values.get("wire_bytes_per_delta")
    return users * TURNS / 3600 * DELTAS * wire * 8 / 1e6 if wire else None


def _back_s(users: int, values: Mapping[Feeds, float]) -> float | None:
    rate, cores = values.get("handshakes_per_core_s"), _cores(users, values)
    return users * SOCKETS / (rate * max(1.0, cores)) if rate and cores else None


_WANTED = (
    ("gateway processes", _gateways),
    ("their memory and the kernel's, GiB", _memory_gib),
    ("cores, all parts", _cores),
    ("text to clients, Mbit/s", _megabits),
    ("all connect anew, s", _back_s),
)


def _for(users: int, values: Mapping[Feeds, float]) -> list[str]:
    found = [work(users, values) for _, work in _WANTED]
    return [f"{users:,}", *("not measured" if value is None else number(value) for value in found)]


def _formulas() -> Sequence[str]:
    return [
        f"connections = users × {SOCKETS:g}; turns a second = users × {TURNS:g} ÷ 3,600; "
        f"deltas of an answer = {DELTAS:g}",
        f"gateway processes = connections ÷ {PER_PROCESS:,} (`gateway.max_connections`), at least 2",
        "memory = connections × (gateway's + kernel's KiB) ÷ 2^20 + processes × MiB of one ÷ 2^10",
        f"cores = (connections × idle CPU + turns a second × (CPU of a turn + {DELTAS:g} × CPU of a delta)) ÷ "
        f"{SHARE:g}, because at the busiest time a core should be {percent(SHARE)} used. The deltas that the measured "
        "turn streams are counted twice: the error is on the safe side",
        f"text to clients = turns a second × {DELTAS:g} × bytes of a delta × 8",
        "all connect anew = connections ÷ (handshakes of a core × cores); by how much gateways spread that on purpose "
        "is in the storm's own part",
    ]

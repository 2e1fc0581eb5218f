"""Admission: the one Redis call before every turn."""

from __future__ import annotations

import secrets
from typing import Any

from benchmarks.driver import Load
from benchmarks.figures import Figure, Result, latencies, percentile
from benchmarks.load.admit import Plan
from benchmarks.meter import Meter
from benchmarks.sizes import Sizes
from benchmarks.target import Target

ACCOUNTS = 500
AT_ONCE = 32
ROUND_S = 60.0
HOW = """\
The Lua script that counts a request and makes a reservation, called by the client that the gateway uses, over
{accounts} accounts: first {count:,} calls, {rate:,.0f} a second, timed from the moment at which each was due; then
{count:,} with {at_once} in flight, for what a call costs the client and the server."""


def measure(target: Target, sizes: Sizes) -> Result:
    plan = Plan(
        redis_url=target.config.redis.url,
        prefix=f"bench-{secrets.token_hex(6)}-",
        accounts=ACCOUNTS,
        paced=sizes.admissions,
        interval_s=1 / sizes.admission_rate,
        closed=sizes.admissions,
        at_once=AT_ONCE,
    )
    meter = Meter(target)
    with Load("admit", plan) as load:
        load.hear()
        load.tell()
        paced = load.hear(ROUND_S)
        before = meter.part_cpu_s("redis")
        load.tell()
        closed = load.hear(ROUND_S)
        server_cpu = meter.part_cpu_s("redis") - before
        load.tell()
    return Result(
        scenario="admit",
        title="Admission",
        how=HOW.format(accounts=ACCOUNTS, count=sizes.admissions, rate=sizes.admission_rate, at_once=AT_ONCE),
        figures=(
            *latencies("a call at a steady rate", paced["samples"], p99=1.0),
            Figure(name="of it the generator's lateness, p99", value=percentile(paced["late"], 99) * 1e3, unit="ms"),
            *latencies(f"a call with {AT_ONCE} in flight", closed["samples"]),
            _cost(f"client CPU for each, {AT_ONCE} in flight", closed["cpu_s"], closed, 30.0),
            _cost("Redis CPU for each", server_cpu, closed),
            Figure(
                name=f"calls with {AT_ONCE} in flight", value=len(closed["samples"]) / closed["seconds"], unit="1/s"
            ),
        ),
        wrong=(*paced["wrong"], *closed["wrong"]),
    )


def _cost(name: str, cpu_s: float, told: dict[str, Any], goal: float | None = None) -> Figure:
    return Figure(name=name, value=cpu_s / max(len(told["samples"]), 1) * 1e6, unit="µs", goal=goal)

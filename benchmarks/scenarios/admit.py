"""Admission: the one Redis call before every turn."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from benchmarks import latencies
from benchmarks.driver import Load
from benchmarks.load.admit import Plan
from benchmarks.meter import Meter
from benchmarks.scenario import Bench, Contestant, Goal, Measure, Metric, Sample, Scenario, Value

ROUND_S = 60.0


class Sizes(msgspec.Struct, frozen=True):
    """`calls` at `rate` a second, then as many with `at_once` in flight."""

    calls: int
    rate: float
    accounts: int = 500
    at_once: int = 32


@contextlib.contextmanager
def _client(bench: Bench, sizes: Sizes, *, bare: bool) -> Iterator[Measure]:
    plan = Plan(
        redis_url=bench.target.config.redis.url,
        prefix=f"bench-{secrets.token_hex(6)}-",
        accounts=sizes.accounts,
        paced=sizes.calls,
        interval_s=1 / sizes.rate,
        closed=sizes.calls,
        at_once=sizes.at_once,
        bare=bare,
    )
    meter = Meter(bench.target)
    with Load("admit", plan) as load:
        load.hear()

        def measure(_: int) -> Sample:
            load.tell()
            paced = load.hear(ROUND_S)
            before = meter.part_cpu_s("redis")
            load.tell()
            closed = load.hear(ROUND_S)
            return _sample(paced, closed, meter.part_cpu_s("redis") - before)

        yield measure


def _sample(paced: Mapping[str, Any], closed: Mapping[str, Any], server_s: float) -> Sample:
    done = max(len(closed["samples"]), 1)
    return Sample(
        values=[
            *latencies.values("call", latencies.counted(paced["samples"])),
            Value("late", latencies.counted(paced["late"]).at(99)),
            Value("client", closed["cpu_s"] / done * 1e6),
            Value("server", done / max(server_s, 0.01)),
            Value("rate", done / closed["seconds"]),
        ],
        generator=paced["cpu_s"] / paced["seconds"],
        wrong=[*paced["wrong"], *closed["wrong"]],
    )


def _ours(bench: Bench, sizes: Sizes) -> contextlib.AbstractContextManager[Measure]:
    return _client(bench, sizes, bare=False)


def _floor(bench: Bench, sizes: Sizes) -> contextlib.AbstractContextManager[Measure]:
    return _client(bench, sizes, bare=True)


SCENARIO = Scenario(
    name="admit",
    order=310,
    title="Admission",
    question="What does the one Redis call before every turn cost, and how long does it take?",
    how=(
        "The Lua script that counts a request and makes a reservation, over {accounts} accounts that are new in every "
        "round: first {calls:,} calls, {rate:,.0f} a second, timed from the moment at which each was due; then "
        "{calls:,} with {at_once} in flight, for what a call costs the client and the server."
    ),
    floor=(
        "The same script and arguments over one connection with nothing around it: a call is a write, a reply a "
        "future; no deadlines, no reconnecting, no stand-in for a Redis that is away."
    ),
    peers=(
        "None: the script is ours. The floor stands in for `redis-benchmark`: it is our own client in Python, with "
        "hiredis' parser, that sends the same EVALSHA with the same keys, as many in flight over one connection, "
        "where `redis-benchmark` is in C and has a connection for each of them. So the server's rates are compared by "
        "Redis' CPU for the calls, not by how fast a client sends."
    ),
    misleads=(
        "The generator is the client that is measured, in Python, so its CPU is the figure and not a bound; on a "
        "machine of few cores Redis and the client wait for each other, which the latencies show."
    ),
    metrics=[
        *latencies.metrics("call", "a call at a steady rate", p99=Goal(most=1.0), headline=True),
        Metric(key="late", label="of it the generator's lateness, p99", unit="ms"),
        Metric(key="client", label="client CPU for each", unit="µs", goal=Goal(most=30.0), headline=True, chart=True),
        Metric(
            key="server",
            label="calls for each second of Redis' CPU",
            unit="1/s",
            more=True,
            goal=Goal(least_of_floor=0.8),
        ),
        Metric(key="rate", label="calls, a number in flight", unit="1/s", more=True),
    ],
    full=Sizes(calls=10_000, rate=2_000.0),
    tiny=Sizes(calls=100, rate=500.0),
    contestants=[Contestant("Parley", "ours", _ours), Contestant("floor", "floor", _floor)],
    needs_stack=True,
)

"""The OpenAI-compatible path: what a call and a stream cost one gateway."""

from __future__ import annotations

import asyncio
from typing import Any

from benchmarks.driver import Load
from benchmarks.figures import Figure, Result, latencies
from benchmarks.load.completions import Plan
from benchmarks.meter import Meter
from benchmarks.people import make_key, make_people
from benchmarks.sizes import Sizes
from benchmarks.target import MODEL, Target

GATEWAY = "gateway-1"
AT_ONCE = 32
DELTAS = 64
ROUND_S = 60.0
HOW = """\
`POST /v1/chat/completions` at one gateway with an API key, {at_once} in flight over as many connections, each begun
when one before it ended: {requests:,} plain calls that are answered with one piece of text, then {streams:,} streams of
{deltas} pieces, {delay:.0f} ms apart, each its own write of the provider's. Key, limits and usage records are as in
every call. The load is closed: latencies are told, but it is the CPU that is asked for."""


def measure(target: Target, sizes: Sizes) -> Result:
    person = asyncio.run(make_people(target.config, 1))[0]
    plan = Plan(
        port=target.own_http(GATEWAY),
        key=asyncio.run(make_key(target.config, person)),
        model=MODEL,
        at_once=AT_ONCE,
        warm=4 * AT_ONCE,
        requests=sizes.requests,
        streams=sizes.streams,
        deltas=DELTAS,
        delay_ms=sizes.stream_delay_ms,
    )
    meter = Meter(target)
    with Load("completions", plan) as load:
        warm = load.hear(ROUND_S)
        plain, plain_cpu = _round(load, meter)
        streamed, streamed_cpu = _round(load, meter)
        load.tell()
    wrong = [*warm["wrong"], *plain["wrong"], *streamed["wrong"]]
    return Result(
        scenario="completions",
        title="OpenAI-compatible calls",
        how=HOW.format(
            at_once=AT_ONCE,
            requests=sizes.requests,
            streams=sizes.streams,
            deltas=DELTAS,
            delay=sizes.stream_delay_ms,
        ),
        figures=(
            Figure(name="errors", value=len(wrong), unit="calls", goal=0),
            _cost("CPU of the gateway for each call", plain_cpu, plain, 0.3),
            Figure(name="calls", value=len(plain["samples"]) / plain["seconds"], unit="1/s"),
            *latencies("a call", plain["samples"]),
            _cost(f"CPU of the gateway for each stream of {DELTAS} pieces", streamed_cpu, streamed, 0.8),
            *latencies("a stream", streamed["samples"]),
            Figure(name="CPU of the generator in calls", value=_share(plain), unit="% of a core"),
            Figure(name="CPU of the generator in streams", value=_share(streamed), unit="% of a core"),
        ),
        wrong=tuple(wrong),
    )


def _round(load: Load, meter: Meter) -> tuple[dict[str, Any], float]:
    """What the generator said of its next round, and the gateway's CPU seconds meanwhile."""
    before = meter.part_cpu_s(GATEWAY)
    load.tell()
    told = load.hear(ROUND_S)
    return told, meter.part_cpu_s(GATEWAY) - before


def _cost(name: str, cpu_s: float, told: dict[str, Any], goal: float) -> Figure:
    return Figure(name=name, value=cpu_s / max(len(told["samples"]), 1) * 1e3, unit="ms", goal=goal)


def _share(told: dict[str, float]) -> float:
    return told["cpu_s"] / told["seconds"] * 100

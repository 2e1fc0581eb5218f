"""The OpenAI-compatible path: what a call and a stream cost one gateway."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from benchmarks import latencies, meter
from benchmarks.driver import Load
from benchmarks.load.completions import Plan
from benchmarks.people import make_key, make_people
from benchmarks.processes import accepting, running
from benchmarks.scenario import Bench, Contestant, Goal, Measure, Metric, Sample, Scenario, Value
from benchmarks.target import MODEL
from cli.ports import choose

GATEWAY = "gateway-1"
ROUND_S = 120.0


class Sizes(msgspec.Struct, frozen=True):
    """`streams` of `deltas` pieces, `delay_ms` apart."""

    requests: int
    streams: int
    delay_ms: float
    deltas: int = 64
    at_once: int = 32


@contextlib.contextmanager
def _ours(bench: Bench, sizes: Sizes) -> Iterator[Measure]:
    target = bench.target
    person = asyncio.run(make_people(target.config, 1))[0]
    key = asyncio.run(make_key(target.config, person))
    pid = target.pids()[GATEWAY]
    with _loaded(target.own_http(GATEWAY), key, sizes, lambda: meter.cpu(pid).total_s) as measure:
        yield measure


@contextlib.contextmanager
def _floor(bench: Bench, sizes: Sizes) -> Iterator[Measure]:
    port = choose()
    argv = [sys.executable, "-m", "benchmarks.relay", str(port), str(bench.target.provider_port)]
    with (
        running("relay", argv, bench.folder, ports={}, ready=accepting(port)) as relay,
        _loaded(port, "none", sizes, lambda: meter.cpu(relay.pid).total_s) as measure,
    ):
        yield measure


@contextlib.contextmanager
def _loaded(port: int, key: str, sizes: Sizes, cpu_s: Callable[[], float]) -> Iterator[Measure]:
    plan = Plan(
        port=port,
        key=key,
        model=MODEL,
        at_once=sizes.at_once,
        warm=4 * sizes.at_once,
        requests=sizes.requests,
        streams=sizes.streams,
        deltas=sizes.deltas,
        delay_ms=sizes.delay_ms,
    )
    with Load("completions", plan) as load:
        warm: list[str] = load.hear(ROUND_S)["wrong"]

        def part() -> tuple[Mapping[str, Any], float]:
            before = cpu_s()
            load.tell()
            return load.hear(ROUND_S), cpu_s() - before

        def measure(_: int) -> Sample:
            return _sample(warm, *part(), *part())

        yield measure


def _sample(
    warm: list[str], plain: Mapping[str, Any], plain_s: float, streamed: Mapping[str, Any], streamed_s: float
) -> Sample:
    calls, streams = max(len(plain["samples"]), 1), max(len(streamed["samples"]), 1)
    return Sample(
        values=[
            Value("call", plain_s / calls * 1e3),
            Value("stream", streamed_s / streams * 1e3),
            Value("rate", calls / plain["seconds"]),
            *latencies.values("called", latencies.counted(plain["samples"])),
            *latencies.values("streamed", latencies.counted(streamed["samples"])),
        ],
        generator=max(told["cpu_s"] / told["seconds"] for told in (plain, streamed)),
        wrong=[*warm, *plain["wrong"], *streamed["wrong"]],
    )


SCENARIO = Scenario(
    name="completions",
    order=300,
    title="OpenAI-compatible calls",
    question="What do a call and a stream of the OpenAI-compatible path cost one gateway?",
    how=(
        "`POST /v1/chat/completions` with an API key, {at_once} in flight over as many connections, each begun when "
        "one before it ended: {requests:,} plain calls that are answered with one piece of text, then {streams:,} "
        "streams of {deltas} pieces, {delay_ms:g} ms apart, each its own write of the provider's. Key, limits and "
        "usage records are as in every call."
    ),
    floor="A relay on uvloop that hands every byte on between client and provider and reads none of them.",
    peers="None is started: other gateways do other work for a call, most of them without key, limits or records.",
    misleads=(
        "The load is closed: latencies are told, but it is the CPU that is asked for. The provider answers at once, so "
        "the time of a call is nearly all queueing for the machine's cores."
    ),
    metrics=[
        Metric(
            key="call",
            label="CPU of the gateway for each call",
            unit="ms",
            goal=Goal(most=0.3),
            chart=True,
            headline=True,
        ),
        Metric(
            key="stream",
            label="CPU of the gateway for each stream",
            unit="ms",
            goal=Goal(most=0.8),
            chart=True,
            headline=True,
        ),
        Metric(key="rate", label="calls", unit="1/s", more=True),
        *latencies.metrics("called", "a call"),
        *latencies.metrics("streamed", "a stream"),
    ],
    full=Sizes(requests=4_000, streams=640, delay_ms=10.0),
    tiny=Sizes(requests=32, streams=32, delay_ms=1.0),
    contestants=[Contestant("Parley", "ours", _ours), Contestant("floor", "floor", _floor)],
    needs_stack=True,
)

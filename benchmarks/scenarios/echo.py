"""Echo: how long a small question takes, while others are open and idle, and as the load grows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import msgspec

from benchmarks import meter, sites
from benchmarks.crowd import Crowd, crowd
from benchmarks.scenario import Bench, Measure, Metric, Sample, Scenario, Value
from benchmarks.sites import Opener, Site

PEERS = ("picows", "websockets", "aiohttp", "granian-asgi", "granian-rsgi")
SATURATED_MS = 250.0
LACKS = "it has no such mode: it answers commands of its own, and a question needs a server of yours behind it"


class Sizes(msgspec.Struct, frozen=True):
    """`active` connections ask, in an open loop, `rates` a second together, `seconds` at each; then at `rate` with each
    of `idle` others open.
    """

    active: int
    rates: tuple[int, ...]
    idle: tuple[int, ...]
    rate: int
    seconds: float


@contextlib.contextmanager
def _start(bench: Bench, sizes: Sizes, opens: Opener) -> Iterator[Measure]:
    with opens(bench) as site:
        yield lambda _: _measured(site, sizes)


def _measured(site: Site, sizes: Sizes) -> Sample:
    values: list[Value] = []
    wrong: list[str] = []
    with crowd(sizes.active + max(sizes.idle)) as clients:
        active = clients.join(site, sizes.active)
        clients.ask(site, active, rate=sizes.rate, seconds=sizes.seconds / 4)
        _climb(clients, site, active, sizes, values)
        others = 0
        for idle in sizes.idle:
            if idle > others:
                clients.join(site, idle - others)
                others = idle
            took, unanswered = clients.ask(site, active, rate=sizes.rate, seconds=sizes.seconds)
            values += [Value(f"idle_{key}", took.at(at), at=idle) for key, at in PERCENTILES.items()]
            if unanswered:
                wrong.append(f"{unanswered} questions were not answered with {idle:,} others open")
        return Sample(values=values, generator=clients.cores, wrong=wrong)


PERCENTILES = {"p50": 50.0, "p99": 99.0, "p999": 99.9}


def _climb(clients: Crowd, site: Site, active: range, sizes: Sizes, values: list[Value]) -> None:
    """Every rate, up to the first that is too much: that one is told too, the ones above it are not tried."""
    for rate in sizes.rates:
        before = meter.cpu(site.pid)
        took, unanswered = clients.ask(site, active, rate=rate, seconds=sizes.seconds)
        used = meter.cpu(site.pid).since(before)
        values += [Value(key, took.at(at), at=rate) for key, at in PERCENTILES.items()]
        values.append(Value("cpu", used.total_s / max(took.count, 1) * 1e6, at=rate))
        if unanswered or took.at(99) > SATURATED_MS:
            return


SCENARIO = Scenario(
    name="echo",
    order=130,
    title="Questions and answers",
    question="How long does a small answer take as the load grows, and does it matter how many others are open?",
    how=(
        "{active} connections send small text frames, together at each of the rates in an open loop (a frame is due "
        "whether earlier ones were answered or not, and its latency counts from then), {seconds} s at each; a server "
        "whose p99 passes 250 ms is not asked for more. Then {rate:,} a second while others are open and say nothing. "
        "The gateway is asked `ping` and answers `pong`; all others echo 32 bytes."
    ),
    floor="The bare `BufferedProtocol` in Python: it unmasks the frame with our kernel and writes it back.",
    peers="As they come, without compression; Centrifugo has no such mode.",
    misleads=(
        "Server and generator share two cores, so past one core's worth of both together the latency is the "
        "machine's, not the server's. The gateway does more for a frame: it decodes JSON and counts it against limits."
    ),
    metrics=[
        Metric(key="p50", label="p50", unit="ms", per="questions/s"),
        Metric(key="p99", label="p99", unit="ms", per="questions/s", chart=True),
        Metric(key="p999", label="p99.9", unit="ms", per="questions/s"),
        Metric(
            key="cpu",
            label="the server's CPU for each",
            unit="µs",
            per="questions/s",
            feeds="cpu_us_per_message",
        ),
        Metric(key="idle_p50", label="p50 beside idle ones", unit="ms", per="idle connections"),
        Metric(key="idle_p99", label="p99 beside idle ones", unit="ms", per="idle connections", chart=True),
        Metric(key="idle_p999", label="p99.9 beside idle ones", unit="ms", per="idle connections"),
    ],
    full=Sizes(
        active=64, rates=(1_000, 5_000, 10_000, 20_000, 30_000), idle=(0, 1_000, 10_000), rate=2_000, seconds=1.5
    ),
    tiny=Sizes(active=8, rates=(200, 400), idle=(0, 20), rate=200, seconds=0.1),
    contestants=sites.contestants(
        ["floor", "listener", sites.GATEWAY, *PEERS], _start, without={sites.CENTRIFUGO: LACKS}
    ),
    rounds=2,
    needs_stack=True,
)

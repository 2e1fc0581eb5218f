"""How many turns a second a stack carries, how latencies grow on the way there, and what a turn costs each part."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import msgspec

from benchmarks.dialogue import Dialogue, Script, Told, ask_provider, dialogue, provider
from benchmarks.meter import PROVIDER, Meter, Reading
from benchmarks.scenario import Bench, Contestant, Measure, Metric, Sample, Scenario, Value

SATURATED_MS = 500.0
WARM_RATE = 10.0
# The ledger and the janitor have then seen what the last turns left them.
AFTER_S = 0.5
PARTS = {
    "gateways": "gateways",
    "routers": "routers",
    "workers": "workers",
    "postgres": "PostgreSQL",
    "nats": "NATS",
    "redis": "Redis",
}


class Sizes(msgspec.Struct, frozen=True):
    """`users` send turns of `deltas` pieces, `delay_ms` apart, at each of `rates` a second for `seconds`. `warm`: turns
    before all that; `idle_s`: how long it is watched what the parts use by themselves.
    """

    users: int
    deltas: int
    delay_ms: float
    rates: tuple[int, ...]
    seconds: float
    warm: int
    idle_s: float

    @property
    def script(self) -> Script:
        return Script(self.deltas, self.delay_ms)


@contextlib.contextmanager
def _parley(bench: Bench, sizes: Sizes) -> Iterator[Measure]:
    with dialogue(bench.target, sizes.users) as talk:
        meter = Meter(bench.target)
        talk.run(sizes.warm, WARM_RATE, sizes.script)
        yield lambda _: _climb(talk, meter, sizes)


def _climb(talk: Dialogue, meter: Meter, sizes: Sizes) -> Sample:
    """Every rate, up to the first that is too much: it is told too, and those above it are not tried."""
    values: list[Value] = []
    wrong: list[str] = []
    cores, carried = 0.0, 0.0
    idle = _idle(meter, sizes.idle_s)
    for rate in sizes.rates:
        count = max(8, round(rate * sizes.seconds))
        frames, first = talk.prepare(count, sizes.script)
        before = meter.read()
        told = talk.send(frames, first, rate, sizes.script)
        time.sleep(AFTER_S)
        values += _latencies(told, rate, sizes) + _costs(before, meter.read(), idle, count, rate)
        cores = max(cores, told.cores)
        wrong += told.wrong
        if told.took["first"].at(95) > SATURATED_MS:
            break
        carried = rate
    return Sample(values=[*values, Value("carried", carried)], generator=cores, wrong=wrong)


def _latencies(told: Told, rate: float, sizes: Sizes) -> list[Value]:
    found = told.values({"accepted": "accepted", "first": "first", "end": "end"}, rate)
    own = sizes.script.seconds * 1e3
    return [
        Value(value.metric, value.value - own, value.at) if value.metric.startswith("end") else value for value in found
    ]


def _idle(meter: Meter, seconds: float) -> dict[str, float]:
    """CPU by kind while nothing is asked, in seconds per second."""
    before = meter.read()
    time.sleep(seconds)
    after = meter.read()
    return {kind: used / (after.at - before.at) for kind, used in after.since(before).items()}


def _costs(before: Reading, after: Reading, idle: dict[str, float], count: int, rate: float) -> list[Value]:
    """CPU of each part for a turn, in ms, less what it uses by itself."""
    seconds = after.at - before.at
    used = {kind: max(0.0, cpu - idle[kind] * seconds) / count * 1e3 for kind, cpu in after.since(before).items()}
    found = [Value(key, used[kind], rate) for key, kind in PARTS.items()]
    return [*found, Value("cpu", sum(used.values()) - used[PROVIDER], rate)]


@contextlib.contextmanager
def _direct(bench: Bench, sizes: Sizes) -> Iterator[Measure]:
    with provider(bench.target, max(sizes.users, round(max(sizes.rates) * (sizes.script.seconds + 1)))) as (
        engine,
        numbers,
    ):

        def measure(_: int) -> Sample:
            values: list[Value] = []
            wrong: list[str] = []
            cores = 0.0
            for rate in sizes.rates:
                told = ask_provider(engine, numbers, max(8, round(rate * sizes.seconds)), rate, sizes.script)
                values += told.values({"first": "http.0.first"}, rate)
                wrong += told.wrong
                cores = max(cores, told.cores)
            return Sample(values=values, generator=cores, wrong=wrong)

        yield measure


_AT = "turns/s"

SCENARIO = Scenario(
    name="turns",
    order=210,
    title="Turns a second",
    question="How many turns a second does one stack carry, how do latencies grow, and what does a turn cost?",
    how=(
        "Turns are sent over {users} WebSockets of as many users at two gateways, each in a conversation of its own, "
        "at random moments (Poisson) at each of the rates {rates} a second, {seconds} s at each, up to the first at "
        "which 5 % of the first tokens take longer than half a second. Each answer has {deltas} pieces of text, "
        "{delay_ms:.0f} ms apart. Every text is compared with what the provider gives. CPU is user and system time of "
        "whole processes, less what they use while nothing is asked."
    ),
    floor="The provider called directly over HTTP by the same native client, at the same rates.",
    peers="None, for the reasons of the scenario before: what they do for a message is something else.",
    misleads=(
        "Everything shares two processors, the load and the provider too: the rate that is carried is this machine's, "
        "not a server's. The costs by part carry over to other sizes, the rate does not. `first` of the provider is "
        "the first byte of its body."
    ),
    metrics=[
        Metric(
            key="carried", label="carried, p95 of first tokens within 500 ms", unit="turns/s", more=True, headline=True
        ),
        *(
            Metric(
                key=f"{short}_{key}",
                label=f"{label}, {key}",
                unit="ms",
                per=_AT,
                chart=(short, key) == ("first", "p95"),
            )
            for short, label in (
                ("accepted", "`accepted` (durable)"),
                ("first", "first token"),
                ("end", "the end (durable), after the provider's own time"),
            )
            for key in ("p50", "p95", "p99")
        ),
        Metric(key="cpu", label="CPU for each turn, all parts", unit="ms", per=_AT, feeds="cpu_ms_per_turn"),
        *(Metric(key=key, label=f"of it {kind}", unit="ms", per=_AT) for key, kind in PARTS.items()),
    ],
    full=Sizes(users=400, deltas=32, delay_ms=20.0, rates=(5, 10, 20, 40, 60, 80), seconds=8.0, warm=40, idle_s=2.0),
    tiny=Sizes(users=8, deltas=4, delay_ms=5.0, rates=(20, 40), seconds=0.2, warm=1, idle_s=0.1),
    contestants=[Contestant("parley", "ours", _parley), Contestant("provider", "floor", _direct)],
    rounds=2,
    needs_stack=True,
)

"""What Parley adds to the time of the first token, at a tenth and at half of the machine's processors."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from benchmarks.dialogue import Dialogue, Script, ask_provider, dialogue, provider
from benchmarks.meter import Meter, Reading
from benchmarks.scenario import Bench, Contestant, Goal, Measure, Metric, Sample, Scenario, Value

TRIAL_RATE = 25.0
IDLE_S = 1.0


class Sizes(msgspec.Struct, frozen=True):
    """`users` send turns of `deltas` pieces, `delay_ms` apart, for `seconds` at each of `loads` (shares of all
    processors). `rates`: turns a second at each, where they are not to be found out. `warm`: turns before all that.
    """

    users: int
    deltas: int
    delay_ms: float
    loads: tuple[float, ...]
    seconds: float
    warm: int
    rates: tuple[float, ...] = ()

    @property
    def script(self) -> Script:
        return Script(self.deltas, self.delay_ms)


@contextlib.contextmanager
def _parley(bench: Bench, sizes: Sizes) -> Iterator[Measure]:
    connections = sizes.users
    with dialogue(bench.target, sizes.users) as talk, provider(bench.target, connections) as (direct, numbers):
        meter = Meter(bench.target)
        rates = sizes.rates or _rates(talk, meter, sizes)
        _noted(bench).write_text(json.dumps(rates))
        ask_provider(direct, numbers, sizes.warm, TRIAL_RATE, sizes.script)

        def measure(_: int) -> Sample:
            values: list[Value] = []
            wrong: list[str] = []
            cores = 0.0
            for load, rate in zip(sizes.loads, rates, strict=True):
                count, at = max(8, round(rate * sizes.seconds)), load * 100
                bare = ask_provider(direct, numbers, count, rate, sizes.script)
                frames, first = talk.prepare(count, sizes.script)
                before = meter.read()
                told = talk.send(frames, first, rate, sizes.script)
                after = meter.read()
                values += told.values({"accepted": "accepted", "first": "first"}, at)
                values += [
                    Value(f"added_{key}", told.took["first"].at(percent) - bare.took["http.0.first"].at(percent), at)
                    for key, percent in (("p50", 50.0), ("p99", 99.0))
                    if "first" in told.took and "http.0.first" in bare.took
                ]
                values.append(Value("rate", rate, at))
                values.append(Value("load", _load(before, after), at))
                wrong += [*bare.wrong, *told.wrong]
                cores = max(cores, told.cores)
            return Sample(values=values, generator=cores, wrong=wrong)

        yield measure


@contextlib.contextmanager
def _direct(bench: Bench, sizes: Sizes) -> Iterator[Measure]:
    with provider(bench.target, sizes.users) as (engine, numbers):
        ask_provider(engine, numbers, sizes.warm, TRIAL_RATE, sizes.script)

        def measure(_: int) -> Sample:
            values: list[Value] = []
            wrong: list[str] = []
            cores = 0.0
            rates: list[float] = json.loads(_noted(bench).read_text())
            for load, rate in zip(sizes.loads, rates, strict=True):
                told = ask_provider(engine, numbers, max(8, round(rate * sizes.seconds)), rate, sizes.script)
                values += told.values({"first": "http.0.first"}, load * 100)
                wrong += told.wrong
                cores = max(cores, told.cores)
            return Sample(values=values, generator=cores, wrong=wrong)

        yield measure


def _noted(bench: Bench) -> Path:
    return bench.folder / "rates.json"


def _rates(talk: Dialogue, meter: Meter, sizes: Sizes) -> tuple[float, ...]:
    """Turns a second at each load, by what a turn costs at a low rate."""
    talk.run(sizes.warm, TRIAL_RATE, sizes.script)
    rest = meter.read()
    time.sleep(IDLE_S)
    idle = sum(meter.read().since(rest).values()) / IDLE_S
    count = round(TRIAL_RATE * max(2.0, sizes.seconds / 2))
    frames, first = talk.prepare(count, sizes.script)
    before = meter.read()
    talk.send(frames, first, TRIAL_RATE, sizes.script)
    after = meter.read()
    each = (sum(after.since(before).values()) - idle * (after.at - before.at)) / count
    cores = os.cpu_count() or 1
    return tuple(max(1.0, round((load * cores - idle) / each, 1)) for load in sizes.loads)


def _load(before: Reading, after: Reading) -> float:
    """What the stack and its provider used, in % of all processors."""
    return sum(after.since(before).values()) / (after.at - before.at) / (os.cpu_count() or 1) * 100


_AT = "% of all processors"

SCENARIO = Scenario(
    name="first_token",
    order=200,
    title="What Parley adds to the first token",
    question="How much later does the first token come than from the provider itself, with every turn durable first?",
    how=(
        "Turns are sent over {users} WebSockets of as many users at two gateways, each in a conversation of its own, "
        "at random moments (Poisson), whether earlier ones have ended or not; as many a second as use a tenth and half "
        "of all processors, which a trial finds out; the stack and the provider count for it, the load generator "
        "does not. The scripted provider answers each without delay, with {deltas} pieces of text, "
        "{delay_ms:.0f} ms apart. Right before each run the same answers are asked for at the same "
        "pace from the provider directly. Times count from the moment at which a turn was due. Added is the difference "
        "of the percentiles. Every text is compared with what the provider gives."
    ),
    floor="The provider called directly over HTTP by the same native client, at the same rates.",
    peers=(
        "None: other gateways to models keep no conversations, and other chat servers do not store a turn before they "
        "accept it, so their figures answer other questions."
    ),
    misleads=(
        "The provider's first byte stands for its first token, so what is added is told a little too high. All "
        "processes, the servers of the embedded stack and the load share this machine: on two processors a turn's six "
        "hops between processes wait for each other, and for the commits of other turns, more than on separate ones. "
        "The differences of percentiles are not percentiles of differences."
    ),
    metrics=[
        Metric(
            key="added_p50", label="added, p50", unit="ms", per=_AT, goal=Goal(most=2, at=50), chart=True, headline=True
        ),
        Metric(key="added_p99", label="added, p99", unit="ms", per=_AT, goal=Goal(most=5, at=50), headline=True),
        Metric(key="first_p50", label="first token, p50", unit="ms", per=_AT),
        Metric(key="first_p95", label="first token, p95", unit="ms", per=_AT),
        Metric(key="first_p99", label="first token, p99", unit="ms", per=_AT),
        Metric(key="accepted_p50", label="`accepted` (durable), p50", unit="ms", per=_AT),
        Metric(key="accepted_p95", label="`accepted` (durable), p95", unit="ms", per=_AT),
        Metric(key="accepted_p99", label="`accepted` (durable), p99", unit="ms", per=_AT),
        Metric(key="rate", label="offered", unit="turns/s", per=_AT, more=True),
        Metric(key="load", label="used by the stack and its provider", unit="%", per=_AT),
    ],
    full=Sizes(users=200, deltas=32, delay_ms=20.0, loads=(0.1, 0.5), seconds=12.0, warm=40),
    tiny=Sizes(users=4, deltas=4, delay_ms=5.0, loads=(0.5,), seconds=0.2, warm=1, rates=(40.0,)),
    contestants=[Contestant("parley", "ours", _parley), Contestant("provider", "floor", _direct)],
    rounds=3,
    needs_stack=True,
)

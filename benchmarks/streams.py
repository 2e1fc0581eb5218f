"""Many answers streaming at once: what Parley adds to the first token's time, and what a turn costs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

import msgspec

from benchmarks.driver import Load
from benchmarks.figures import Figure, Result, latencies, percentile
from benchmarks.load import provider, turns
from benchmarks.load.streams import Told
from benchmarks.meter import Meter, Reading
from benchmarks.people import make_conversations, make_people
from benchmarks.sizes import Sizes
from benchmarks.target import GATEWAYS, MODEL, Target

PARTS = ("gateway-1", "gateway-2", "router-1", "router-2")
PATIENCE_S = 20.0
# The ledger and the janitor have then seen what the last turns left them.
AFTER_S = 1.0
HOW = """\
{turns:,} turns are sent over {users} WebSockets of as many users, half of them at each of two gateways, each turn in a
conversation of its own: one every {interval:.1f} ms, due whether earlier ones have ended or not, so that {at_once} or
more stream at once as soon as the first begin to end. The scripted provider answers each without delay, with {deltas}
pieces of text, {delay:.0f} ms apart. Before that the same {turns:,} answers are asked for at the same pace from the
provider directly, over its HTTP. Every text must be the one that the provider gave directly. Times count from the
moment at which a turn was due. "Added" is the difference of the percentiles of the two runs."""


def measure(target: Target, sizes: Sizes) -> Result:
    direct = _direct(target, sizes)
    people = asyncio.run(make_people(target.config, sizes.at_once))
    plan = turns.Plan(
        ports=[target.own_ws(gateway) for gateway in GATEWAYS],
        tokens=[person.token for person in people],
        conversations=asyncio.run(make_conversations(target.config, people, sizes.turns)),
        deltas=sizes.deltas,
        delay_ms=sizes.delay_ms,
        interval_s=sizes.turn_interval_s,
        settle_s=PATIENCE_S,
    )
    meter = Meter(target)
    with Load("turns", plan) as load:
        load.hear()
        idle = _rest(meter, sizes.idle_s)
        before = {part: meter.rss(part) for part in PARTS}
        began = meter.read()
        load.tell()
        told = msgspec.convert(load.hear(_length_s(sizes)), Told)
        time.sleep(AFTER_S)
        ended = meter.read()
        grown = {part: (meter.rss(part), meter.rss(part) - before[part]) for part in PARTS}
        load.tell()
        lost = load.hear()["lost"]
    return Result(
        scenario="streams",
        title="Streams at once",
        how=HOW.format(
            turns=sizes.turns,
            users=sizes.at_once,
            interval=sizes.turn_interval_s * 1e3,
            at_once=sizes.at_once,
            deltas=sizes.deltas,
            delay=sizes.delay_ms,
        ),
        figures=(
            *_counts(told, direct, sizes),
            *_times(told, direct, sizes),
            *_costs(began, ended, idle, sizes.turns),
            *_memory(grown),
            Figure(name="CPU of the generator", value=told.cpu_s / told.seconds * 100, unit="% of a core"),
            Figure(name="the generator's lateness, p99", value=percentile(told.late, 99) * 1e3, unit="ms"),
        ),
        wrong=(*(f"directly: {why}" for why in direct.wrong), *told.wrong, *lost, *_differing(told, direct)),
    )


def _direct(target: Target, sizes: Sizes) -> Told:
    plan = provider.Plan(
        port=target.provider_port,
        model=MODEL,
        count=sizes.turns,
        deltas=sizes.deltas,
        delay_ms=sizes.delay_ms,
        interval_s=sizes.turn_interval_s,
        settle_s=PATIENCE_S,
    )
    with Load("provider", plan) as load:
        return msgspec.convert(load.hear(_length_s(sizes)), Told)


def _length_s(sizes: Sizes) -> float:
    """How long a run may take."""
    return sizes.turns * sizes.turn_interval_s + sizes.stream_s + 2 * PATIENCE_S


def _rest(meter: Meter, seconds: float) -> dict[str, float]:
    """CPU by kind while the sockets are open and nothing is asked, in seconds per second."""
    before = meter.read()
    time.sleep(seconds)
    after = meter.read()
    return {kind: used / (after.at - before.at) for kind, used in after.since(before).items()}


def _differing(told: Told, direct: Told) -> list[str]:
    pairs = enumerate(zip(told.digests, direct.digests, strict=True))
    return [f"the text of turn {number} is not what the provider gave" for number, (ours, its) in pairs if ours != its]


def _counts(told: Told, direct: Told, sizes: Sizes) -> list[Figure]:
    whole = sizes.turns - len(_differing(told, direct))
    return [
        Figure(name="turns", value=sizes.turns, unit="turns"),
        Figure(name="errors", value=len(told.wrong), unit="turns", goal=0),
        Figure(name="texts that came whole", value=whole, unit="turns", goal=sizes.turns, least=True),
        Figure(name="most at once", value=told.most, unit="streams"),
    ]


def _times(told: Told, direct: Told, sizes: Sizes) -> list[Figure]:
    found = latencies("`accepted` (durable)", told.accepted)
    found += latencies("first token through Parley", told.first)
    found += latencies("first token from the provider directly", direct.first)
    goals = {50: 2.0, 99: 5.0}
    for percent, goal in goals.items() if told.first and direct.first else ():
        added = percentile(told.first, percent) - percentile(direct.first, percent)
        found.append(Figure(name=f"added to the first token, p{percent}", value=added * 1e3, unit="ms", goal=goal))
    over = [seconds - sizes.stream_s for seconds in told.ended]
    return [*found, *latencies("the end (durable), after the provider's own time", over)]


def _costs(began: Reading, ended: Reading, idle: Mapping[str, float], count: int) -> list[Figure]:
    used, seconds = ended.since(began), ended.at - began.at
    found = [
        Figure(
            name=f"CPU for each turn, {kind}",
            value=cpu / count * 1e3,
            unit="ms",
            note=f"idle, they use {idle[kind] * 100:.1f} % of a core",
        )
        for kind, cpu in used.items()
    ]
    ours = sum(cpu for kind, cpu in used.items() if kind in ("gateways", "routers"))
    found.append(Figure(name="CPU for each turn, gateways and routers together", value=ours / count * 1e3, unit="ms"))
    found.append(
        Figure(name="CPU of everything but the generator", value=sum(used.values()) / seconds * 100, unit="% of a core")
    )
    return found


def _memory(grown: Mapping[str, tuple[int, int]]) -> list[Figure]:
    return [
        Figure(name=f"RSS of {part} after the run", value=after / 2**20, unit="MiB", note=f"{more / 2**20:+.1f} MiB")
        for part, (after, more) in grown.items()
    ]

"""Idle WebSockets on one gateway: what each costs, and whether they hold."""

from __future__ import annotations

import asyncio
import time

from benchmarks.driver import Load
from benchmarks.figures import Figure, Result, latencies, percentile
from benchmarks.load.sockets import Plan
from benchmarks.meter import Meter
from benchmarks.people import make_people
from benchmarks.sizes import Sizes
from benchmarks.target import Target

GATEWAY = "gateway-1"
AT_ONCE = 64
QUIET_S = 1.0
HOW = """\
{sockets:,} sockets are opened at one gateway, each by another user with an access token that the gateway has not seen
before, {at_once} handshakes at any moment, up to the `welcome` frame. They stay open for {hold:.0f} s with nothing on
them but the protocol's own pings; then {pings:,} `ping` frames are sent, {rate:.0f} a second, over one socket after the
other, while all are open. RSS is the gateway process's; what the kernel keeps per socket is not in it."""


def measure(target: Target, sizes: Sizes) -> Result:
    people = asyncio.run(make_people(target.config, sizes.sockets))
    plan = Plan(
        port=target.own_ws(GATEWAY),
        tokens=[person.token for person in people],
        at_once=AT_ONCE,
        pings=sizes.pings,
        interval_s=1 / sizes.ping_rate,
    )
    meter = Meter(target)
    empty, cpu = meter.rss(GATEWAY), meter.part_cpu_s(GATEWAY)
    with Load("sockets", plan) as load:
        opened = load.hear(60.0)
        handshakes_cpu = meter.part_cpu_s(GATEWAY) - cpu
        time.sleep(QUIET_S)
        full, cpu, began = meter.rss(GATEWAY), meter.part_cpu_s(GATEWAY), time.monotonic()
        time.sleep(sizes.hold_s)
        idle = (meter.part_cpu_s(GATEWAY) - cpu) / (time.monotonic() - began)
        load.tell()
        pinged = load.hear(60.0)
        load.tell()
        lost = load.hear()["lost"]
    count = opened["open"]
    wrong = [f"a socket was lost: {why}" for why in lost]
    if len(pinged["samples"]) < sizes.pings:
        wrong.append(f"{sizes.pings - len(pinged['samples'])} pings were not answered")
    return Result(
        scenario="idle",
        title="Idle WebSockets",
        how=HOW.format(
            sockets=sizes.sockets, at_once=AT_ONCE, hold=sizes.hold_s, pings=sizes.pings, rate=sizes.ping_rate
        ),
        figures=(
            Figure(name="open on one gateway", value=count, unit="sockets"),
            Figure(name="lost", value=len(lost), unit="sockets", goal=0),
            Figure(name="RSS for each", value=(full - empty) / count / 1024, unit="KiB", goal=4.0),
            Figure(name="RSS of the gateway before", value=empty / 2**20, unit="MiB"),
            Figure(name="CPU of the gateway while they are idle", value=idle * 100, unit="% of a core"),
            Figure(name="handshakes with authentication", value=count / opened["seconds"], unit="1/s"),
            Figure(
                name="the same for each second of the gateway's CPU",
                value=count / max(handshakes_cpu, 0.01),
                unit="1/s",
                goal=5_000,
                least=True,
            ),
            *latencies("ping round trip", pinged["samples"], p99=10.0),
            Figure(name="of it the generator's lateness, p99", value=percentile(pinged["late"], 99) * 1e3, unit="ms"),
            Figure(name="CPU of the generator in handshakes", value=_share(opened), unit="% of a core"),
            Figure(name="CPU of the generator in pings", value=_share(pinged), unit="% of a core"),
        ),
        wrong=tuple(wrong),
    )


def _share(told: dict[str, float]) -> float:
    return told["cpu_s"] / told["seconds"] * 100

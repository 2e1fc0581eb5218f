"""A quarter of a million authenticated connections on one machine, and a question to a random one of them."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from benchmarks import capacity, credentials, meter, sites
from benchmarks.native.fleet import Fleet, Told, shares
from benchmarks.native.upgrade import loopback, upgrade
from benchmarks.processes import Server, gateways
from benchmarks.scenario import Bench, CannotStart, Contestant, Goal, Measure, Metric, Sample, Scenario, Value

KIB = 1024
PREPARE_S = 120.0
OPEN_S = 240.0
SLICE_S = 0.5
HANDSHAKE_S = 60.0
ANSWER_S = 30.0
SPARE_FILES = 1_500
PING = b'{"type":"ping","t":1}'
PONG = b'{"type":"pong"'

Result = TypeVar("Result")


class Sizes(msgspec.Struct, frozen=True):
    """`processes` gateways hold `connections` together, from `sources` addresses each, opened `at_once` each; then in
    every round nothing happens for `hold_s`, and `rate` pings a second are asked for `ping_s`.
    """

    connections: int
    processes: int
    sources: int
    at_once: int
    hold_s: float
    rate: int
    ping_s: float


@dataclass(frozen=True)
class _Held:
    """What opening them all took: `values` are the same in every round."""

    servers: Sequence[Server]
    fleet: Fleet
    counts: Sequence[int]
    values: Sequence[Value]
    busiest: float

    @property
    def pids(self) -> list[int]:
        return [server.pid for server in self.servers]


@contextlib.contextmanager
def _start(bench: Bench, sizes: Sizes) -> Iterator[Measure]:
    per_process = -(-sizes.connections // sizes.processes)
    missing = capacity.missing(sizes.connections, per_process + SPARE_FILES, sizes.sources, per_process)
    if missing:
        raise CannotStart("this machine lacks " + "; ".join(missing))
    doors = {**sites.OPEN_DOORS, "max_connections": per_process + 1}
    with (
        gateways(bench.target, sizes.processes, bench.folder, files=sites.FILES, **doors) as servers,
        Fleet(sizes.processes, capacity=per_process) as fleet,
    ):
        opened = _open(bench, sizes, servers, fleet)
        yield lambda _: _measured(opened, sizes)


def _open(bench: Bench, sizes: Sizes, servers: Sequence[Server], fleet: Fleet) -> _Held:
    counts, pids = shares(sizes.connections, sizes.processes), [server.pid for server in servers]
    fleet.each(
        "prepare_template",
        [
            {
                "template": upgrade(host=f"127.0.0.1:{server.ports['own_ws']}", token="{}").decode(),
                "values": [],
                "path": str(_tokens(bench, number, count)),
                "targets": [("127.0.0.1", server.ports["own_ws"])],
                "sources": loopback(sizes.sources, number * sizes.sources),
                "timeout_s": HANDSHAKE_S,
            }
            for number, (server, count) in enumerate(zip(servers, counts, strict=True))
        ],
        within_s=PREPARE_S,
    )
    empty, kernel, cpu = meter.memory(*pids), meter.kernel_sockets(), meter.cpu(*pids)
    fleet.reset()
    fleet.each("open", [{"span": [0, count], "at_once": sizes.at_once} for count in counts])
    told = _opened(fleet, sizes.connections)
    used = meter.cpu(*pids).since(cpu)
    fleet.run(SLICE_S * 4, until="time")
    full, more = _beside(fleet, lambda: (meter.memory(*pids), meter.kernel_sockets().since(kernel)))
    wall = max(told.wall_s, 1e-3)
    values = [
        Value("open", told.statistics["open"]),
        Value("handshakes", told.statistics["opened"] / wall),
        Value("handshake_cpu", used.total_s / sizes.connections * 1e6),
        Value("rss", (full.rss - empty.rss) / sizes.connections / KIB),
        Value("pss", (full.pss - empty.pss) / sizes.connections / KIB),
        Value("kernel", more.total / sizes.connections / 2 / KIB),
        Value("process_rss", full.rss / sizes.processes / KIB**2),
        Value("process_base", empty.rss / sizes.processes / KIB**2),
        Value("total", (full.pss + more.total / 2) / KIB**3),
    ]
    return _Held(servers, fleet, counts, values, told.busiest)


def _opened(fleet: Fleet, connections: int) -> Told:
    """Runs all until the last has opened all of its own: who is done answers heartbeats meanwhile."""
    until = time.monotonic() + OPEN_S
    while True:
        fleet.run(SLICE_S, until="time")
        told = fleet.told()
        if told.statistics["open"] >= connections or time.monotonic() > until:
            return told


def _beside(fleet: Fleet, work: Callable[[], Result]) -> Result:
    """Work of ours while all go on to answer heartbeats: silence would make them fall due together ever after."""
    done = threading.Event()

    def serve() -> None:
        while not done.is_set():
            fleet.run(SLICE_S, until="time")

    with ThreadPoolExecutor(1) as pool:
        serving = pool.submit(serve)
        try:
            return work()
        finally:
            done.set()
            serving.result()


def _tokens(bench: Bench, number: int, count: int) -> Path:
    path = bench.folder / f"tokens-{number}.txt"
    path.write_text("\n".join(credentials.tokens(bench.target.config, count)))
    return path


def _measured(opened: _Held, sizes: Sizes) -> Sample:
    fleet, pids = opened.fleet, opened.pids
    fleet.reset()
    before = meter.cpu(*pids)
    fleet.run(sizes.hold_s, until="time")
    idle = meter.cpu(*pids).since(before)
    fleet.reset()
    before = meter.cpu(*pids)
    _ask(opened, sizes)
    busy = meter.cpu(*pids).since(before)
    told = fleet.told()
    took = told.latency("answer")
    asked = round(sizes.rate * sizes.ping_s)
    unanswered = asked - int(told.statistics["answered"])
    lost = sizes.connections - int(told.statistics["open"])
    wrong = [f"{lost} connections were lost: {told.statistics['closes']}"] if lost else []
    return Sample(
        values=[
            *opened.values,
            Value("lost", lost),
            Value("unanswered", unanswered),
            Value("p50", took.at(50)),
            Value("p99", took.at(99)),
            Value("p999", took.at(99.9)),
            Value("late", told.latency("late").at(99)),
            Value("idle_cores", idle.total_s / idle.at),
            Value("ping_cores", busy.total_s / busy.at),
            Value("generators", told.cpu_s / told.wall_s),
        ],
        generator=max(opened.busiest, told.busiest),
        wrong=wrong + ([f"{unanswered} of {asked} pings were not answered"] if unanswered else []),
    )


def _ask(opened: _Held, sizes: Sizes) -> None:
    """The pings of one process begin between those of the others, so that together they are as even as one's."""
    fleet, processes = opened.fleet, len(opened.counts)
    begin, apart = fleet.begin_ns(), int(1e9 / sizes.rate)
    asks = [
        {
            "span": [0, count],
            "payload": PING,
            "answer": PONG,
            "count": pings,
            "rate": sizes.rate / processes,
            "begin_ns": begin + number * apart,
        }
        for number, (count, pings) in enumerate(
            zip(opened.counts, shares(round(sizes.rate * sizes.ping_s), processes), strict=True)
        )
    ]
    fleet.each("send", asks)
    fleet.run(sizes.ping_s + ANSWER_S)


def _scenario_metrics() -> list[Metric]:
    return [
        Metric(
            key="open", label="open at once", unit="connections", more=True, goal=Goal(least=250_000), headline=True
        ),
        Metric(key="lost", label="lost until the end", unit="connections", goal=Goal(most=0)),
        Metric(key="p50", label="a ping, p50", unit="ms"),
        Metric(key="p99", label="a ping, p99", unit="ms", goal=Goal(most=10.0), headline=True),
        Metric(key="p999", label="a ping, p99.9", unit="ms"),
        Metric(key="late", label="of it the generators' lateness, p99", unit="ms"),
        Metric(key="unanswered", label="pings without an answer", unit="pings", goal=Goal(most=0)),
        Metric(key="rss", label="RSS for each connection", unit="KiB", goal=Goal(most=4.0)),
        Metric(key="pss", label="PSS for each connection", unit="KiB"),
        Metric(key="kernel", label="the kernel's memory for each end of one", unit="KiB"),
        Metric(key="process_rss", label="RSS of a gateway process with all its connections", unit="MiB"),
        Metric(key="process_base", label="RSS of a gateway process before", unit="MiB"),
        Metric(key="total", label="all gateways (PSS) and the kernel's share of their ends", unit="GiB"),
        Metric(key="idle_cores", label="CPU of all gateways while nothing is asked", unit="cores"),
        Metric(key="ping_cores", label="CPU of all gateways while they are pinged", unit="cores"),
        Metric(key="generators", label="all generators together, while they ping", unit="cores"),
        Metric(key="handshakes", label="handshakes on the wall clock while they open", unit="1/s", more=True),
        Metric(key="handshake_cpu", label="CPU of a gateway for one, while they open", unit="µs"),
    ]


SCENARIO = Scenario(
    name="quarter-million",
    order=155,
    title="A quarter of a million connections",
    question="Does one small machine hold 250,000 authenticated connections, and does it answer quickly while it does?",
    how=(
        "{processes} gateway processes, as many as the limit of open files asks for, are opened {connections:,} "
        "connections, each by another user with a token of its own, up to `welcome`; as many generators open them, "
        "{at_once} handshakes at any moment each, from {sources} loopback addresses each. All stay open, heartbeats "
        "and all. In each round nothing is asked for {hold_s:.0f} s, then {rate:,} pings a second in an open loop "
        "for {ping_s:.0f} s, each on a random one of all connections. Memory for each connection is what it grew by "
        "from none to all; the kernel's is halved, because both ends are on this machine. They are "
        "opened once: what they take of memory, and what their handshakes cost, is measured that once and stands in "
        "every round."
    ),
    floor="None here: what a connection costs the floor is in the scenario of idle connections.",
    peers="None: one machine holds either them or us; what a connection costs them is in the same scenario.",
    misleads=(
        "The generators and the stack's servers share the machine's cores with the gateways: the latency is of all "
        "of them together. Real clients are not all idle, and their networks are slower than loopback. Heartbeats, "
        "one for each connection in 25 s, are in the CPU."
    ),
    metrics=_scenario_metrics(),
    full=Sizes(connections=250_000, processes=14, sources=64, at_once=16, hold_s=10.0, rate=2_000, ping_s=30.0),
    tiny=Sizes(connections=100, processes=2, sources=4, at_once=8, hold_s=0.05, rate=200, ping_s=0.2),
    contestants=[Contestant("gateways", "ours", _start)],
    rounds=3,
    needs_stack=True,
)

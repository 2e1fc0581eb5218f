"""Results that were never measured, for tests of the reports: every kind of figure, contestant and mishap once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from benchmarks import results
from benchmarks.harness import Lent, run_scenario
from benchmarks.machine import Machine
from benchmarks.scenario import Bench, CannotStart, Contestant, Goal, Measure, Metric, Role, Sample, Scenario, Value

SPREADS = (1.0, 0.96, 1.05)  # of three rounds
LOADS = (100.0, 1_000.0, 4_000.0)
Known = Mapping[str, float | tuple[float, ...]]


class Sizes(msgspec.Struct, frozen=True):
    sockets: int


def contestant(
    name: str, role: Role, known: Known, *, generator: float = 0.4, wrong: str = "", fails_in: int | None = None
) -> Contestant[Sizes]:
    """One that is measured without being run: a number for each metric, or one for each of `LOADS`."""

    @contextlib.contextmanager
    def start(bench: Bench, sizes: Sizes) -> Iterator[Measure]:
        def measure(round_: int) -> Sample:
            if round_ == fails_in:
                raise RuntimeError("it is gone")
            values: list[Value] = []
            for key, value in known.items():
                if isinstance(value, tuple):
                    values += [Value(key, each * SPREADS[round_], at) for each, at in zip(value, LOADS, strict=True)]
                else:
                    values.append(Value(key, value * SPREADS[round_]))
            return Sample(values=values, generator=generator, wrong=[wrong] if wrong else [])

        yield measure

    return Contestant(name, role, start)


def not_installed(bench: Bench, sizes: Sizes) -> contextlib.AbstractContextManager[Measure]:
    raise CannotStart("there is no `centrifugo` on PATH")


IDLE = Scenario(
    name="idle",
    order=1,
    title="Idle <sockets>",
    question="What does an idle socket cost?",
    how="{sockets:,} sockets are opened.",
    floor="A bare protocol.",
    peers="Others.",
    misleads="Loopback.",
    metrics=[
        Metric(
            key="rss",
            label="RSS for each",
            unit="KiB",
            goal=Goal(most=4.0),
            chart=True,
            headline=True,
            feeds="rss_kib_per_connection",
        ),
        Metric(key="kernel", label="kernel memory for each", unit="KiB", feeds="kernel_kib_per_connection"),
        Metric(key="base", label="RSS without any", unit="MiB", feeds="rss_mib_per_gateway"),
        Metric(
            key="rate",
            label="frames out",
            unit="1/s",
            more=True,
            goal=Goal(least_of_floor=0.9),
            chart=True,
            headline=True,
        ),
        Metric(
            key="p99", label="round trip, p99", unit="ms", per="pings/s", chart=True, goal=Goal(most=10.0, at=4_000.0)
        ),
        Metric(key="lost", label="lost", unit="sockets", goal=Goal(most=0.0)),
    ],
    full=Sizes(sockets=18_000),
    tiny=Sizes(sockets=10),
    contestants=[
        contestant(
            "Parley",
            "ours",
            {"rss": 3.9, "kernel": 4.4, "base": 93.0, "rate": 80_000.0, "p99": (0.3, 0.5, 7.0), "lost": 0.0},
        ),
        contestant("floor", "floor", {"rss": 1.3, "kernel": 4.4, "rate": 91_000.0, "p99": (0.2, 0.3, 1.2)}),
        contestant("picows", "peer", {"rss": 8.6, "rate": 96_000.0, "p99": (0.3, 0.45, 2.0)}, generator=0.93),
        contestant("granian", "peer", {"rss": 148.0, "rate": 61_000.0, "p99": (0.5, 4.0, 90.0)}, fails_in=2),
        Contestant("Centrifugo", "peer", not_installed),
    ],
    rounds=3,
)
TURNS = Scenario(
    name="turns",
    order=2,
    title="Turns",
    question="What does a turn cost?",
    how="Turns are sent.",
    floor="None: a turn is ours alone.",
    peers="None.",
    misleads="The provider is scripted.",
    metrics=[
        Metric(key="cpu", label="CPU of a turn", unit="ms", feeds="cpu_ms_per_turn"),
        Metric(key="delta", label="CPU of a delta", unit="µs", feeds="cpu_us_per_delta"),
        Metric(key="wire", label="bytes of a delta", unit="B", feeds="wire_bytes_per_delta"),
        Metric(key="handshakes", label="handshakes", unit="1/s", more=True, feeds="handshakes_per_core_s"),
        Metric(key="idle", label="idle CPU", unit="µs/s", feeds="idle_cpu_us_per_connection_s"),
    ],
    full=Sizes(sockets=1),
    tiny=Sizes(sockets=1),
    contestants=[
        contestant(
            "Parley",
            "ours",
            {"cpu": 5.0, "delta": 3.0, "wire": 118.0, "handshakes": 5_200.0, "idle": 4.0},
            wrong="the text of turn 3 is cut",
        )
    ],
    rounds=3,
)
MACHINE = Machine(
    date="2026-01-02 03:04 UTC",
    revision="0123456789",
    processor="A processor",
    cores=2,
    memory_gib=23.5,
    system="Linux 6.1",
    python="3.11.7",
    disk="ext4",
    sync_ms=0.2,
    load=0.1,
    busy=0.0,
    limits={"open files of a process": "20000", "net.ipv4.tcp_mem": "1 2 3"},
)


def run_line(name: str = "run1", *, tiny: bool = False) -> results.Run:
    return results.Run(run=name, at=MACHINE.date, revision=MACHINE.revision, tiny=tiny, peers=True, machine=MACHINE)


def made(folder: Path, *scenarios: Scenario[Sizes], run: str = "run1") -> results.Results:
    """What a full run of these (by default both) gives."""
    bench, found = Lent(folder, tiny=False, settles=False), results.Results([run_line(run)])
    for scenario in scenarios or (IDLE, TURNS):
        found.add(results.lines_of(run_line(run), run_scenario(scenario, bench, peers=True)))
    return found

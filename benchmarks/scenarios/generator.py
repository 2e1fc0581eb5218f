"""What the load generator does by itself, so that what it measures is not its own slowness."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from benchmarks.native.capacity import TINY, Size, capacity
from benchmarks.scenario import Bench, Contestant, Measure, Metric, Sample, Scenario, Value


@contextlib.contextmanager
def _engine(bench: Bench, sizes: Size) -> Iterator[Measure]:
    def measure(_: int) -> Sample:
        found = capacity(sizes)
        return Sample(
            values=[
                Value("handshakes", found.handshakes),
                Value("sends", found.sends),
                Value("single", found.frames_single),
                Value("bursts", found.frames_bursts),
                Value("late", found.late_p99_ms),
            ]
        )

    yield measure


SCENARIO = Scenario(
    name="generator",
    order=800,
    title="The load generator itself",
    question="Was it the load generator that was measured?",
    how=(
        "The engine that opens the connections of other parts, sends, and takes their times, alone against a server in "
        "C that costs next to nothing: {sockets:,} handshakes, {sends:,} questions at {rate:,.0f} a second, "
        "{frames:,} frames pushed at it one in a write and many in a write. Counted for each second of its own CPU."
    ),
    floor="None: it is what stands before the floor.",
    peers="None.",
    misleads=(
        "It shares the machine with that server, so a lateness is also that of a machine whose cores are taken. What a "
        "part asked of it stands in that part's own table, as the share of a core that its busiest process used."
    ),
    metrics=[
        Metric(key="handshakes", label="handshakes for each second of its CPU", unit="1/s", more=True),
        Metric(key="sends", label="questions sent and answers taken", unit="1/s", more=True),
        Metric(key="single", label="frames taken, one in a write", unit="1/s", more=True),
        Metric(key="bursts", label="frames taken, many in a write", unit="1/s", more=True),
        Metric(key="late", label="its lateness while it sends, p99", unit="ms"),
    ],
    full=Size(),
    tiny=TINY,
    contestants=[Contestant("engine", "ours", _engine)],
    rounds=3,
)

"""Idle density: what one more idle connection costs a server in memory, and in CPU while nothing is on it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import msgspec

from benchmarks import meter, sites
from benchmarks.crowd import Crowd, crowd
from benchmarks.scenario import Bench, Goal, Measure, Metric, Sample, Scenario, Value
from benchmarks.sites import Opener, Site

KIB = 1024
PEERS = ("picows", "websockets", "aiohttp", "granian-asgi", "granian-rsgi", sites.CENTRIFUGO)


class Sizes(msgspec.Struct, frozen=True):
    """The slope is taken between `few` and `many` connections; `settle_s` passes before each reading of memory, then
    `hold_s` while CPU is read.
    """

    few: int
    many: int
    settle_s: float
    hold_s: float


@contextlib.contextmanager
def _start(bench: Bench, sizes: Sizes, opens: Opener) -> Iterator[Measure]:
    with contextlib.ExitStack() as held:
        started = held.enter_context(opens(bench))

        def measure(number: int) -> Sample:
            # A process of its own in each round: memory that was freed is seldom given back.
            if number == 0:
                with crowd(sizes.many) as clients:
                    return _measured(clients, started, sizes)
            held.close()
            with opens(bench) as site, crowd(sizes.many) as clients:
                return _measured(clients, site, sizes)

        yield measure


def _measured(clients: Crowd, site: Site, sizes: Sizes) -> Sample:
    numbers = clients.prepare(site, sizes.many)
    clients.open(site, numbers[: sizes.few], at_once=64)
    clients.hold(sizes.settle_s)
    few, few_kernel = meter.memory(site.pid), meter.kernel_sockets()
    clients.open(site, numbers[sizes.few :], at_once=64)
    clients.hold(sizes.settle_s)
    many, kernel = meter.memory(site.pid), meter.kernel_sockets().since(few_kernel)
    before = meter.cpu(site.pid)
    clients.hold(sizes.hold_s)
    used = meter.cpu(site.pid).since(before)
    more, lost = sizes.many - sizes.few, clients.lost(numbers)
    return Sample(
        values=[
            Value("rss", (many.rss - few.rss) / more / KIB),
            Value("pss", (many.pss - few.pss) / more / KIB),
            Value("kernel", kernel.total / more / 2 / KIB),
            Value("base", (many.rss - (many.rss - few.rss) / more * sizes.many) / KIB**2),
            Value("idle_cpu", used.total_s / used.at / sizes.many * 1e6),
        ],
        generator=clients.cores,
        wrong=[f"{lost} of {sizes.many} connections were lost"] if lost else [],
    )


SCENARIO = Scenario(
    name="density",
    order=100,
    title="Idle connections",
    question="What does one more idle connection cost, with all that the server keeps for it?",
    how=(
        "Clients open {few:,}, then {many:,} connections, 64 handshakes at any moment, and then say nothing but what "
        "heartbeats ask for. Figures for one connection are the slope between the two, so what a process costs by "
        "itself is apart. Each round starts a new process. At the gateway every client is another user, with a token "
        "that it has not seen, up to `welcome`. CPU is read over {hold_s:.0f} s in which nothing happens."
    ),
    floor=(
        "A bare `BufferedProtocol` on uvloop in Python, with one read buffer for all connections: the loop's own "
        "transport and one small object. It has no heartbeat, no limits and no close handshake."
    ),
    peers=(
        "Compression and heartbeats are off everywhere; picows has read "
        "buffers of 2 KiB instead of 16, Centrifugo pooled write buffers and read buffers of 1 KiB. Only Centrifugo "
        "and our gateway authenticate; only our gateway and our listener have heartbeats, every 25 s."
    ),
    misleads=(
        "Idle is the cheapest state: a connection that reads slowly may hold up to the write limit. A process's RSS "
        "holds what its allocator has not given back, so slopes hide what was kept before the first reading. The "
        "kernel's share is that of both ends on one machine, halved; with unread data it grows to the socket buffers."
    ),
    metrics=[
        Metric(
            key="rss",
            label="RSS for each connection",
            unit="KiB",
            goal=Goal(most=4.0),
            headline=True,
            chart=True,
            feeds="rss_kib_per_connection",
        ),
        Metric(key="pss", label="PSS for each connection", unit="KiB"),
        Metric(
            key="kernel",
            label="the kernel's memory for each end of one",
            unit="KiB",
            feeds="kernel_kib_per_connection",
        ),
        Metric(key="base", label="RSS of the process without connections", unit="MiB", feeds="rss_mib_per_gateway"),
        Metric(
            key="idle_cpu",
            label="CPU for each connection and second",
            unit="µs",
            feeds="idle_cpu_us_per_connection_s",
        ),
    ],
    full=Sizes(few=5_000, many=18_000, settle_s=0.5, hold_s=26.0),
    tiny=Sizes(few=20, many=60, settle_s=0.0, hold_s=0.05),
    contestants=sites.contestants(["floor", "listener", sites.GATEWAY, *PEERS], _start),
    rounds=2,
    needs_stack=True,
)

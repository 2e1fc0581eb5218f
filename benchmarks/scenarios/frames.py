"""Frames out: what a server's small frames cost its core, one in a write and several in a write."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import msgspec

from benchmarks import meter, sites
from benchmarks.crowd import Crowd, crowd
from benchmarks.peers.common import Command
from benchmarks.scenario import Bench, Goal, Measure, Metric, Sample, Scenario, Value
from benchmarks.sites import Opener, Site

PEERS = ("picows", "websockets", "aiohttp", "granian-asgi", "granian-rsgi")
WITHIN_S = 120.0
LACKS = "it has no such mode: it sends what is published to it; see the fan-out"


class Sizes(msgspec.Struct, frozen=True):
    """`connections` get `single` frames of `size` bytes each, one in every turn of the loop; then `coalesced` each, in
    groups of `group`.
    """

    connections: int
    size: int
    single: int
    coalesced: int
    group: int


@contextlib.contextmanager
def _start(bench: Bench, sizes: Sizes, opens: Opener) -> Iterator[Measure]:
    with opens(bench) as site:
        yield lambda _: _measured(site, sizes)


def _measured(site: Site, sizes: Sizes) -> Sample:
    with crowd(sizes.connections) as clients:
        numbers = clients.join(site, sizes.connections)
        clients.cores = 0.0
        single = _push(clients, site, numbers, Command("push", sizes.single, sizes.size))
        coalesced = _push(clients, site, numbers, Command("push", sizes.coalesced, sizes.size, sizes.group))
        return Sample(
            values=[
                Value("per_core", 1e6 / single[0]),
                Value("user", single[1]),
                Value("coalesced_per_core", 1e6 / coalesced[0]),
                Value("coalesced_user", coalesced[1]),
            ],
            generator=clients.cores,
        )


def _push(clients: Crowd, site: Site, numbers: range, command: Command) -> tuple[float, float]:
    """CPU of the server for each frame, and that in user space, in microseconds."""
    clients.engine.reset()
    frames, before = len(numbers) * command.frames, meter.cpu(site.pid)
    clients.tell(numbers, msgspec.json.encode(command))
    clients.receive(frames, WITHIN_S)
    used = meter.cpu(site.pid).since(before)
    return max(used.total_s, 0.01) / frames * 1e6, used.user_s / frames * 1e6


SCENARIO = Scenario(
    name="frames",
    order=140,
    title="Frames out",
    question="How many small frames can a core send?",
    how=(
        "Each of {connections} connections asks for {single:,} text frames of {size} bytes, and the server sends every "
        "one of them one frame in each turn of its loop: one write each, whatever a library would gather. Then for "
        "{coalesced:,}, {group} in each turn, as a server gathers what is due; that may leave in one write. CPU is the "
        "server process's, from the first request to the last frame's arrival."
    ),
    floor=(
        "The bare `BufferedProtocol` gives frames that were encoded beforehand to `transport.write`: one call for one "
        "frame, and one call for a whole group. What is left is the loop and the kernel."
    ),
    peers=(
        "Each library's own call for sending text: callbacks where it has them, awaited where it must be. Centrifugo "
        "has no such mode."
    ),
    misleads=(
        "With one frame in a write nearly all of it is the kernel's, and loopback's kernel also does the receiver's "
        "part within the sender's call. Nothing encodes here: a real frame is JSON of something."
    ),
    metrics=[
        Metric(
            key="per_core",
            label="frames for each second of the server's CPU, one in a write",
            unit="1/s",
            more=True,
            goal=Goal(least_of_floor=0.9),
            headline=True,
            chart=True,
        ),
        Metric(
            key="user", label="user CPU of one frame, one in a write", unit="µs", goal=Goal(most=2.0), headline=True
        ),
        Metric(
            key="coalesced_per_core",
            label="frames for each second of the server's CPU, gathered",
            unit="1/s",
            more=True,
            chart=True,
        ),
        Metric(key="coalesced_user", label="user CPU of one frame, gathered", unit="µs"),
    ],
    full=Sizes(connections=64, size=120, single=2_000, coalesced=6_400, group=16),
    tiny=Sizes(connections=4, size=120, single=20, coalesced=64, group=16),
    contestants=sites.contestants(["floor", "listener", *PEERS], _start, without={sites.CENTRIFUGO: LACKS}),
)

"""Fan-out: deltas that come from the bus, to thousands of connections that watch."""

from __future__ import annotations

import contextlib
import json
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

import msgspec

from benchmarks import credentials, meter, sites
from benchmarks.crowd import Crowd, crowd
from benchmarks.driver import Load
from benchmarks.load.edge import Plan
from benchmarks.peers.common import Command
from benchmarks.scenario import Bench, Contestant, Goal, Measure, Metric, Sample, Scenario, Value
from benchmarks.sites import Opener, Site
from core.config import environment
from core.model import Delta, Resume

PIECE = " token"
CHANNEL = "answer"
AT_ONCE = 32
CHUNK = 128
POOL = 4
OPEN_S = 180.0
STEP_S = 30.0
GENERATION = 47
AT = "deltas that come at once"
PEERS = ("picows", "websockets", "aiohttp", "granian-asgi", "granian-rsgi")


class Sizes(msgspec.Struct, frozen=True):
    """`viewers` connections; for each of `deltas`: `steps` times that many deltas of what each watches come at once."""

    viewers: int
    steps: int
    deltas: tuple[int, ...]


Step = Callable[[int], None]
"""Makes so many deltas come at once, and waits until they have arrived at every viewer."""


def _sample(clients: Crowd, pid: int, sizes: Sizes, step: Step) -> Sample:
    step(1)
    clients.cores = 0.0
    values = [value for deltas in sizes.deltas for value in _values(clients, pid, sizes, deltas, step)]
    return Sample(values=values, generator=clients.cores)


def _values(clients: Crowd, pid: int, sizes: Sizes, deltas: int, step: Step) -> list[Value]:
    clients.engine.reset()
    before, took = meter.cpu(pid), []
    for _ in range(sizes.steps):
        began = time.perf_counter()
        step(deltas)
        took.append(time.perf_counter() - began)
    used, all_deltas = meter.cpu(pid).since(before), sizes.steps * deltas * sizes.viewers
    return [
        Value("per_core", all_deltas / max(used.total_s, 0.01), at=deltas),
        Value("cpu", used.total_s / all_deltas * 1e6, at=deltas),
        Value("user", used.user_s / all_deltas * 1e6, at=deltas),
        Value("bytes", clients.received / all_deltas, at=deltas),
        Value("step", sorted(took)[len(took) // 2] * 1e3, at=deltas),
    ]


@contextlib.contextmanager
def _cast(bench: Bench, sizes: Sizes, opens: Opener) -> Iterator[Measure]:
    """The floor and libraries: one frame with the same bytes to everybody, in one turn of the loop."""

    def measure(_: int) -> Sample:
        with crowd(sizes.viewers) as clients:
            numbers = clients.join(site, sizes.viewers)

            def step(deltas: int) -> None:
                before = clients.frames
                clients.tell(numbers[:1], msgspec.json.encode(Command("cast", 1, len(_delta(deltas)))))
                clients.receive(before + sizes.viewers, STEP_S)

            return _sample(clients, site.pid, sizes, step)

    with opens(bench) as site:
        yield measure


def _delta(deltas: int) -> bytes:
    """The frame that a gateway sends for so many deltas that came together."""
    return msgspec.json.encode(Delta(g="g" * GENERATION, e=0, n=100, d=PIECE * deltas))


@contextlib.contextmanager
def _gateway(bench: Bench, sizes: Sizes, answers: int) -> Iterator[Measure]:
    """A gateway whose router is benchmarks/load/edge.py: deltas come over NATS."""
    config = bench.target.config
    settings = environment(config)

    def measure(_: int) -> Sample:
        owners = [credentials.new_id() for _ in range(answers)]
        with Load("edge", Plan(settings, owners, PIECE)) as edge, crowd(sizes.viewers) as clients:
            generations = edge.hear(OPEN_S)["generations"]
            tokens = credentials.tokens(config, sizes.viewers, owners)
            watching = replace(
                site,
                requests=lambda count: credentials.bearers(site.port, tokens),
                hellos=lambda count: [_resume(generations[number % answers]) for number in range(count)],
                greetings=2,
            )
            _watch(clients, watching, sizes.viewers)
            clients.engine.reset()

            def step(deltas: int) -> None:
                before = clients.frames
                edge.tell(deltas)
                clients.receive(before + sizes.viewers, STEP_S)
                edge.hear()

            sample = _sample(clients, site.pid, sizes, step)
            edge.tell(0)
            edge.hear(OPEN_S)
            return sample

    with sites.gateway(bench, pool=POOL, connections_per_user=sizes.viewers + 1) as site:
        yield measure


def _watch(clients: Crowd, site: Site, viewers: int) -> None:
    """Opened in chunks: each asks history for its answer, and only so many may wait for that."""
    numbers = clients.prepare(site, viewers)
    for at in range(0, viewers, CHUNK):
        clients.open(site, numbers[at : at + CHUNK], at_once=AT_ONCE)


def _resume(generation: str) -> bytes:
    return msgspec.json.encode(Resume(generation_id=generation, epoch=0, seq=-1))


@contextlib.contextmanager
def _centrifugo(bench: Bench, sizes: Sizes) -> Iterator[Measure]:
    """Publications of the same text to one channel with all as its subscribers, by its HTTP API."""
    frame = json.loads(_delta(1))
    push = len(json.dumps({"push": {"channel": CHANNEL, "pub": {"data": frame}}}, separators=(",", ":")))

    def measure(_: int) -> Sample:
        with crowd(sizes.viewers) as clients:
            subscribing = replace(site, hellos=lambda count: _subscribed(site, count))
            clients.join(subscribing, sizes.viewers)
            clients.hold(0.2)
            publication = {"publish": {"channel": CHANNEL, "data": frame}}

            def step(deltas: int) -> None:
                before = clients.received
                _post(site.port, "/api/batch", {"commands": [publication] * deltas})
                clients.receive_bytes(before + push * deltas * sizes.viewers, STEP_S)

            return _sample(clients, site.pid, sizes, step)

    with sites.centrifugo(bench) as site:
        yield measure


def _subscribed(site: Site, count: int) -> list[bytes]:
    assert site.hellos is not None
    subscribe = json.dumps({"id": 2, "subscribe": {"channel": CHANNEL}}).encode()
    return [connect + b"\n" + subscribe for connect in site.hellos(count)]


def _post(port: int, path: str, body: object) -> None:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=STEP_S) as answer:
        answer.read()


def _ours(name: str, shared: bool) -> Contestant[Sizes]:
    def start(bench: Bench, sizes: Sizes) -> AbstractContextManager[Measure]:
        return _gateway(bench, sizes, 1 if shared else sizes.viewers)

    return Contestant(name, "ours", start)


def _contestants() -> Sequence[Contestant[Sizes]]:
    return [
        *sites.contestants(["floor"], _cast),
        _ours("gateway, one answer", shared=True),
        _ours("gateway, an answer each", shared=False),
        *sites.contestants(PEERS, _cast),
        Contestant(sites.CENTRIFUGO, "peer", _centrifugo),
    ]


SCENARIO = Scenario(
    name="fanout",
    order=150,
    title="Fan-out",
    question="How many deltas can a core take from the bus to connections that watch?",
    how=(
        "{viewers:,} connections watch: at the gateway all of them one answer (of one user), or each an answer of its "
        "own (of as many users). {steps} times a few deltas of every answer come at once, in batches over NATS as a "
        "router sends them, and the next follow when every viewer has its frame; how many come at once is the load. "
        "A delta counts once for each viewer; CPU is the gateway's alone, heartbeats of its answers included."
    ),
    floor=(
        "The bare `BufferedProtocol` writes one frame of the same bytes, made beforehand, to each connection in one "
        "turn of the loop; it is counted as the deltas that the gateway puts into such a frame. Nothing comes from a "
        "bus, nothing is decoded, and nobody has a place of its own."
    ),
    peers=(
        "Libraries send the floor's frame to everybody by their own calls. Centrifugo is given as many publications "
        "to one channel by its HTTP API, and may put several into a frame; it decodes and encodes as we do."
    ),
    misleads=(
        "Steps come one after the other, so there is no queue; under load deltas wait for one another and leave "
        "together, which is why several that come at once are measured. Loopback's kernel does the receivers' part "
        "within the sender's calls: most of what is not user space. "
        "Centrifugo has one channel for all, so compare it with one answer."
    ),
    metrics=[
        Metric(
            key="per_core",
            label="deltas for each second of the server's CPU",
            unit="1/s",
            more=True,
            goal=Goal(least=300_000, at=4),
            per=AT,
            chart=True,
            headline=True,
        ),
        Metric(key="cpu", per=AT, label="CPU of one delta to one viewer", unit="µs", feeds="cpu_us_per_delta"),
        Metric(key="user", per=AT, label="of it in user space", unit="µs"),
        Metric(key="bytes", per=AT, label="bytes on the wire for one", unit="B", feeds="wire_bytes_per_delta"),
        Metric(key="step", per=AT, label="from sending a step to its last arrival, median", unit="ms"),
    ],
    full=Sizes(viewers=5_000, steps=25, deltas=(1, 4, 8)),
    tiny=Sizes(viewers=20, steps=2, deltas=(1, 4)),
    contestants=_contestants(),
    rounds=3,
    needs_stack=True,
)

"""Handshakes: the server's CPU for opening a connection, with and without finding out who it is."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace

import msgspec

from benchmarks import credentials, meter, sites
from benchmarks.crowd import Crowd, crowd
from benchmarks.native.latency import Latencies
from benchmarks.scenario import Bench, Contestant, Goal, Measure, Metric, Sample, Scenario, Value
from benchmarks.sites import Opener, Site

AT_ONCE = 64
WARM = 50
PEERS = ("picows", "websockets", "aiohttp", "granian-asgi", "granian-rsgi", sites.CENTRIFUGO)


class Sizes(msgspec.Struct, frozen=True):
    count: int
    at_once: int = AT_ONCE


@contextlib.contextmanager
def _start(bench: Bench, sizes: Sizes, opens: Opener) -> Iterator[Measure]:
    with opens(bench) as site:
        yield lambda _: _measured(site, sizes)


def _measured(site: Site, sizes: Sizes) -> Sample:
    with crowd(sizes.count + WARM) as clients:
        clients.leave(clients.join(site, WARM))
        numbers = clients.prepare(site, sizes.count)
        clients.engine.reset()
        before = meter.cpu(site.pid)
        seconds = clients.open(site, numbers, at_once=sizes.at_once)
        used = meter.cpu(site.pid).since(before)
        return Sample(
            values=[
                Value("per_core", sizes.count / max(used.total_s, 0.01)),
                Value("cpu", used.total_s / sizes.count * 1e6),
                Value("user", used.user_s / sizes.count * 1e6),
                Value("rate", sizes.count / seconds),
                Value("p99", Latencies(clients.engine.histogram("handshake")).at(99)),
            ],
            generator=clients.cores,
            wrong=_wrong(clients, numbers),
        )


def _wrong(clients: Crowd, numbers: range) -> list[str]:
    lost = clients.lost(numbers)
    return [f"{lost} of {len(numbers)} connections were lost"] if lost else []


Requests = Callable[[Bench, int, int], list[bytes]]


def _bearer(bench: Bench, port: int, count: int) -> list[bytes]:
    return credentials.bearers(port, credentials.tokens(bench.target.config, count))


def _cookie(bench: Bench, port: int, count: int) -> list[bytes]:
    return credentials.cookies(port, credentials.tokens(bench.target.config, count))


def _ticket(bench: Bench, port: int, count: int) -> list[bytes]:
    return credentials.ticketed(port, credentials.tickets(bench.target.config, count))


_shared: dict[str, Site] = {}


@contextlib.contextmanager
def _one_gateway(bench: Bench) -> Iterator[Site]:
    """The same process for every kind of credential: whoever comes first starts it, and is left last."""
    key = str(bench.folder)
    if key in _shared:
        yield _shared[key]
        return
    with sites.gateway(bench) as site:
        _shared[key] = site
        try:
            yield site
        finally:
            del _shared[key]


def _with(kind: str, requests: Requests) -> Contestant[Sizes]:
    @contextlib.contextmanager
    def opens(bench: Bench) -> Iterator[Site]:
        with _one_gateway(bench) as site:
            yield replace(site, requests=lambda count: requests(bench, site.port, count))

    return Contestant(f"gateway, {kind}", "ours", lambda bench, sizes: _start(bench, sizes, opens))


SCENARIO = Scenario(
    name="handshakes",
    order=120,
    title="Handshakes",
    question="How many connections can a core open in a second, each by somebody else who must prove it?",
    how=(
        "{count:,} connections are opened, {at_once} at any moment, and stay open; CPU is the server process's until "
        "the last one is open, at the gateway until its `welcome` has arrived. Every client has a credential of its "
        "own that the server has not seen: an access token as bearer or as a page's cookie, or a ticket, which is "
        "taken from Redis (whose CPU is not counted)."
    ),
    floor=(
        "A bare `BufferedProtocol` on uvloop that finds the key in the request, hashes it and answers; it checks "
        "nothing and knows nobody. Our listener alone does the whole of RFC 6455 and asks nobody."
    ),
    peers="As they come, without authentication, but for Centrifugo: its clients connect with a token (HS256) each.",
    misleads=(
        "Loopback has no round trips, so handshakes overlap less than they will; TLS, which the load balancer ends, "
        "costs more than all of this. A token that a gateway has seen lately costs less than these. Where the "
        "generator shares cores with the server, the wall rate is lower than it would be, the CPU is not."
    ),
    metrics=[
        Metric(
            key="per_core",
            label="handshakes for each second of the server's CPU",
            unit="1/s",
            more=True,
            goal=Goal(least=5_000),
            headline=True,
            chart=True,
            feeds="handshakes_per_core_s",
        ),
        Metric(key="cpu", label="CPU of one", unit="µs"),
        Metric(key="user", label="of it in user space", unit="µs"),
        Metric(key="rate", label="handshakes on the wall clock", unit="1/s", more=True),
        Metric(key="p99", label="p99 of one, from its turn to 101", unit="ms"),
    ],
    full=Sizes(count=8_000),
    tiny=Sizes(count=60),
    contestants=[
        *sites.contestants(["floor", "listener"], _start),
        _with("bearer", _bearer),
        _with("cookie", _cookie),
        _with("ticket", _ticket),
        *sites.contestants(PEERS, _start),
    ],
    needs_stack=True,
)

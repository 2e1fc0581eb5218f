"""A gateway is killed: all of its clients come back to the others at once, and go on with their answers."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator

import msgspec

from benchmarks import credentials
from benchmarks.dialogue import Dialogue, Script, broken, dialogue, open_all, told
from benchmarks.native.latency import Latencies
from benchmarks.native.upgrade import ACCEPT
from benchmarks.processes import Server, gateways
from benchmarks.scenario import Bench, Contestant, Goal, Measure, Metric, Sample, Scenario, Value
from benchmarks.sites import FILES

LEAST_S = 10.0
STEP_S = 0.02
ATTEMPTS = 1_000
UNSPREAD_MS = 100.0


class Sizes(msgspec.Struct, frozen=True):
    """`idle` clients that only listen and `running` whose answers are on their way are at one gateway; the `others` let
    in `admitted` handshakes a second each. Answers have `deltas` pieces, `delay_ms` apart; the gateway is killed
    `after_s` after they were asked for.
    """

    idle: int
    running: int
    others: int
    admitted: float
    deltas: int
    delay_ms: float
    after_s: float

    @property
    def script(self) -> Script:
        return Script(self.deltas, self.delay_ms)

    @property
    def clients(self) -> int:
        return self.idle + self.running

    @property
    def least_s(self) -> float:
        """The least time in which all can be back at the bounded rate."""
        return self.clients / (self.others * self.admitted)


@contextlib.contextmanager
def _parley(bench: Bench, sizes: Sizes) -> Iterator[Measure]:
    def measure(number: int) -> Sample:
        folder = bench.folder / f"round-{number}"
        folder.mkdir()
        settings = {"max_connections": FILES, "handshakes_per_s": sizes.admitted, "unready_s": 0.0, "drain_s": 1.0}
        with (
            gateways(bench.target, 1 + sizes.others, folder, pool=2, files=FILES, **settings) as [victim, *others],
            dialogue(bench.target, sizes.running, _addresses([victim]), spare=sizes.idle) as talk,
        ):
            return _storm(bench, sizes, talk, victim, _addresses(others))

    yield measure


def _addresses(servers: list[Server]) -> list[tuple[str, int]]:
    return [("127.0.0.1", server.ports["own_ws"]) for server in servers]


def _storm(bench: Bench, sizes: Sizes, talk: Dialogue, victim: Server, others: list[tuple[str, int]]) -> Sample:
    engine, port = talk.engine, victim.ports["own_ws"]
    tokens = credentials.tokens(bench.target.config, sizes.idle)
    idle = engine.prepare([("127.0.0.1", port)], credentials.bearers(port, tokens), accept=ACCEPT)
    open_all(engine, idle)
    frames, first = talk.prepare(sizes.running, sizes.script)
    engine.reset()
    engine.turns(frames, talk.numbers, timeout_s=sizes.script.seconds + sizes.least_s + 2 * LEAST_S)
    engine.run(sizes.after_s, until="time")
    engine.retry(attempts=ATTEMPTS)
    engine.come_back(others, within_ms=UNSPREAD_MS)
    victim.send(signal.SIGKILL)
    began = time.monotonic()
    back_s = _back(talk, sizes, began)
    engine.run(sizes.script.seconds + 2 * LEAST_S)
    found = told(engine, broken(engine, range(sizes.running), first, sizes.deltas))
    if back_s is None:
        found.wrong.append(f"not all are back: {engine.states(range(sizes.clients))}")
    back, resumed = (found.took.get(name, Latencies()) for name in ("back", "resumed"))
    values = [
        Value("all_back", back_s or 0.0),
        Value("of_least", (back_s or 0.0) / sizes.least_s),
        *(Value(f"back_{key}", back.at(at)) for key, at in (("p50", 50), ("p99", 99))),
        *(Value(f"resumed_{key}", resumed.at(at)) for key, at in (("p50", 50), ("p99", 99))),
        Value("attempts", found.statistics["retries"] / sizes.clients + 1),
    ]
    return Sample(values=values, generator=found.cores, wrong=found.wrong)


def _back(talk: Dialogue, sizes: Sizes, began: float) -> float | None:
    """Seconds until every client was open again; None where that took far too long."""
    engine = talk.engine
    until = began + 3 * sizes.least_s + LEAST_S
    while time.monotonic() < until:
        engine.run(STEP_S, until="time")
        counted = engine.statistics()
        if counted["back"] >= sizes.clients and counted["open"] >= sizes.clients:
            return time.monotonic() - began
    return None


SCENARIO = Scenario(
    name="storm",
    order=230,
    title="A storm",
    question="A gateway dies with all its clients: how soon is everybody back at the others, and is anything lost?",
    how=(
        "{idle:,} clients that only listen and {running} whose answers are on their way, {deltas} pieces "
        "{delay_ms:.0f} ms apart, are at one gateway, which is killed (SIGKILL). Within 100 ms all of them knock at "
        "{others} others, which let in {admitted:,.0f} handshakes a second each and tell the rest when to come again "
        "(503 with Retry-After), which they obey. Who watched an answer resumes it from the last piece that it saw. "
        "Every text is compared with what the provider gives."
    ),
    floor="Arithmetic: clients ÷ the rate at which they are admitted; `of that` is measured against it.",
    peers="None: what is asked is whether our own bound is kept and used. Clients of others decide by themselves.",
    misleads=(
        "All clients are one process on this machine, so their machine is never the one that is slow; and real clients "
        "come back less punctually, over seconds, which makes a storm milder."
    ),
    metrics=[
        Metric(key="all_back", label="until all are back", unit="s", headline=True),
        Metric(key="of_least", label="of clients ÷ admitted rate", unit="×", goal=Goal(most=1.5), headline=True),
        Metric(key="back_p50", label="a client is back, p50", unit="ms"),
        Metric(key="back_p99", label="a client is back, p99", unit="ms"),
        Metric(key="resumed_p50", label="a running answer goes on, p50", unit="ms"),
        Metric(key="resumed_p99", label="a running answer goes on, p99", unit="ms"),
        Metric(key="attempts", label="handshakes for each client", unit="", note="1 is the least"),
    ],
    full=Sizes(idle=6_000, running=200, others=2, admitted=1_000.0, deltas=150, delay_ms=100.0, after_s=2.0),
    tiny=Sizes(idle=20, running=4, others=1, admitted=100.0, deltas=50, delay_ms=20.0, after_s=0.3),
    contestants=[Contestant("parley", "ours", _parley)],
    rounds=3,
    needs_stack=True,
)

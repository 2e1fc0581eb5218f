"""A working day, all at once: messages, reading, signing in, programs with keys, and thousands who only listen."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Iterator

import msgspec

from benchmarks import credentials, workday
from benchmarks.dialogue import Dialogue, Script, Told, awake, broken, dialogue, open_all, send_frame, statuses, told
from benchmarks.meter import Meter
from benchmarks.native.latency import Latencies
from benchmarks.native.upgrade import ACCEPT
from benchmarks.people import make_conversations, make_key
from benchmarks.scenario import Bench, Contestant, Goal, Measure, Metric, Sample, Scenario, Value
from benchmarks.target import GATEWAYS
from benchmarks.workday import EACH, KINDS, REST, Desk, Member
from core.ids import uuid7

PATIENCE_S = 20.0
PING = b'{"type":"ping","t":1}'
STEP_S = 1.0


class Sizes(msgspec.Struct, frozen=True):
    """`users` chat, `turns` messages a second together, whose answers have `deltas` pieces, `delay_ms` apart; `idle`
    others only have a socket, each of which pings every `ping_s`; `returners` have a socket and resume their last
    answer, `resumes` a second together. `seconds` in a round; `connections`: kept for HTTP.
    """

    users: int
    idle: int
    returners: int
    turns: float
    resumes: int
    ping_s: float
    deltas: int
    delay_ms: float
    connections: int
    seconds: float

    @property
    def script(self) -> Script:
        return Script(self.deltas, self.delay_ms)


class _Office:
    """Everybody who takes part, and one engine that plays all of them."""

    def __init__(self, talk: Dialogue, sizes: Sizes) -> None:
        self._talk = talk
        self._sizes = sizes
        self._target = talk.target
        self._seed = 0
        config, engine = self._target.config, talk.engine
        self._conversations = asyncio.run(make_conversations(config, talk.people, len(talk.people)))
        self._key = asyncio.run(make_key(config, talk.people[0]))
        self._login = f"{uuid7(time.time_ns() // 1_000_000)}@example.org"
        workday.register(self._target.own_http(GATEWAYS[0]), self._login)
        ports = [self._target.own_ws(name) for name in GATEWAYS]
        tokens = credentials.tokens(config, sizes.idle)
        where = [("127.0.0.1", port) for port in ports]
        self._idle = engine.prepare(where, credentials.bearers(ports[0], tokens), accept=ACCEPT)
        open_all(engine, self._idle)
        http = [("127.0.0.1", self._target.own_http(name)) for name in GATEWAYS]
        self._http = engine.prepare(http, [b""], count=sizes.connections, kind="http")
        messages = self._first_words()
        self._members = [Member(*each) for each in zip(talk.people, self._conversations, messages, strict=True)]

    def _first_words(self) -> list[str]:
        """Everybody has said something before: the ids of these messages."""
        everybody = len(self._talk.people)
        frames, messages = self._frames(everybody, everybody)
        rate = max(10.0, self._sizes.turns)
        told = self._talk.send(frames, self._seed - len(frames), rate, self._sizes.script)
        if told.wrong:
            raise RuntimeError(f"the day begins badly: {told.wrong[:3]}")
        return messages

    def _frames(self, count: int, people: int) -> tuple[list[bytes], list[str]]:
        """Turn n is of person n modulo `people`, in the one conversation that they have."""
        now_ms, script, first = time.time_ns() // 1_000_000, self._sizes.script, self._seed
        self._seed += count
        pairs = [
            send_frame(self._conversations[n % people], script.question(first + n), now_ms - count + n)
            for n in range(count)
        ]
        return [frame for _, frame in pairs], [message for message, _ in pairs]

    def work(self) -> Told:
        """A round of the day; all of it is due at random moments."""
        sizes, engine, script = self._sizes, self._talk.engine, self._sizes.script
        turns = max(4, round(sizes.turns * sizes.seconds))
        first, known = self._seed, engine.turn_count()
        talking = len(self._talk.people) - sizes.returners
        talkers, returners = self._talk.numbers[:talking], self._talk.numbers[talking:]
        frames, _ = self._frames(turns, talking)
        asked, classes = self._requests(round(sizes.turns * EACH * sizes.seconds))
        pings = max(1, round(sizes.idle / sizes.ping_s * sizes.seconds))
        awake(engine, [*self._talk.numbers, *self._idle])
        engine.reset()
        timeout_s = script.seconds + PATIENCE_S
        engine.turns(frames, talkers, rate=sizes.turns, poisson=True, timeout_s=timeout_s)
        rate = len(asked) / sizes.seconds
        engine.requests(asked, classes, self._http, rate=rate, poisson=True, timeout_s=PATIENCE_S)
        engine.send(self._idle, PING, count=pings, rate=pings / sizes.seconds, poisson=True, answer=b'{"type":"pong"')
        until = time.monotonic() + sizes.seconds
        resumed = 0
        while time.monotonic() < until:
            chosen = [returners[(resumed + n) % len(returners)] for n in range(sizes.resumes)]
            engine.resume(chosen)
            resumed += len(chosen)
            engine.run(min(STEP_S, sizes.seconds), until="time")
        engine.run(script.seconds + PATIENCE_S)
        wrong = broken(engine, range(known, known + turns), first, script.deltas)
        found = told(engine, wrong)
        engine.cancel()
        found.wrong.extend(self._errors(found, classes, pings, resumed))
        return found

    def _requests(self, count: int) -> tuple[list[bytes], list[int]]:
        sending = sum(kind.key == "sse" for kind in KINDS)
        people = [self._talk.people[n % len(self._talk.people)] for n in range(count // 4 + sending + 8)]
        fresh = asyncio.run(make_conversations(self._target.config, people, len(people)))
        desk = Desk(self._members, self._key, self._login, list(zip(people, fresh, strict=True)))
        return workday.requests(desk, count, self._sizes.script)

    def _errors(self, found: Told, classes: list[int], pings: int, resumed: int) -> Iterator[str]:
        counted = found.statistics
        for number, kind in enumerate(KINDS):
            good = sum(times for status, times in statuses(found, number).items() if int(status) < 400)
            if good < classes.count(number):
                yield f"{kind.label}: {good} of {classes.count(number)} went well: {counted['http'].get(str(number))}"
        if counted["answered"] < pings:
            yield f"{pings - counted['answered']} pings were not answered"
        answered = counted["types"].get("resumed", 0) + counted["types"].get("snapshot", 0)
        if answered < resumed:
            yield f"{resumed - answered} resumes were not answered"
        if counted["closes"] or counted["resets"] or counted["errors"]:
            yield f"sockets were closed or told errors: {counted['closes']} {counted['resets']} {counted['errors']}"


@contextlib.contextmanager
def _parley(bench: Bench, sizes: Sizes) -> Iterator[Measure]:
    with dialogue(bench.target, sizes.users, spare=sizes.idle + sizes.connections) as talk:
        office, meter = _Office(talk, sizes), Meter(bench.target)

        def measure(_: int) -> Sample:
            before = meter.read()
            found = office.work()
            after = meter.read()
            used = sum(after.since(before).values()) / (after.at - before.at) / (os.cpu_count() or 1)
            return Sample(values=[*_values(found), Value("load", used * 100)], generator=found.cores, wrong=found.wrong)

        yield measure


def _values(found: Told) -> list[Value]:
    api, first = Latencies(), Latencies(found.took.get("first", Latencies()).counts())
    values: list[Value] = []
    for number, kind in enumerate(KINDS):
        took = found.took.get(f"http.{number}.first" if kind.streams else f"http.{number}", Latencies())
        values += [Value(f"{kind.key}_p50", took.at(50)), Value(f"{kind.key}_p99", took.at(99))]
        if kind in REST:
            api.add(took.counts())
        if kind.key == "chat_stream":
            first.add(took.counts())
    values += [Value(f"api_{key}", api.at(at)) for key, at in (("p50", 50), ("p95", 95), ("p99", 99))]
    values += [Value(f"first_{key}", first.at(at)) for key, at in (("p50", 50), ("p95", 95), ("p99", 99))]
    for name, key in (("accepted", "accepted"), ("answer", "ping")):
        took = found.took.get(name, Latencies())
        values += [Value(f"{key}_p50", took.at(50)), Value(f"{key}_p99", took.at(99))]
    late = found.took.get("late", Latencies())
    return [*values, Value("requests", api.count), Value("late_p99", late.at(99))]


def _two(key: str, label: str) -> list[Metric]:
    return [Metric(key=f"{key}_{at}", label=f"{label}, {at}", unit="ms") for at in ("p50", "p99")]


SCENARIO = Scenario(
    name="day",
    order=220,
    title="A working day",
    question="Does everything stay quick for everybody while all of it happens at once?",
    how=(
        "{users} people have a conversation and a socket at one of two gateways; they send {turns:.0f} messages a "
        "second together, whose answers have {deltas} pieces, {delay_ms:.0f} ms apart; {returners} of them only come "
        "back, and resume their last answer, {resumes} a second. {idle:,} others have a socket and ping every "
        "{ping_s:.0f} s. Over {connections} kept connections come, for each message on a socket: 1 page of newest "
        "messages (a conversation is opened about as often as something is written), 0.6 lists of conversations, 0.25 "
        "new conversations (four messages in each), 0.2 single messages, 0.15 each of models, configuration and the "
        "account (a page is loaded every seven messages), 0.05 renames, 0.01 logins (sessions last days), 0.1 sends "
        "that are answered by SSE, and 0.1 each of streamed and whole chat completions by a key. All are due at random "
        "moments (Poisson) for {seconds:.0f} s; none may fail. `api` is all of REST, logins too, which cost what a "
        "password hash is meant to cost. First tokens are those of sockets and of streamed completions."
    ),
    floor="None: no cheaper program does all of this. Its parts stand beside their floors in the other scenarios.",
    peers="None: nothing on the list of peers has conversations, accounts and answers in one.",
    misleads=(
        "The proportions are reasoned, not recorded from a real place. Everything shares this machine, the load and a "
        "model that costs almost nothing too. A page's own files are not fetched, and conversations are short."
    ),
    metrics=[
        Metric(key="api_p50", label="REST calls, p50", unit="ms"),
        Metric(key="api_p95", label="REST calls, p95", unit="ms"),
        Metric(key="api_p99", label="REST calls, p99", unit="ms", goal=Goal(most=200), headline=True),
        Metric(key="first_p50", label="first tokens, p50", unit="ms"),
        Metric(key="first_p95", label="first tokens, p95", unit="ms", goal=Goal(most=500), headline=True),
        Metric(key="first_p99", label="first tokens, p99", unit="ms"),
        *_two("accepted", "`accepted` (durable)"),
        *_two("ping", "pings of those who only listen"),
        *(metric for kind in KINDS for metric in _two(kind.key, kind.label)),
        Metric(key="requests", label="REST calls in a round", unit="calls", more=True),
        Metric(key="load", label="used of all processors", unit="%"),
        Metric(key="late_p99", label="the generator's lateness, p99", unit="ms"),
    ],
    full=Sizes(
        users=300,
        idle=3_000,
        returners=50,
        turns=12.0,
        resumes=2,
        ping_s=25.0,
        deltas=48,
        delay_ms=25.0,
        connections=64,
        seconds=20.0,
    ),
    tiny=Sizes(
        users=6,
        idle=10,
        returners=2,
        turns=10.0,
        resumes=1,
        ping_s=1.0,
        deltas=4,
        delay_ms=5.0,
        connections=6,
        seconds=0.4,
    ),
    contestants=[Contestant("parley", "ours", _parley)],
    rounds=3,
    needs_stack=True,
)

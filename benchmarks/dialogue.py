"""Turns on a whole stack: people at WebSockets, answers by the scripted provider, every text checked."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from benchmarks import credentials
from benchmarks.load.chunks import body, question
from benchmarks.native.engine import Engine
from benchmarks.native.latency import Latencies, merge
from benchmarks.native.upgrade import ACCEPT, request
from benchmarks.people import Person, make_conversations, make_people
from benchmarks.scenario import Value
from benchmarks.target import GATEWAYS, MODEL, Target
from core.ids import uuid7
from tests.mockllm.words import first_pieces

OPEN_S = 60.0
PATIENCE_S = 20.0
ATTEMPTS = 20
AWAKE_S = 0.05

Address = tuple[str, int]


class Script(msgspec.Struct, frozen=True):
    """What each answer is: `deltas` pieces of text, `delay_ms` apart; the first comes without delay."""

    deltas: int
    delay_ms: float

    @property
    def seconds(self) -> float:
        """How long the provider takes for one."""
        return (self.deltas - 1) * self.delay_ms / 1e3

    def question(self, seed: int) -> str:
        return question(seed, self.deltas, self.delay_ms)


class Told(NamedTuple):
    """What became of a run. `took`: histograms by name; `cores`: of the generator."""

    took: Mapping[str, Latencies]
    statistics: Mapping[str, Any]
    wrong: list[str]
    cores: float

    def values(self, names: Mapping[str, str], at: float | None = None) -> list[Value]:
        """Percentiles (`p50`: those of the scenarios) of histograms, under `{short}_{percentile}`."""
        return [
            Value(f"{short}_{key}", self.took.get(name, Latencies()).at(percent), at)
            for short, name in names.items()
            for key, percent in PERCENTILES.items()
        ]


PERCENTILES: Mapping[str, float] = {"p50": 50.0, "p95": 95.0, "p99": 99.0}


class Dialogue:
    """People with open sockets, one turn at a time on each. Use `dialogue`."""

    def __init__(self, target: Target, engine: Engine, people: list[Person], numbers: range) -> None:
        self.target = target
        self.engine = engine
        self.people = people
        self.numbers = numbers
        self._seed = 0

    def run(self, count: int, rate: float, script: Script) -> Told:
        """`count` turns, due at random at `rate` a second, each in a new conversation; ends when all have."""
        frames, first = self.prepare(count, script)
        return self.send(frames, first, rate, script)

    def prepare(self, count: int, script: Script) -> tuple[list[bytes], int]:
        """Frames of new turns; and the seed of the first."""
        senders = [self.people[number % len(self.people)] for number in range(count)]
        conversations = asyncio.run(make_conversations(self.target.config, senders, count))
        first, self._seed = self._seed, self._seed + count
        frames = [send_frame(name, script.question(first + n))[1] for n, name in enumerate(conversations)]
        return frames, first

    def send(self, frames: list[bytes], first: int, rate: float, script: Script) -> Told:
        engine, known = self.engine, self.engine.turn_count()
        awake(engine, self.numbers)
        engine.reset()
        engine.turns(frames, self.numbers, rate=rate, poisson=True, timeout_s=PATIENCE_S + script.seconds)
        engine.run(len(frames) / rate + script.seconds + 2 * PATIENCE_S)
        wrong = broken(engine, range(known, known + len(frames)), first, script.deltas)
        engine.cancel()
        return told(engine, wrong)


@contextlib.contextmanager
def dialogue(target: Target, users: int, gateways: Sequence[Address] = (), spare: int = 0) -> Iterator[Dialogue]:
    """`users` new people, each with a socket at one of the gateways in turn; `spare`: room for more connections."""
    people = asyncio.run(make_people(target.config, users))
    where = list(gateways) or [("127.0.0.1", target.own_ws(name)) for name in GATEWAYS]
    engine = Engine(users + spare)
    try:
        requests = credentials.bearers(where[0][1], [person.token for person in people])
        numbers = engine.prepare(where, requests, accept=ACCEPT)
        open_all(engine, numbers)
        yield Dialogue(target, engine, people, numbers)
    finally:
        engine.close()


def awake(engine: Engine, numbers: Sequence[int]) -> None:
    """Answers what came while the engine rested, and opens again what was closed because it did."""
    engine.run(AWAKE_S, until="time")
    if engine.states(numbers).get("open", 0) < len(numbers):
        open_all(engine, [number for number in numbers if engine.connection(number)["state"] != "open"])


def open_all(engine: Engine, numbers: Sequence[int], at_once: int = 64) -> None:
    """Raises `RuntimeError` where one of them does not open."""
    engine.retry(attempts=ATTEMPTS)
    engine.open(numbers, at_once=at_once)
    engine.run(OPEN_S)
    states = engine.states(numbers)
    if states.get("open", 0) < len(numbers):
        raise RuntimeError(f"of {len(numbers)} sockets {states}: {engine.statistics()['failures']}")


def send_frame(conversation: str, content: str, at_ms: int | None = None) -> tuple[str, bytes]:
    """A new message's id and its `send`; `at_ms`: the time in the id, if not now."""
    message = uuid7(time.time_ns() // 1_000_000 if at_ms is None else at_ms)
    fields = {"type": "send", "message_id": message, "conversation_id": conversation, "content": content}
    return message, msgspec.json.encode(fields)


def broken(engine: Engine, turns: range, first_seed: int, deltas: int) -> list[str]:
    """Of these turns those that did not end well, or whose text is not what the provider gave for their seeds."""
    found = []
    for seed, number in enumerate(turns, first_seed):
        turn = engine.turn(number)
        if turn["state"] != "done":
            found.append(f"turn {seed} is {turn['state']} {turn['code']}")
        elif turn["fnv"] != fingerprint(seed, deltas):
            found.append(f"the text of turn {seed} is not what the provider gave: {turn}")
    return found


def fingerprint(seed: int, deltas: int) -> int:
    """FNV-1a (64 bits) of an answer's text as it stands in JSON: `Engine.turn`'s `fnv`."""
    found = 0xCBF29CE484222325
    for byte in msgspec.json.encode("".join(first_pieces(seed, deltas)))[1:-1]:
        found = (found ^ byte) * 0x100000001B3 % 2**64
    return found


def told(engine: Engine, wrong: Sequence[str]) -> Told:
    """What the engine counted since its last reset."""
    statistics = engine.statistics()
    cores = (statistics["user_s"] + statistics["system_s"]) / max(statistics["wall_s"], 1e-3)
    return Told(merge([engine.histograms()]), statistics, list(wrong), cores)


@contextlib.contextmanager
def provider(target: Target, connections: int) -> Iterator[tuple[Engine, range]]:
    """The scripted provider called directly, over this many connections."""
    engine = Engine(connections)
    try:
        address = ("127.0.0.1", target.provider_port)
        yield engine, engine.prepare([address], [b""], count=connections, kind="http")
    finally:
        engine.close()


def ask_provider(engine: Engine, numbers: range, count: int, rate: float, script: Script) -> Told:
    """As many answers as `Dialogue.run` asks for, in the same words and at the same rate; `http.0.first`: the first
    byte of the body.
    """
    engine.reset()
    asked = [_completion(body(MODEL, script.question(seed), stream=True)) for seed in range(count)]
    engine.requests(asked, [0], numbers, rate=rate, poisson=True, timeout_s=PATIENCE_S + script.seconds)
    engine.run(count / rate + script.seconds + 2 * PATIENCE_S)
    found = told(engine, ())
    engine.cancel()
    if (good := statuses(found, 0).get("200", 0)) < count:
        found.wrong.append(f"of {count} direct calls {good} were answered: {found.statistics['http']}")
    return found


def statuses(found: Told, kind: int) -> Mapping[str, int]:
    """How many requests of a class were answered with each status."""
    counted: Mapping[str, int] = found.statistics["http"].get(str(kind), {}).get("status", {})
    return counted


def _completion(content: bytes) -> bytes:
    return request("POST", "/v1/chat/completions", content, headers=["Content-Type: application/json"])

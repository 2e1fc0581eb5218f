"""OpenAI-compatible calls, a fixed number in flight: the load is closed, because what is asked for is their cost."""

from __future__ import annotations

import itertools
import time
from typing import Any

import msgspec

from benchmarks.load.chunks import body, digest, question, text_of
from benchmarks.load.http import Events, Failure, Http
from benchmarks.load.pacer import in_flight
from benchmarks.load.peer import Effort, Peer


class Plan(msgspec.Struct, frozen=True):
    """`warm` plain calls that are not counted; then in each round `requests` plain calls of one piece of text, and
    `streams` of `deltas` pieces, `delay_ms` apart; each `at_once` in flight. The seed of call `n` is `n`.
    """

    port: int
    key: str
    model: str
    at_once: int
    warm: int
    requests: int
    streams: int
    deltas: int
    delay_ms: float


async def run(peer: Peer, plan: Any) -> None:
    """Warms up and says so; then at every word plain calls, at the next one streams, and says what each gave."""
    given = msgspec.convert(plan, Plan)
    http = Http(given.port, "/v1/chat/completions", given.key)
    parts = itertools.cycle(((given.requests, False), (given.streams, True)))
    try:
        await _part(peer, http, given, given.warm, stream=False)
        while True:
            await peer.hear()
            count, stream = next(parts)
            await _part(peer, http, given, count, stream=stream)
    finally:
        http.close()


async def _part(peer: Peer, http: Http, plan: Plan, count: int, *, stream: bool) -> None:
    calls = _Calls(http, plan, stream)
    effort = Effort()
    await in_flight(count, plan.at_once, calls.call)
    peer.say(
        samples=calls.samples,
        digests=[calls.digests[number] for number in sorted(calls.digests)],
        wrong=calls.wrong,
        seconds=effort.seconds,
        cpu_s=effort.cpu_s,
    )


class _Calls:
    def __init__(self, http: Http, plan: Plan, stream: bool) -> None:
        self._http, self._plan, self._stream = http, plan, stream
        self.samples: list[float] = []
        self.digests: dict[int, str] = {}
        self.wrong: list[str] = []

    async def call(self, number: int) -> None:
        plan = self._plan
        content = question(number, plan.deltas, plan.delay_ms) if self._stream else question(number, 1, 0)
        pieces: list[bytes] = []
        began = time.perf_counter()
        try:
            await self._http.post(body(plan.model, content, stream=self._stream), pieces.append)
        except (Failure, OSError) as error:
            self.wrong.append(str(error))
            return
        self.samples.append(time.perf_counter() - began)
        self.digests[number] = digest(self._text(b"".join(pieces)))

    def _text(self, answer: bytes) -> str:
        if self._stream:
            return "".join(text_of(event) for event in Events().feed(answer))
        return str(msgspec.json.decode(answer)["choices"][0]["message"]["content"])

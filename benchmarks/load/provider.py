"""The same answers from the provider directly, at the same pace: what Parley's figures are compared with."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from benchmarks.load.chunks import body, question, text_of
from benchmarks.load.http import Events, Failure, Http
from benchmarks.load.pacer import Pacer
from benchmarks.load.peer import Peer
from benchmarks.load.streams import Stream, Streams


class Plan(msgspec.Struct, frozen=True):
    """`count` streamed answers of `model`, the seed of answer `n` is `n`."""

    port: int
    model: str
    count: int
    deltas: int
    delay_ms: float
    interval_s: float
    settle_s: float


async def run(peer: Peer, plan: Any) -> None:
    """Says what became of all (`Told`)."""
    given = msgspec.convert(plan, Plan)
    http, streams = Http(given.port, "/v1/chat/completions", "none"), Streams(given.count)
    tasks: set[asyncio.Task[None]] = set()

    def fire(number: int, due: float) -> None:
        content = question(number, given.deltas, given.delay_ms)
        asked = _ask(http, streams, streams.begin(number, due), body(given.model, content, stream=True))
        task = asyncio.get_running_loop().create_task(asked)
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    pacer = Pacer(given.count, given.interval_s, fire)
    await pacer.run()
    await streams.settle(given.settle_s)
    streams.tell(peer, pacer.late)
    http.close()


async def _ask(http: Http, streams: Streams, stream: Stream, request: bytes) -> None:
    events = Events()

    def take(data: bytes) -> None:
        for event in events.feed(data):
            if text := text_of(event):
                stream.add(text)

    try:
        await http.post(request, take)
    except (Failure, OSError) as error:
        streams.end(stream, str(error))
    else:
        streams.end(stream)

"""Idle WebSockets: opens many, holds them, asks over them while they are open."""

from __future__ import annotations

import time
from typing import Any

import msgspec

from benchmarks.load.pacer import SETTLE_S, Countdown, Pacer, in_flight
from benchmarks.load.peer import Effort, Peer
from benchmarks.load.websocket import Socket


class Plan(msgspec.Struct, frozen=True):
    """One socket for each of `tokens`, `at_once` handshakes at any moment; then `pings`, one every `interval_s`."""

    port: int
    tokens: list[str]
    at_once: int
    pings: int
    interval_s: float


async def run(peer: Peer, plan: Any) -> None:
    """Says when all are open; waits for a word; says how long pings took; waits for another; says what was lost."""
    given = msgspec.convert(plan, Plan)
    sockets: list[Socket] = []

    async def open_one(number: int) -> None:
        sockets.append(await Socket.open(given.port, given.tokens[number]))

    effort = Effort()
    await in_flight(len(given.tokens), given.at_once, open_one)
    peer.say(open=len(sockets), seconds=effort.seconds, cpu_s=effort.cpu_s)

    await peer.hear()
    effort = Effort()
    samples, late = await _ping(sockets, given)
    peer.say(samples=samples, late=late, seconds=effort.seconds, cpu_s=effort.cpu_s)

    await peer.hear()
    peer.say(lost=[socket.lost for socket in sockets if socket.lost])
    for socket in sockets:
        socket.close()


async def _ping(sockets: list[Socket], plan: Plan) -> tuple[list[float], list[float]]:
    """Round trips of pings, one socket after the other, from their intended moments, in seconds."""
    due_at: dict[int, float] = {}
    samples: list[float] = []
    answers = Countdown(plan.pings)

    def took(message: bytes) -> None:
        samples.append(time.perf_counter() - due_at.pop(msgspec.json.decode(message)["t"]))
        answers.down()

    def fire(number: int, due: float) -> None:
        due_at[number] = due
        socket = sockets[number % len(sockets)]
        socket.on_message = took
        socket.send(b'{"type":"ping","t":%d}' % number)

    pacer = Pacer(plan.pings, plan.interval_s, fire)
    await pacer.run()
    await answers.wait(SETTLE_S)
    return samples, pacer.late

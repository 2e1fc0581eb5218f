"""Admissions: the one Redis call before every turn, by the client that the gateway uses, or by next to nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import hiredis
import msgspec

from benchmarks.load.bare_redis import BareRedis
from benchmarks.load.pacer import SETTLE_S, Pacer, in_flight
from benchmarks.load.peer import Effort, Peer
from core.compose import Composition
from core.config import Config, Redis
from core.errors import ParleyError
from core.limits.port import UserLimits

_BOUNDS = UserLimits(requests_per_minute=1_000_000, turns_at_once=1_000_000, tokens_per_day=10**12)
_TIMEOUT_S = 5.0

Admit = Callable[[str, str], Awaitable[None]]
"""Of an account, for a turn."""


class Plan(msgspec.Struct, frozen=True):
    """`paced` admissions, one every `interval_s`; then `closed` with `at_once` in flight; once for each word. They go
    round `accounts` accounts whose names begin with `prefix`, new ones in every round, and are never settled: they
    lapse. `bare`: by the floor's client.
    """

    redis_url: str
    prefix: str
    accounts: int
    paced: int
    interval_s: float
    closed: int
    at_once: int
    bare: bool


class _Admissions:
    def __init__(self, admit: Admit, plan: Plan, kind: str) -> None:
        self._admit = admit
        self._kind = kind
        self._plan = plan
        self.samples: list[float] = []
        self.wrong: list[str] = []

    async def admit(self, number: int, due: float | None = None) -> None:
        plan = self._plan
        account, turn = f"{plan.prefix}{self._kind}-{number % plan.accounts}", f"{self._kind}-{number}"
        began = time.perf_counter() if due is None else due
        try:
            await self._admit(account, turn)
        except (ParleyError, OSError, hiredis.ReplyError, AssertionError) as error:
            self.wrong.append(str(error))
            return
        self.samples.append(time.perf_counter() - began)


async def run(peer: Peer, plan: Any) -> None:
    """Says when it is ready. At a word the paced round, at the next the one with a number in flight, and again."""
    given = msgspec.convert(plan, Plan)
    async with _client(given) as admit:
        await _Admissions(admit, given, "first").admit(0)
        peer.say(ready=True)
        number = 0
        while True:
            await peer.hear()
            await _paced(peer, _Admissions(admit, given, f"paced-{number}"), given)
            await peer.hear()
            await _closed(peer, _Admissions(admit, given, f"closed-{number}"), given)
            number += 1


@asynccontextmanager
async def _client(plan: Plan) -> AsyncIterator[Admit]:
    if plan.bare:
        client = await BareRedis.connect(plan.redis_url)
        yield client.admit
        client.close()
        return
    async with Composition(Config(redis=Redis(url=plan.redis_url, timeout_s=_TIMEOUT_S))) as parts:
        limits = await parts.limits()

        async def admit(account: str, turn: str) -> None:
            admission = await limits.admit(account, turn, 1, _BOUNDS)
            assert not admission.degraded, "decided without Redis"

        yield admit


async def _paced(peer: Peer, round_: _Admissions, plan: Plan) -> None:
    tasks: set[asyncio.Task[None]] = set()

    def fire(number: int, due: float) -> None:
        task = asyncio.get_running_loop().create_task(round_.admit(number, due))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    effort = Effort()
    pacer = Pacer(plan.paced, plan.interval_s, fire)
    await pacer.run()
    if tasks:
        await asyncio.wait(tasks, timeout=SETTLE_S)
    peer.say(samples=round_.samples, wrong=round_.wrong, late=pacer.late, seconds=effort.seconds, cpu_s=effort.cpu_s)


async def _closed(peer: Peer, round_: _Admissions, plan: Plan) -> None:
    effort = Effort()
    await in_flight(plan.closed, plan.at_once, round_.admit)
    peer.say(samples=round_.samples, wrong=round_.wrong, seconds=effort.seconds, cpu_s=effort.cpu_s)

"""Admissions: the one Redis call before every turn, by the client that the gateway uses."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec

from benchmarks.load.pacer import SETTLE_S, Pacer, in_flight
from benchmarks.load.peer import Effort, Peer
from core.compose import Composition
from core.config import Config, Redis
from core.errors import ParleyError
from core.limits.port import Limits, UserLimits

_BOUNDS = UserLimits(requests_per_minute=1_000_000, turns_at_once=1_000_000, tokens_per_day=10**12)
_TIMEOUT_S = 5.0


class Plan(msgspec.Struct, frozen=True):
    """`paced` admissions, one every `interval_s`; then `closed` with `at_once` in flight. They go round `accounts`
    accounts whose names begin with `prefix`, and are never settled: they lapse.
    """

    redis_url: str
    prefix: str
    accounts: int
    paced: int
    interval_s: float
    closed: int
    at_once: int


class _Admissions:
    def __init__(self, limits: Limits, plan: Plan, kind: str) -> None:
        self._limits = limits
        self._kind = kind
        self._plan = plan
        self.samples: list[float] = []
        self.wrong: list[str] = []

    async def admit(self, number: int, due: float | None = None) -> None:
        account, turn = f"{self._plan.prefix}{number % self._plan.accounts}", f"{self._kind}-{number}"
        began = time.perf_counter() if due is None else due
        try:
            admission = await self._limits.admit(account, turn, 1, _BOUNDS)
        except ParleyError as error:
            self.wrong.append(str(error))
            return
        self.samples.append(time.perf_counter() - began)
        if admission.degraded:
            self.wrong.append("decided without Redis")


async def run(peer: Peer, plan: Any) -> None:
    """Says when it is ready; at a word the paced round, at another the one with a number in flight."""
    given = msgspec.convert(plan, Plan)
    async with Composition(Config(redis=Redis(url=given.redis_url, timeout_s=_TIMEOUT_S))) as parts:
        limits = await parts.limits()
        first = _Admissions(limits, given, "first")
        await first.admit(0)
        peer.say(ready=True)
        await peer.hear()
        await _paced(peer, limits, given)
        await peer.hear()
        await _closed(peer, limits, given)
        await peer.hear()


async def _paced(peer: Peer, limits: Limits, plan: Plan) -> None:
    round_ = _Admissions(limits, plan, "paced")
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


async def _closed(peer: Peer, limits: Limits, plan: Plan) -> None:
    round_ = _Admissions(limits, plan, "closed")
    effort = Effort()
    await in_flight(plan.closed, plan.at_once, round_.admit)
    peer.say(samples=round_.samples, wrong=round_.wrong, seconds=effort.seconds, cpu_s=effort.cpu_s)

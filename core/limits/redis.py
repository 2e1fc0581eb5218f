"""Limits in Redis: one Lua call decides, by Redis' own clock; a local bucket stands in while Redis is away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from importlib.resources import files
from typing import Any, Final

import redis.exceptions

from core.clock import Clock, SystemClock
from core.errors import ParleyError, Unavailable, Unknown
from core.limits.local import LocalLimits
from core.limits.model import Decision, Refusal
from core.limits.port import Admission, UserLimits
from core.redis import Redis, Script

log = logging.getLogger(__name__)

PROBE_EVERY_S = 0.5
_AWAY = (Unavailable, Unknown, redis.exceptions.RedisError)
_REFUSALS: Final[tuple[Refusal | None, ...]] = (None, "rate_limited", "quota")


def _source(name: str) -> str:
    return files("core.limits").joinpath(name + ".lua").read_text(encoding="utf-8")


class Scripts:
    """The three scripts. `clock` is Lua that defines `clock()` in ms since 1970; by default it is Redis' TIME."""

    def __init__(self, clock: str | None = None) -> None:
        head = (clock or _source("clock")) + _source("account")
        self.admit = Script(head + _source("admit"))
        self.renew = Script(head + _source("renew"))
        self.settle = Script(head + _source("settle"))


class RedisLimits:
    """`Limits` over a `Redis`, which it does not close. The rules are those of `core.limits.model`.

    The first call that fails, for whatever reason, opens the circuit: from then on admissions are decided at once by
    `LocalLimits` at `degraded_share` of the limits and marked `degraded`, the others raise `Unavailable` at once, and
    a task asks Redis every `PROBE_EVERY_S` whether it takes writes again. After `degraded_s` of that, admissions are
    refused with `ParleyError("unavailable")`.
    """

    def __init__(
        self,
        redis: Redis,
        degraded_share: float,
        degraded_s: float,
        clock: Clock | None = None,
        scripts: Scripts | None = None,
    ) -> None:
        self._redis = redis
        self._degraded_s = degraded_s
        self._clock = clock or SystemClock()
        self._scripts = scripts or Scripts()
        self._local = LocalLimits(degraded_share)
        self._away_since: float | None = None
        self._probe: asyncio.Task[None] | None = None

    @property
    def degraded(self) -> bool:
        """Whether admissions are decided locally."""
        return self._away_since is not None

    async def admit(self, account: str, turn: str, tokens: int, limits: UserLimits) -> Admission:
        if tokens < 0:
            raise ValueError("a reservation cannot be negative")
        degraded = self.degraded
        if not degraded:
            args = (turn, tokens, limits.requests_per_minute, limits.turns_at_once, limits.tokens_per_day)
            try:
                decision = _decision(await self._redis.run(self._scripts.admit, _keys(account), args))
            except _AWAY as error:
                self._open(error)
                degraded = True
        if degraded:
            decision = self._admit_locally(account, turn, tokens, limits)
        if decision.refusal is not None:
            raise _refused(decision, limits)
        return Admission(degraded, decision.requests_remaining, decision.tokens_remaining, decision.reset_ms)

    async def renew(self, reservations: Sequence[tuple[str, str]]) -> None:
        turns: dict[str, list[str]] = {}
        for account, turn in reservations:
            turns.setdefault(account, []).append(turn)
            self._local.renew(self._clock.wall_ms(), account, turn)
        self._need()
        calls = (self._redis.run(self._scripts.renew, _keys(account), tuple(turns[account])) for account in turns)
        for result in await asyncio.gather(*calls, return_exceptions=True):
            if isinstance(result, _AWAY):
                raise self._open(result) from result
            if isinstance(result, BaseException):
                raise result

    async def settle(self, account: str, turn: str, tokens: int) -> None:
        if tokens < 0:
            raise ValueError("what was used cannot be negative")
        self._local.settle(self._clock.wall_ms(), account, turn, tokens)
        self._need()
        try:
            await self._redis.run(self._scripts.settle, _keys(account), (turn, tokens))
        except _AWAY as error:
            raise self._open(error) from error

    async def close(self) -> None:
        """Ends the probing. Idempotent."""
        probe, self._probe = self._probe, None
        if probe is not None:
            probe.cancel()
            await asyncio.wait((probe,))

    def _admit_locally(self, account: str, turn: str, tokens: int, limits: UserLimits) -> Decision:
        since = self._away_since
        if since is not None and self._clock.monotonic() - since > self._degraded_s:
            raise ParleyError("unavailable", "limits cannot be checked for too long now; try again later")
        return self._local.admit(self._clock.wall_ms(), account, turn, tokens, limits)

    def _need(self) -> None:
        if self.degraded:
            raise Unavailable("the limits' store is away")

    def _open(self, error: BaseException) -> Unavailable:
        if self._away_since is None:
            log.warning("limits are degraded, Redis failed: %r", error)
            self._away_since = self._clock.monotonic()
            self._probe = asyncio.get_running_loop().create_task(self._probe_until_back(), name="limits-probe")
        return Unavailable(f"the limits' store failed: {error}")

    async def _probe_until_back(self) -> None:
        while True:
            await asyncio.sleep(PROBE_EVERY_S)
            try:
                # A write: a read-only Redis answers PING happily.
                await self._redis.execute("SET", "parley:limits:probe", 1, "PX", 60_000)
            except _AWAY as error:
                log.debug("Redis is still away: %r", error)
            else:
                break
        self._away_since = None
        log.info("limits are decided by Redis again")


def _keys(account: str) -> tuple[str, str, str, str]:
    head = f"parley:limits:{{{account}}}:"
    return head + "turns", head + "minute", head + "even", head + "odd"


def _decision(reply: Any) -> Decision:
    code, retry, requests, tokens, reset = reply
    return Decision(_REFUSALS[code], None if retry < 0 else retry, requests, tokens, reset)


def _refused(decision: Decision, limits: UserLimits) -> ParleyError:
    assert decision.refusal is not None
    if decision.refusal == "quota":
        what = f"{limits.tokens_per_day} tokens a day are used up; try again after midnight UTC"
        if decision.retry_after_ms is None:
            what = f"this request alone may cost more than the {limits.tokens_per_day} tokens a day; make it smaller"
    else:
        what = (
            f"at most {limits.requests_per_minute} requests a minute and {limits.turns_at_once} answers at once, "
            f"within {limits.tokens_per_day} tokens a day; try again a little later"
        )
    return ParleyError(decision.refusal, what, retry_after_ms=decision.retry_after_ms)

"""The Lua scripts and the model decide alike, whatever happens and however time passes."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any, NamedTuple

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.errors import ParleyError
from core.limits.model import DAY_MS, HOLD_MS, MINUTE_MS, Account
from core.limits.port import UserLimits
from core.limits.redis import RedisLimits, Scripts
from core.redis import Redis
from tests.support.redis import RedisServer

TEST_CLOCK = "local function clock() return tonumber(redis.call('GET', 'test:clock')) end\n"
START_MS = 20_000 * DAY_MS + DAY_MS // 2


class Admit(NamedTuple):
    turn: str
    tokens: int
    limits: UserLimits


class Renew(NamedTuple):
    turn: str


class Settle(NamedTuple):
    turn: str
    tokens: int


class Pass(NamedTuple):
    ms: int


turns = st.sampled_from("abcdefg")
amounts = st.sampled_from([0, 1, 10, 40, 99, 100])
user_limits = st.builds(
    UserLimits, st.sampled_from([3, 1, 2, 0]), st.sampled_from([2, 1, 3, 0]), st.sampled_from([200, 100, 50])
)
edges = [1, 999, MINUTE_MS - 1, MINUTE_MS, HOLD_MS - 1, HOLD_MS, HOLD_MS + 1, DAY_MS // 2 - 1, DAY_MS // 2, DAY_MS]
steps = st.lists(
    st.one_of(
        st.builds(Admit, turns, amounts, user_limits),
        st.builds(Admit, turns, amounts, st.just(UserLimits(3, 2, 200))),
        st.builds(Renew, turns),
        st.builds(Settle, turns, amounts),
        st.builds(Pass, st.sampled_from(edges) | st.integers(0, 3 * MINUTE_MS)),
        st.builds(Pass, st.integers(0, 3 * DAY_MS)),
    ),
    max_size=40,
)


def test_the_scripts_decide_as_the_model(redis_server: RedisServer) -> None:
    numbers = itertools.count()
    with asyncio.Runner() as runner:
        store = Redis(redis_server.url, 5.0)
        limits = RedisLimits(store, 0.5, 60.0, scripts=Scripts(TEST_CLOCK))

        @settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
        @given(steps)
        def drive(steps: list[Any]) -> None:
            runner.run(_compare(store, limits, f"account-{next(numbers)}", steps))

        drive()
        runner.run(limits.close())
        runner.run(store.close())


async def _compare(store: Redis, limits: RedisLimits, account: str, steps: list[Any]) -> None:
    model = Account()
    now = START_MS
    for step in [*steps, Admit("last", 0, UserLimits(1_000, 1_000, 1_000_000))]:
        await store.execute("SET", "test:clock", now)
        if isinstance(step, Admit):
            assert await _admit(limits, account, step) == _decide(model, now, step)
        elif isinstance(step, Renew):
            model.renew(now, step.turn)
            await limits.renew([(account, step.turn)])
        elif isinstance(step, Settle):
            model.settle(now, step.turn, step.tokens)
            await limits.settle(account, step.turn, step.tokens)
        else:
            now += step.ms
    assert not limits.degraded


def _decide(model: Account, now: int, step: Admit) -> tuple[Any, ...]:
    decision = model.admit(now, step.turn, step.tokens, step.limits)
    if decision.refusal is not None:
        return decision.refusal, decision.retry_after_ms
    return decision.requests_remaining, decision.tokens_remaining, decision.reset_ms


async def _admit(limits: RedisLimits, account: str, step: Admit) -> tuple[Any, ...]:
    try:
        admission = await limits.admit(account, step.turn, step.tokens, step.limits)
    except ParleyError as error:
        return error.code, error.retry_after_ms
    return admission.requests_remaining, admission.tokens_remaining, admission.reset_ms

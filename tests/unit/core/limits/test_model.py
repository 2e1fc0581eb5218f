"""The rules of limits: what they promise holds to the millisecond and the token."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from core.limits.local import HOLD_MS as LOCAL_HOLD_MS
from core.limits.local import LocalLimits
from core.limits.model import DAY_MS, HOLD_MS, MINUTE_MS, Account
from core.limits.port import UserLimits

NOON = 20_000 * DAY_MS + DAY_MS // 2
USER = UserLimits(requests_per_minute=3, turns_at_once=10, tokens_per_day=1_000)


def test_the_promised_wait_of_a_rate_is_exact() -> None:
    account = Account()
    for at, turn in ((0, "a"), (10_000, "b"), (25_000, "c")):
        assert account.admit(NOON + at, turn, 1, USER).refusal is None
    refused = account.admit(NOON + 30_000, "d", 1, USER)
    assert (refused.refusal, refused.retry_after_ms) == ("rate_limited", 30_000)
    assert account.admit(NOON + 59_999, "d", 1, USER).retry_after_ms == 1
    assert account.admit(NOON + 60_000, "d", 1, USER).refusal is None


def test_the_promised_wait_of_a_quota_is_exact() -> None:
    account = Account()
    account.settle(NOON, "a", 950)
    refused = account.admit(NOON, "b", 100, USER)
    assert (refused.refusal, refused.retry_after_ms) == ("quota", DAY_MS // 2)
    midnight = NOON + DAY_MS // 2
    assert account.admit(midnight - 1, "b", 100, USER).refusal == "quota"
    assert account.admit(midnight, "b", 100, USER).refusal is None


def test_a_reservation_lapses_to_the_millisecond_unless_renewed() -> None:
    one = UserLimits(requests_per_minute=100, turns_at_once=1, tokens_per_day=1_000)
    account = Account()
    account.admit(NOON, "a", 1_000, one)
    assert account.renew(NOON + HOLD_MS - 1, "a")
    assert account.admit(NOON + 2 * HOLD_MS - 2, "b", 1, one).refusal == "rate_limited"
    assert not account.renew(NOON + 2 * HOLD_MS - 1, "a")
    taken = account.admit(NOON + 2 * HOLD_MS - 1, "b", 1, one)
    assert (taken.refusal, taken.tokens_remaining) == (None, 999)


def test_a_turn_over_midnight_counts_on_its_day_once() -> None:
    midnight = NOON + DAY_MS // 2
    account = Account()
    account.admit(midnight - 1, "a", 500, USER)
    account.renew(midnight, "a")
    assert account.admit(midnight, "b", 0, USER).tokens_remaining == 1_000
    account.settle(midnight + 1, "a", 400)
    account.settle(midnight + 2, "a", 400)
    assert account.admit(midnight + 3, "c", 0, USER).tokens_remaining == 1_000
    account.settle(midnight + 4, "a", 450)
    assert account.admit(midnight + 5, "d", 0, UserLimits(10, 10, 1_000)).tokens_remaining == 1_000


def test_a_smaller_limit_counts_what_was_admitted_under_a_larger_one() -> None:
    account = Account()
    for i in range(5):
        account.admit(NOON + i * 1_000, f"t{i}", 1, UserLimits(10, 10, 1_000))
    refused = account.admit(NOON + 5_000, "late", 1, UserLimits(2, 10, 1_000))
    # Four of the five must leave before a second one is one of two.
    assert refused.retry_after_ms == MINUTE_MS + 3_000 - 5_000
    assert refused.requests_remaining == 0


@given(st.lists(st.tuples(st.integers(0, 20_000), st.integers(0, 400), st.booleans()), max_size=60))
def test_no_window_and_no_day_is_ever_exceeded(steps: list[tuple[int, int, bool]]) -> None:
    account = Account()
    now = NOON
    admitted: list[int] = []
    reserved: dict[str, int] = {}
    used = 0
    for number, (pause, tokens, settled) in enumerate(steps):
        now += pause
        turn = f"t{number}"
        decision = account.admit(now, turn, tokens, USER)
        if decision.refusal is None:
            admitted.append(now)
            reserved[turn] = tokens
            if settled:
                account.settle(now, turn, tokens)
                used += reserved.pop(turn)
        assert len([at for at in admitted if at > now - MINUTE_MS]) <= USER.requests_per_minute
        assert used <= USER.tokens_per_day
        assert decision.tokens_remaining >= 0


def test_the_local_share_is_a_share_and_never_nothing() -> None:
    local = LocalLimits(0.5)
    user = UserLimits(requests_per_minute=4, turns_at_once=1, tokens_per_day=100)
    first = local.admit(NOON, "ann", "a", 10, user)
    assert (first.requests_remaining, first.tokens_remaining) == (1, 40)
    assert local.admit(NOON, "ann", "b", 10, user).refusal == "rate_limited"
    assert local.admit(NOON, "bob", "b", 10, user).refusal is None
    assert local.admit(NOON, "eve", "c", 51, user).refusal == "quota"


def test_a_local_place_comes_back_and_its_tokens_do_not() -> None:
    local = LocalLimits(1.0)
    user = UserLimits(requests_per_minute=100, turns_at_once=1, tokens_per_day=100)
    local.admit(NOON, "ann", "a", 60, user)
    later = NOON + LOCAL_HOLD_MS
    assert local.admit(later, "ann", "b", 50, user).refusal == "quota"
    assert local.admit(later, "ann", "b", 40, user).tokens_remaining == 0


def test_a_local_place_that_is_settled_here_comes_back_at_once() -> None:
    local = LocalLimits(1.0)
    user = UserLimits(requests_per_minute=100, turns_at_once=1, tokens_per_day=100)
    local.admit(NOON, "ann", "a", 60, user)
    local.renew(NOON + LOCAL_HOLD_MS - 1, "ann", "a")
    assert local.admit(NOON + LOCAL_HOLD_MS, "ann", "b", 50, user).refusal == "rate_limited"
    local.settle(NOON + LOCAL_HOLD_MS, "ann", "a", 10)
    assert local.admit(NOON + LOCAL_HOLD_MS, "ann", "b", 50, user).tokens_remaining == 40


def test_local_accounts_are_bounded_and_the_least_recent_goes() -> None:
    local = LocalLimits(1.0, max_accounts=3)
    user = UserLimits(requests_per_minute=1, turns_at_once=1, tokens_per_day=100)
    for account in ("a", "b", "c", "a", "d"):
        local.admit(NOON, account, "turn", 1, user)
    assert len(local) == 3
    assert local.admit(NOON, "a", "next", 1, user).refusal == "rate_limited"
    assert local.admit(NOON, "b", "next", 1, user).refusal is None

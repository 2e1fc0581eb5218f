"""The rules of limits, pure: what the Lua scripts do to one account, and what the local bucket decides by.

- Requests: a request counts for 60 s from its admission (a sliding window, exact, of at most `requests_per_minute`
  entries).
- Turns at once: a reservation holds its place until it is settled, released, or lapses `HOLD_MS` after it was made or
  last renewed.
- Tokens: a reservation holds its tokens on the UTC day on which it was made; settled, it counts what was used on that
  day instead. Of several settlements of one turn the largest counts, in whatever order they come, so a redelivered or
  earlier one changes nothing. Settling with 0 releases and is not remembered.
- A turn that is reserved, or was settled today or yesterday, is admitted again without taking anything.
- Refused is `quota` when what was used today leaves no room; a retry can succeed at midnight UTC, or never where the
  request alone is over the limit. Everything else is `rate_limited`: until the window has room, or (a turn's end may
  give back a place and tokens at any moment) for `SOON_MS`.
- A refusal changes nothing.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from core.limits.port import UserLimits

MINUTE_MS = 60_000
HOLD_MS = 120_000
DAY_MS = 86_400_000
SOON_MS = 1_000

Refusal = Literal["rate_limited", "quota"]


class Decision(NamedTuple):
    """What `admit` found. `retry_after_ms` None with a refusal: no retry can succeed. `reset_ms`: until the oldest
    counted request leaves the window; 0 where none counts.
    """

    refusal: Refusal | None
    retry_after_ms: int | None
    requests_remaining: int
    tokens_remaining: int
    reset_ms: int


class _Day:
    __slots__ = ("holds", "settled", "used")

    def __init__(self) -> None:
        self.holds: dict[str, int] = {}
        self.settled: dict[str, int] = {}
        self.used = 0

    @property
    def held(self) -> int:
        return sum(self.holds.values())


class Account:
    """One account. Times are milliseconds since 1970 and are given; they should not go back.

    `hold_ms`: how long a reservation stays. `spend_lapsed`: the tokens of one that lapsed count as used, for where
    nobody tells what was used.
    """

    __slots__ = ("_days", "_hold_ms", "_minute", "_spend_lapsed", "_turns")

    def __init__(self, hold_ms: int = HOLD_MS, spend_lapsed: bool = False) -> None:
        self._hold_ms = hold_ms
        self._spend_lapsed = spend_lapsed
        self._turns: dict[str, int] = {}
        self._minute: dict[str, int] = {}
        self._days: dict[int, _Day] = {}

    def admit(self, now: int, turn: str, tokens: int, limits: UserLimits) -> Decision:
        """Takes a request, a place and `tokens`, or nothing."""
        today = self._begin(now)
        for lapsed in [turn for turn, lapses in self._turns.items() if lapses <= now]:
            self._lapse(lapsed)
        self._minute = {turn: at for turn, at in self._minute.items() if at > now - MINUTE_MS}
        if turn in self._turns or self._settled(turn) is not None:
            return self._decision(now, limits)
        if today.used + tokens > limits.tokens_per_day:
            midnight = DAY_MS - now % DAY_MS
            return self._decision(now, limits, "quota", None if tokens > limits.tokens_per_day else midnight)
        if limits.requests_per_minute < 1 or limits.turns_at_once < 1:
            return self._decision(now, limits, "rate_limited", None)
        wait = self._wait(now, today, tokens, limits)
        if wait > 0:
            return self._decision(now, limits, "rate_limited", wait)
        self._turns[turn] = now + self._hold_ms
        self._minute[turn] = now
        today.holds[turn] = tokens
        return self._decision(now, limits)

    def renew(self, now: int, turn: str) -> bool:
        """Keeps a reservation that has not lapsed; whether there is one."""
        if self._turns.get(turn, 0) <= now:
            return False
        self._turns[turn] = now + self._hold_ms
        return True

    def settle(self, now: int, turn: str, tokens: int) -> int:
        """Ends the reservation and counts what was used; returns the tokens that the turn stands settled with."""
        today = self._begin(now)
        reserved_on = self._release(turn)
        day = self._settled(turn) or reserved_on or today
        before = day.settled.get(turn, 0)
        if tokens > before:
            day.settled[turn] = tokens
            day.used += tokens - before
        return max(tokens, before)

    def _wait(self, now: int, today: _Day, tokens: int, limits: UserLimits) -> int:
        wait = 0
        if len(self._minute) >= limits.requests_per_minute:
            leaving = sorted(self._minute.values())[len(self._minute) - limits.requests_per_minute]
            wait = leaving + MINUTE_MS - now
        if len(self._turns) >= limits.turns_at_once or today.used + today.held + tokens > limits.tokens_per_day:
            wait = max(wait, SOON_MS)
        return wait

    def _begin(self, now: int) -> _Day:
        number = now // DAY_MS
        self._days = {day: state for day, state in self._days.items() if day in (number - 1, number)}
        return self._days.setdefault(number, _Day())

    def _settled(self, turn: str) -> _Day | None:
        return next((day for day in self._days.values() if turn in day.settled), None)

    def _release(self, turn: str) -> _Day | None:
        self._turns.pop(turn, None)
        day = next((day for day in self._days.values() if turn in day.holds), None)
        if day is not None:
            del day.holds[turn]
        return day

    def _lapse(self, turn: str) -> None:
        day = next((day for day in self._days.values() if turn in day.holds), None)
        if self._spend_lapsed and day is not None:
            day.used += day.holds[turn]
        self._release(turn)

    def _decision(
        self, now: int, limits: UserLimits, refusal: Refusal | None = None, retry_after_ms: int | None = None
    ) -> Decision:
        today = self._days[now // DAY_MS]
        return Decision(
            refusal,
            retry_after_ms,
            max(0, limits.requests_per_minute - len(self._minute)),
            max(0, limits.tokens_per_day - today.used - today.held),
            min(self._minute.values()) + MINUTE_MS - now if self._minute else 0,
        )

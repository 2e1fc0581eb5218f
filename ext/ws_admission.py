"""How many handshakes are let in, and when those who are not should come back: arithmetic alone, given the time."""

from __future__ import annotations

import random
from collections.abc import Callable

# Places are given out more slowly than handshakes are admitted: the bucket refills meanwhile, and evens out that
# clients do not come back to the millisecond.
SHARE = 0.9
# Everybody who was refused at once is told a time of their own; this spreads those who come back late or early.
JITTER_S = 0.5


class Admission:
    """A token bucket of `at_once` handshakes, refilled by `per_s`, and a virtual queue of those whom it turned away.

    Each refused client is told the time of its place in that queue, so that clients that obey come back at the rate at
    which they are admitted, and N of them are in after about N / per_s seconds; so are those that know whole seconds
    only, where `at_once` is what comes in a second. Nothing is kept of a client: the queue is the time of its end. It
    reaches `longest_s` ahead; whoever finds it longer is told a random time in its later half, and gets a place on the
    next try. `per_s` 0 admits everyone.
    """

    __slots__ = ("_full_at", "_longest_s", "_queue_ends", "_random", "_slot_s", "_spacing_s", "_tolerance_s")

    def __init__(
        self, per_s: float, at_once: int, longest_s: float, chance: Callable[[], float] = random.random
    ) -> None:
        self._spacing_s = 1 / per_s if per_s else 0.0
        # A thousandth of a place more: sums of many small times are not exact.
        self._tolerance_s = (at_once + 0.001) * self._spacing_s
        self._slot_s = self._spacing_s / SHARE
        self._longest_s = longest_s
        self._random = chance
        self._full_at = self._queue_ends = float("-inf")

    def admit(self, now: float) -> bool:
        """Whether a handshake that begins at `now` (seconds, never going back) is let in; if so it is counted."""
        full_at = max(self._full_at, now) + self._spacing_s
        if full_at - now > self._tolerance_s:
            return False
        self._full_at = full_at
        return True

    def come_back_ms(self, now: float) -> int:
        """After how many milliseconds a client that was refused at `now` should try again; its place is taken."""
        wait = max(self._queue_ends - now, 0.0) + self._slot_s
        if wait > self._longest_s:
            self._queue_ends = now + self._longest_s
            wait = self._longest_s * (0.5 + self._random() / 2)
        else:
            self._queue_ends = now + wait
        return max(1, round(1000 * min(wait + JITTER_S * self._random(), self._longest_s)))

"""A clock that tests turn by hand."""

from __future__ import annotations


class ManualClock:
    """Both readings start at 1,000,000 s and move by `advance` only."""

    def __init__(self) -> None:
        self._now = 1_000_000.0

    def monotonic(self) -> float:
        return self._now

    def wall_ms(self) -> int:
        return int(self._now * 1000)

    def advance(self, seconds: float) -> None:
        self._now += seconds

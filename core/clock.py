"""Time, injectable: pure code is given it, shells read it here."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Two readings of time. `monotonic` never goes back and measures waits; `wall_ms` may jump and dates rows."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary start; only differences mean anything."""
        ...

    def wall_ms(self) -> int:
        """Milliseconds since the Unix epoch, as this machine believes."""
        ...


class SystemClock:
    """The machine's own clocks."""

    __slots__ = ()

    def monotonic(self) -> float:
        return time.monotonic()

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000

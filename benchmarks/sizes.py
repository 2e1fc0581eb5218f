"""How much is measured."""

from __future__ import annotations

import msgspec


class Sizes(msgspec.Struct, frozen=True, kw_only=True):
    """`at_once` streams run in the steady state: a turn begins every (length of a stream / `at_once`). Rates are per
    second.
    """

    turns: int = 640
    at_once: int = 200
    deltas: int = 64
    delay_ms: float = 100.0
    idle_s: float = 3.0
    requests: int = 4_000
    streams: int = 640
    stream_delay_ms: float = 10.0
    admissions: int = 10_000
    admission_rate: float = 2_000.0

    @property
    def stream_s(self) -> float:
        """How long the provider takes for one streamed answer."""
        return (self.deltas - 1) * self.delay_ms / 1e3

    @property
    def turn_interval_s(self) -> float:
        return self.stream_s / self.at_once


FULL = Sizes()
QUICK = Sizes(
    turns=120,
    at_once=40,
    deltas=32,
    idle_s=1.0,
    requests=400,
    streams=64,
    admissions=2_000,
)

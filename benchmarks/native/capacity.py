"""What the load engine does by itself: `python -m benchmarks.native.capacity`.

Everything is per second of the engine's own CPU, user and system, against a server in C in another process that costs
next to nothing (floor.h). A report puts these beside what a scenario asked of the engine.
"""

from __future__ import annotations

from typing import Any

import msgspec

from benchmarks.driver import Load
from benchmarks.native.engine import Engine
from benchmarks.native.latency import Latencies
from benchmarks.native.upgrade import ACCEPT, loopback, upgrade

FRAME_BYTES = 120
BURST = 20
PHASE_S = 60.0


class Size(msgspec.Struct, frozen=True):
    """How much is done. Sends are paced at `rate` a second; frames are pushed to 1 % of the sockets in bursts."""

    sockets: int = 4_000
    sends: int = 100_000
    rate: float = 80_000.0
    frames: int = 400_000


TINY = Size(sockets=50, sends=500, rate=5_000.0, frames=2_000)


class Capacity(msgspec.Struct, frozen=True):
    """A second of the engine's CPU. `late_p99_ms`: its lateness while it paced `rate` sends a second."""

    handshakes: float
    sends: float
    frames_single: float
    frames_bursts: float
    rate: float
    late_p99_ms: float


class Incomplete(Exception):
    """Something of what the floor was asked for did not come in time."""


def capacity(size: Size | None = None) -> Capacity:
    """Measures for some seconds (`TINY` for a fraction of one). Raises `Incomplete`."""
    size = size or Size()
    with Load("floor", size) as load:
        return _measure(size, load.hear()["port"])


def _measure(size: Size, port: int) -> Capacity:
    engine = Engine(size.sockets)
    try:
        sockets = engine.prepare(
            [("127.0.0.1", port)], [upgrade()], count=size.sockets, sources=loopback(8), accept=ACCEPT
        )
        engine.open(sockets, at_once=64)
        handshakes = _per_cpu_s(engine, size.sockets, "opened")
        engine.send(sockets, b"x" * FRAME_BYTES, count=size.sends, rate=size.rate, timeout_s=PHASE_S)
        sends = _per_cpu_s(engine, size.sends, "answered", keep=True)
        late = Latencies(engine.histogram("late"))
        engine.reset()
        return Capacity(
            handshakes=handshakes,
            sends=sends,
            frames_single=_pushed(engine, sockets, size.frames, 1),
            frames_bursts=_pushed(engine, sockets, size.frames, BURST),
            rate=size.rate,
            late_p99_ms=late.at(99),
        )
    finally:
        engine.close()


def _pushed(engine: Engine, sockets: range, frames: int, burst: int) -> float:
    some = sockets[: max(len(sockets) // 100, 1)]
    each = frames // len(some)
    engine.send(some, b"push %d %d %d" % (each, burst, FRAME_BYTES), count=len(some), order="round", answer=None)
    return _per_cpu_s(engine, each * len(some), "frames_in")


def _per_cpu_s(engine: Engine, count: int, counter: str, *, keep: bool = False) -> float:
    """Runs until `counter` has reached `count`; how many a second of CPU that is."""
    engine.run(PHASE_S)
    told: dict[str, Any] = engine.statistics()
    while told[counter] < count:
        if told["wall_s"] > PHASE_S:
            raise Incomplete(f"{told[counter]} of {count} {counter} within {PHASE_S:.0f} s")
        engine.run(0.02, until="time")
        told = engine.statistics()
    if not keep:
        engine.reset()
    return count / max(float(told["user_s"]) + float(told["system_s"]), 1e-3)


def main() -> None:
    for name, value in msgspec.structs.asdict(capacity()).items():
        print(f"{name:14} {value:12,.3f}")


if __name__ == "__main__":
    main()

"""What the WebSocket kernels in `ext/` buy over their plain-Python references: the same work done by both, timed.

`python -m benchmarks.kernels` prints a table, `run` gives its rows, `measure` the same as a scenario. One core, nothing
but the calls: no sockets, no loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from benchmarks.figures import Figure, Result
from ext import ws_frames, ws_handshake, ws_reference

BUDGET_S = 0.2  # of one work by one side; its fastest round counts
QUICK_BUDGET_S = 0.05
ROUNDS = 5
KEY = b"\x37\xfa\x21\x3d"
REQUEST = (
    b"GET /v1/ws HTTP/1.1\r\nHost: chat.example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Origin: https://chat.example.com\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\n"
    b"Accept-Encoding: gzip, deflate, br\r\nAccept-Language: en-GB,en\r\nCookie: session=0123456789abcdef\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEA==\r\n"
    b"Sec-WebSocket-Protocol: parley.v1\r\n\r\n"
)

HOW = """\
The compiled masker, parsers and encoder of `ext/`, and their references in plain Python, which are written for reading,
do the same work on one core, without sockets or a loop. The fastest of five rounds counts."""

Work = Callable[[Any], Callable[[], object]]


def measure(quick: bool) -> Result:
    """The rows of `run` as a scenario of `python -m benchmarks`."""
    return Result(
        scenario="kernels",
        title="The WebSocket kernels",
        how=HOW,
        figures=tuple(
            Figure(
                name=row["work"],
                value=row["per_s"],
                unit="/s",
                note=f"{row['mb_per_s']:,.0f} MB/s; {row['times']:,.1f} times the reference",
            )
            for row in run(QUICK_BUDGET_S if quick else BUDGET_S)
        ),
    )


def run(budget_s: float = BUDGET_S) -> list[dict[str, Any]]:
    """One row for each kind of work, in a few seconds: `work`, `per_s` and `reference_per_s` (frames, masks or
    handshakes), `mb_per_s` and `reference_mb_per_s` (10^6 bytes of input), `times` (kernel over reference)."""
    rows = []
    for name, size, each, work in _works():
        kernel, reference = (each * _calls_per_s(work(module), budget_s) for module in (_Kernels, ws_reference))
        rows.append(
            {
                "work": name,
                "per_s": round(kernel),
                "reference_per_s": round(reference),
                "mb_per_s": kernel * size / 1e6,
                "reference_mb_per_s": reference * size / 1e6,
                "times": kernel / reference,
            }
        )
    return rows


class _Kernels:
    """The compiled modules under the names that the reference has them by."""

    mask = staticmethod(ws_frames.mask)
    encode_frame = staticmethod(ws_frames.encode_frame)
    FrameParser = ws_frames.FrameParser
    parse_upgrade = staticmethod(ws_handshake.parse_upgrade)


def _works() -> list[tuple[str, int, int, Work]]:
    """(name, bytes of one unit, units of one call, what makes the call for a module)."""
    small, large = b"x" * 120, bytes(range(256)) * 256
    text = ("é, \N{GRINNING FACE} and plain words. " * 2000).encode()[:65_000].decode(errors="ignore").encode()
    return [
        ("mask 120 B", len(small), 1, lambda of: lambda: of.mask(small, KEY)),
        ("mask 64 KiB", len(large), 1, lambda of: lambda: of.mask(large, KEY)),
        ("parse text frames of 120 B, 64 in a read", *_parsing([_frame(1, small) * 64], 64)),
        ("parse a binary frame of 64 KiB in one read", *_parsing([_frame(2, large)], 1)),
        ("parse a text frame of 65 kB in reads of 1,400 B", *_parsing(_reads(_frame(1, text), 1400), 1)),
        ("encode a text frame of 120 B", len(small), 1, lambda of: lambda: of.encode_frame(1, small)),
        ("parse a browser's handshake", len(REQUEST), 1, lambda of: lambda: of.parse_upgrade(REQUEST, 64)),
    ]


def _parsing(reads: list[bytes], frames: int) -> tuple[int, int, Work]:
    def work(of: Any) -> Callable[[], object]:
        parser = of.FrameParser(1 << 20, 128)

        def parse() -> None:
            for read in reads:
                parser.feed(read)

        return parse

    return sum(map(len, reads)) // frames, frames, work


def _frame(opcode: int, payload: bytes) -> bytes:
    """A client's frame: a server's with a mask."""
    frame = ws_reference.encode_frame(opcode, payload)
    head = frame[: len(frame) - len(payload)]
    return bytes((head[0], head[1] | 0x80)) + head[2:] + KEY + ws_reference.mask(payload, KEY)


def _reads(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def _calls_per_s(call: Callable[[], object], budget_s: float) -> float:
    """The best of a few rounds: what disturbs a round only makes it slower."""
    count, best = 1, 0.0
    while (elapsed := _seconds(call, count)) < budget_s / ROUNDS / 4:
        count *= 2
    count = max(1, int(count * budget_s / ROUNDS / elapsed))
    for _ in range(ROUNDS):
        best = max(best, count / _seconds(call, count))
    return best


def _seconds(call: Callable[[], object], count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        call()
    return time.perf_counter() - start


def _print(rows: list[dict[str, Any]]) -> None:
    print(f"{'work':<50} {'kernel':>12} {'reference':>12} {'kernel':>11} {'reference':>11} {'times':>6}")
    for row in rows:
        print(
            f"{row['work']:<50} {row['per_s']:>10,}/s {row['reference_per_s']:>10,}/s"
            f" {row['mb_per_s']:>6,.0f} MB/s {row['reference_mb_per_s']:>6,.1f} MB/s {row['times']:>6,.1f}"
        )


if __name__ == "__main__":
    _print(run())

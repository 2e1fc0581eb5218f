"""What the WebSocket kernels in `ext/` buy over their plain-Python references: the same work done by both, timed.

One core, nothing but the calls: no sockets, no loop.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from benchmarks.scenario import Bench, Contestant, Measure, Metric, Sample, Scenario, Value
from ext import ws_frames, ws_handshake, ws_reference

READ = 1400
KEY = b"\x37\xfa\x21\x3d"
REQUEST = (
    b"GET /v1/ws HTTP/1.1\r\nHost: chat.example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Origin: https://chat.example.com\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\n"
    b"Accept-Encoding: gzip, deflate, br\r\nAccept-Language: en-GB,en\r\nCookie: session=0123456789abcdef\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEA==\r\n"
    b"Sec-WebSocket-Protocol: parley.v1\r\n\r\n"
)

Work = Callable[[Any], Callable[[], object]]


class Sizes(msgspec.Struct, frozen=True):
    """`budget_s`: for one kind of work by one side in one round."""

    budget_s: float


class _Kernels:
    """The compiled modules under the names that the reference has them by."""

    mask = staticmethod(ws_frames.mask)
    encode_frame = staticmethod(ws_frames.encode_frame)
    FrameParser = ws_frames.FrameParser
    parse_upgrade = staticmethod(ws_handshake.parse_upgrade)


class _Task(msgspec.Struct, frozen=True):
    """A kind of work. `size`: bytes of one unit; `units`: how many one call does."""

    key: str
    label: str
    size: int
    units: int
    work: Work


def _tasks() -> list[_Task]:
    small, large = b"x" * 120, bytes(range(256)) * 256
    text = ("é, \N{GRINNING FACE} and plain words. " * 2000).encode()[:65_000].decode(errors="ignore").encode()
    return [
        _Task("mask_small", "mask 120 B", len(small), 1, lambda of: lambda: of.mask(small, KEY)),
        _Task("mask_large", "mask 64 KiB", len(large), 1, lambda of: lambda: of.mask(large, KEY)),
        _Task("parse_small", "parse text frames of 120 B, 64 in a read", *_parsing([_frame(1, small) * 64], 64)),
        _Task("parse_large", "parse a binary frame of 64 KiB in one read", *_parsing([_frame(2, large)], 1)),
        _Task("parse_reads", "parse a text frame of 65 kB in reads of 1,400 B", *_parsing(_reads(_frame(1, text)), 1)),
        _Task("encode", "encode a text frame of 120 B", len(small), 1, lambda of: lambda: of.encode_frame(1, small)),
        _Task(
            "upgrade", "parse a browser's handshake", len(REQUEST), 1, lambda of: lambda: of.parse_upgrade(REQUEST, 64)
        ),
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


def _reads(data: bytes) -> list[bytes]:
    return [data[at : at + READ] for at in range(0, len(data), READ)]


@contextlib.contextmanager
def _side(of: Any, sizes: Sizes) -> Iterator[Measure]:
    tasks = _tasks()

    def measure(_: int) -> Sample:
        done = [(task, task.units * _calls_per_s(task.work(of), sizes.budget_s)) for task in tasks]
        return Sample(values=[Value(task.key, per_s) for task, per_s in done])

    yield measure


def _calls_per_s(call: Callable[[], object], budget_s: float) -> float:
    count = 1
    while (elapsed := _seconds(call, count)) < budget_s / 8:
        count *= 2
    count = max(1, int(count * budget_s / elapsed))
    return count / _seconds(call, count)


def _seconds(call: Callable[[], object], count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        call()
    return time.perf_counter() - start


def _kernel(bench: Bench, sizes: Sizes) -> contextlib.AbstractContextManager[Measure]:
    return _side(_Kernels, sizes)


def _reference(bench: Bench, sizes: Sizes) -> contextlib.AbstractContextManager[Measure]:
    return _side(ws_reference, sizes)


SCENARIO = Scenario(
    name="kernels",
    order=900,
    title="The WebSocket kernels",
    question="What do the compiled masker, parsers and encoder buy over plain Python?",
    how="Each does the same calls for {budget_s} s of every kind of work and round, on one core, without sockets.",
    floor="None: these are the innermost calls.",
    peers="None: the reference is our own plain Python, which the tests compare the kernels with.",
    misleads=(
        "The references are written for reading, not for speed; and the same input again and again stays in the "
        "processor's cache."
    ),
    metrics=[Metric(key=task.key, label=task.label, unit="1/s", more=True) for task in _tasks()],
    full=Sizes(budget_s=0.1),
    tiny=Sizes(budget_s=0.002),
    contestants=[Contestant("kernels", "ours", _kernel), Contestant("reference", "reference", _reference)],
)

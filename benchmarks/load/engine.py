"""The native engine as a generator: each message calls methods of it, and is answered with what they returned.

Binary things travel as text: payloads, prefixes and requests in Latin-1. Numbers of connections may be given as
`[first, behind the last]` under the name `span` instead of a list under `numbers`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.load.peer import Peer
from benchmarks.native.engine import Engine

_BYTES = frozenset({"payload", "answer", "accept", "marker"})
_MANY_BYTES = frozenset({"requests", "frames"})


class Call(msgspec.Struct, frozen=True):
    """`method(**kwargs)` of the engine. Results that are ranges are told as `[first, behind the last]`."""

    method: str
    kwargs: dict[str, Any] = {}


class Plan(msgspec.Struct, frozen=True):
    """An engine for so many connections. Every later message is a list of `Call`s, made one after the other."""

    capacity: int = 20_000
    seed: int = 1


class _Hands:
    """What is called by name: the engine's methods, and a few that spare messages."""

    def __init__(self, plan: Plan) -> None:
        self._engine = Engine(plan.capacity, seed=plan.seed)

    def prepare_template(self, *, template: str, values: list[str], path: str = "", **kwargs: Any) -> range:
        """`prepare` with the requests `template` with `{}` replaced by each of `values`, or of the lines of `path`."""
        if path:
            values = Path(path).read_text(encoding="utf-8").splitlines()
        requests = [template.replace("{}", value).encode("latin-1") for value in values]
        return self._engine.prepare(requests=requests, **kwargs)

    def told(self) -> dict[str, Any]:
        """Statistics and histograms at once, and the moment (CLOCK_MONOTONIC, ns)."""
        return {
            "statistics": self._engine.statistics(),
            "histograms": self._engine.histograms(),
            "at_ns": time.monotonic_ns(),
        }

    def all_turns(self) -> list[dict[str, Any]]:
        return [self._engine.turn(number) for number in range(self._engine.turn_count())]

    def __call__(self, call: Call) -> Any:
        method: Callable[..., Any] = getattr(self, call.method, None) or getattr(self._engine, call.method)
        result = method(**_decoded(call.kwargs))
        return [result.start, result.stop] if isinstance(result, range) else result


def _decoded(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    decoded: dict[str, Any] = {}
    for name, value in kwargs.items():
        if name in _BYTES and isinstance(value, str):
            decoded[name] = value.encode("latin-1")
        elif name in _MANY_BYTES:
            decoded[name] = [each.encode("latin-1") for each in value]
        elif name == "span":
            decoded["numbers"] = range(*value)
        else:
            decoded[name] = value
    return decoded


async def run(peer: Peer, plan: Any) -> None:
    """Answers `{"results": [...]}`, or `{"error": "..."}` where a call raised: what was called before it was done."""
    hands = _Hands(msgspec.convert(plan, Plan))
    while True:
        calls = msgspec.convert(await peer.hear(), list[Call])
        try:
            results = [hands(call) for call in calls]
        except (ValueError, LookupError, OSError, TypeError, AttributeError) as error:
            peer.say(error=f"{type(error).__name__}: {error}")
        else:
            peer.say(results=results)

"""Every way in which a connection to a gateway can end, and a crowd that ends in all of them at once."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.native.engine import Engine
from benchmarks.native.upgrade import ACCEPT, loopback, proxy_v2, upgrade
from tests.support.leaking import BALANCER, FRAMES_AT_ONCE, PER_ADDRESS, PER_USER
from tests.support.websocket import BINARY, PING, TEXT, client_frame

if TYPE_CHECKING:
    from benchmarks.native.engine import Ending

LOOPBACK = "127.0.0.1"
PATIENCE_S = 30.0
LOOK_S = 0.02
# So many that a long run does not use up the ports of one, of which each rests for a minute.
SOURCES = loopback(50)

Ends = frozenset[tuple[int, int]]
LOST: Ends = frozenset({(101, 1006)})
CUT: Ends = frozenset({(0, 0)})
RAW: Ends = frozenset({(0, 1006)})


def closed(*codes: int) -> Ends:
    return frozenset((101, code) for code in codes)


def refused(status: int) -> Ends:
    return frozenset({(status, 0)})


def bearer(user: str) -> bytes:
    return upgrade(token=user)


class Way(NamedTuple):
    """`ends`: the HTTP statuses and close codes (1006: none) that clients see; some of them `may` be told in time, but
    need not. `first`: what it says first, by its user; `says` what it says next, `deaf` without reading again, or not
    before it was closed (`late`: so begins its name); `end` how it leaves, None: it is made to. `share` of them are
    one user's. `waits`: the handshake is never answered, it leaves before.
    """

    ends: Ends
    first: Callable[[str], bytes] = bearer
    says: bytes = b""
    end: Ending | None = None
    at: str = "gateway"
    deaf: bool = False
    late: bool = False
    may: Ends = frozenset()
    share: int = 1
    waits: bool = False
    raw: bool = False


def _text(frame: object) -> bytes:
    return client_frame(TEXT, json.dumps(frame).encode())


def _balanced(user: str) -> bytes:
    # Twice as many from an address as there may be.
    source = int(user.rpartition("-")[2]) // (2 * PER_ADDRESS)
    return proxy_v2(f"198.51.{source >> 8}.{source & 255}", 1, BALANCER, 2) + upgrade(token=user)


def ways(short: str, long: str) -> dict[str, Way]:
    """By the name that their users begin with. `short` and `long` are answers that run."""
    return _leaving() | _thrown_out() | _refused() | _early() | _busy(short, long) | _late(long)


def _leaving() -> dict[str, Way]:
    return {
        "closes": Way(closed(1000), end="close"),
        "ends": Way(LOST, end="fin"),
        "resets": Way(LOST, end="rst"),
        "half": Way(LOST, end="half"),
        "midframe": Way(LOST, end="mid-frame"),
        "abandons": Way(LOST, end="abandon"),
        "fragment": Way(LOST, says=client_frame(TEXT, b"a", fin=False), end="rst"),
        "several": Way(LOST, end="fin", share=3),
    }


def _thrown_out() -> dict[str, Way]:
    return {
        "binary": Way(closed(4400), says=client_frame(BINARY, b"{}")),
        "nojson": Way(closed(4400), says=client_frame(TEXT, b"{")),
        "reserved": Way(closed(1002), says=client_frame(TEXT, b"{}", rsv=4)),
        "latin": Way(closed(1007), says=client_frame(TEXT, b"\xff")),
        "oversize": Way(closed(1009), says=client_frame(TEXT, b"", length=b"\x7f" + (1 << 20).to_bytes(8, "big"))),
        "frames": Way(closed(4429), says=client_frame(PING) * (10 * FRAMES_AT_ONCE)),
        "crowd": Way(closed(1000, 4429), end="close", share=2 * PER_USER),
        "revoked": Way(closed(4401)),
    }


def _refused() -> dict[str, Way]:
    return {
        "nobody": Way(refused(401), first=lambda user: upgrade()),
        "path": Way(refused(404), first=lambda user: upgrade("/elsewhere", token=user)),
        "plain": Way(refused(426), first=lambda user: b"GET /v1/ws HTTP/1.1\r\nHost: a\r\n\r\n"),
        "garbage": Way(refused(400), first=lambda user: b"\x16\x03\x01\x00\xa5\x01\r\n\r\n"),
        "full": Way(refused(503) | LOST, end="fin", at="full"),
        "behind": Way(refused(429) | LOST, first=_balanced, end="fin", at="behind"),
        "early": Way(refused(400), first=lambda user: upgrade(token="slow" + user) + b"x" * 70_000),
    }


def _early() -> dict[str, Way]:
    cut: dict[str, Ending] = {"cutends": "fin", "cutresets": "rst", "cuthalf": "half", "cutabandons": "abandon"}
    slow: dict[str, Ending] = {"slowends": "fin", "slowresets": "rst", "slowhalf": "half"}
    return {
        **{name: Way(RAW, first=lambda user: upgrade()[:-9], end=end, raw=True) for name, end in cut.items()},
        "silent": Way(RAW, first=lambda user: b"", end="fin", raw=True),
        **{name: Way(CUT, end=end, waits=True) for name, end in slow.items()},
    }


def _busy(short: str, long: str) -> dict[str, Way]:
    watch = _text({"type": "resume", "generation_id": short, "epoch": 0, "seq": -1})
    much = _text({"type": "resume", "generation_id": long, "epoch": 0, "seq": -1})
    asks = _text({"type": "send", "conversation_id": "c", "content": "watch"})
    waits = _text({"type": "send", "conversation_id": "c", "content": "hello"}) * 2
    return {
        "watchends": Way(LOST, says=watch, end="fin"),
        "watchresets": Way(LOST, says=watch, end="rst"),
        "watchcloses": Way(closed(1000), says=asks, end="close"),
        "sendends": Way(LOST, says=waits, end="fin"),
        "sendresets": Way(LOST, says=waits, end="rst"),
        "sendcloses": Way(closed(1000), says=waits, end="close"),
        "pausedends": Way(LOST, says=much, end="fin", deaf=True),
        "pausedresets": Way(LOST, says=much, end="rst", deaf=True),
        "pausedabandons": Way(LOST, says=much + watch, end="abandon", deaf=True),
    }


def _late(long: str) -> dict[str, Way]:
    much = _text({"type": "resume", "generation_id": long, "epoch": 0, "seq": -1})
    return {
        "slowly": Way(refused(408), first=lambda user: upgrade()[:-2], at="quick"),
        "slowtold": Way(refused(503), at="quick"),
        "message": Way(closed(4408), says=client_frame(BINARY, b"", length=b"\x7e\x04\x00"), at="quick"),
        "latepongless": Way(closed(4408), at="quick", deaf=True, late=True, may=LOST),
        "latestuck": Way(closed(4408), says=much, at="quick", deaf=True, late=True, may=LOST),
        "deafened": Way(LOST, says=much, at="quick", deaf=True, may=closed(4408)),
    }


class Crowd:
    """So many connections for each way: `end` lets them all come and go. `ask` puts a question to the gateway."""

    _rounds = itertools.count(1)

    def __init__(self, told: dict[str, Any], each: int, ask: Callable[[str], Any]) -> None:
        self._ways = ways(told["short"], told["long"])
        self._each, self._ask, number_of = each, ask, next(self._rounds)
        self._engine = Engine(len(self._ways) * each, seed=number_of)
        self._numbers: dict[str, range] = {}
        for name, way in self._ways.items():
            users = [f"{name}-{number_of}-{number // way.share}" for number in range(each)]
            self._numbers[name] = self._engine.prepare(
                [(LOOPBACK, told["ports"][way.at])],
                [way.first(user) for user in users],
                kind="raw" if way.raw else "websocket",
                sources=[BALANCER] if way.at == "behind" else SOURCES,
                accept=b"" if way.raw else ACCEPT,
                rcvbuf=4096 if way.deaf else 0,
                timeout_s=PATIENCE_S,
            )

    def _of(self, chosen: Callable[[Way], object]) -> list[int]:
        return [number for name, way in self._ways.items() if chosen(way) for number in self._numbers[name]]

    def _run_until(self, done: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not done():
            assert time.monotonic() < deadline, f"not within {PATIENCE_S} s: {what}; {self._engine.statistics()}"
            self._engine.run(LOOK_S, until="time")

    def _leave(self, chosen: Callable[[Way], object]) -> None:
        for name, way in self._ways.items():
            if way.end is not None and chosen(way):
                self._engine.end(self._numbers[name], way.end)

    def end(self) -> dict[str, Ends]:
        """How they ended. AssertionError where one ended in another way than its own."""
        waiting = self._of(lambda way: way.waits)
        self._engine.open(waiting)
        self._run_until(lambda: self._ask("held")["authorising"] >= len(waiting), "they are being looked up")
        self._leave(lambda way: way.waits)
        assert self._engine.run(PATIENCE_S), "who left while it was looked up has left"

        self._engine.open(self._of(lambda way: not way.waits))
        assert self._engine.run(PATIENCE_S), self._engine.statistics()
        self._engine.stop_reading(self._of(lambda way: way.deaf))
        for name, way in self._ways.items():
            if way.says:
                numbers = self._numbers[name]
                self._engine.send(numbers, way.says, count=self._each, raw=True, answer=None, order="round")
        assert self._engine.run(PATIENCE_S), self._engine.statistics()
        self._run_until(self._busy, "they watch, wait and are behind")
        self._ask("revoke")
        self._leave(lambda way: not way.waits)
        late = self._of(lambda way: way.late)
        self._run_until(lambda: not self._ask("held")["served"], "those who read nothing are closed")
        self._engine.read_on(late)
        everyone = self._of(lambda way: True)
        self._run_until(lambda: self._engine.states(everyone).keys() == {"closed"}, "all have ended")
        ends = {name: self._found(name, way) for name, way in self._ways.items()}
        self._engine.close()
        return ends

    def _busy(self) -> bool:
        held, each = self._ask("held"), self._each
        return bool(held["viewers"] >= 6 * each and held["working"] >= 6 * each and held["behind"] >= 3 * each)

    def _found(self, name: str, way: Way) -> Ends:
        ends = [self._engine.connection(number) for number in self._numbers[name]]
        found = frozenset((end["status"], end["code"]) for end in ends)
        assert found <= way.ends | way.may, f"{name}: {found}"
        return found - way.may

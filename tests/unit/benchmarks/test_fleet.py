"""Engines in processes of their own: told the same or different things, and what they counted as one."""

from __future__ import annotations

import pytest

from benchmarks.driver import LoadFailed
from benchmarks.native.capacity import TINY, capacity
from benchmarks.native.fleet import Fleet, shares, total
from benchmarks.native.upgrade import ACCEPT, loopback, upgrade
from tests.unit.benchmarks.conftest import Served
from tests.unit.benchmarks.test_engine import PING, _echo


@pytest.mark.slow
def test_two_engines_load_one_server(served: Served) -> None:
    port = served(_echo)
    with Fleet(2, capacity=16) as fleet:
        numbers = fleet.each(
            "prepare_template",
            [
                {
                    "targets": [("127.0.0.1", port)],
                    "template": upgrade(token="{}").decode(),
                    "values": [f"token-{process}-{socket}" for socket in range(share)],
                    "sources": loopback(2, 2 * process),
                    "accept": ACCEPT,
                }
                for process, share in enumerate(shares(7, 2))
            ],
        )
        assert numbers == [[0, 4], [0, 3]]
        fleet.each("open", [{"span": span, "at_once": 4} for span in numbers])
        assert fleet.run(10)
        fleet.each("send", [{"span": span, "payload": PING, "count": 50, "rate": 500} for span in numbers])
        assert fleet.run(10)
        told = fleet.told()
        assert (told.statistics["opened"], told.statistics["answered"]) == (7, 100)
        assert (told.latency("handshake").count, told.latency("answer").count) == (7, 100)
        assert told.latency("end").count == 0
        assert 0 < told.busiest <= 1.1
        assert 0 < told.cpu_s <= 2.2 * told.wall_s
        with pytest.raises(LoadFailed, match="no connection 99"):
            fleet.call("open", numbers=[99])
        fleet.reset()
        assert fleet.told().statistics["opened"] == 0


@pytest.mark.slow
def test_the_engine_says_what_it_can_do_by_itself() -> None:
    told = capacity(TINY)
    assert min(told.handshakes, told.sends, told.frames_single, told.frames_bursts) > 100
    assert told.late_p99_ms >= 0


def test_totals_add_what_adds() -> None:
    one = {"sent": 1, "wall_s": 2.0, "retry_after": {"seen": 0, "least_ms": 0, "most_ms": 0}, "http": {"0": {"ok": 1}}}
    two = {"sent": 2, "wall_s": 1.0, "retry_after": {"seen": 3, "least_ms": 5, "most_ms": 9}, "http": {"1": {"ok": 2}}}
    assert total([one, two, two]) == {
        "sent": 5,
        "wall_s": 2.0,
        "retry_after": {"seen": 6, "least_ms": 5, "most_ms": 9},
        "http": {"0": {"ok": 1}, "1": {"ok": 4}},
    }


def test_shares_are_even() -> None:
    assert shares(10, 4) == [3, 3, 2, 2]

"""Clients whose process stands still: their sockets stay open and take what comes, and nobody reads or answers it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import credentials
from benchmarks.native.engine import Engine
from benchmarks.native.fleet import Fleet
from benchmarks.native.upgrade import ACCEPT
from tests.support.own import OwnGateway
from tests.support.polling import until
from tests.support.stack import Stack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]

STILL, AWAKE = 200, 20
HEARTBEAT_S, PONG_S = 1.0, 1.0
LATE_S = 2.0
LINGER_S = 5.0


@pytest.fixture
def gateway(stack: Stack, tmp_path: Path) -> Iterator[OwnGateway]:
    made = OwnGateway(stack, tmp_path, heartbeat_s=HEARTBEAT_S, pong_s=PONG_S, handshakes_per_s=0)
    try:
        made.start()
        yield made
    finally:
        made.kill()


def test_clients_that_stand_still_are_closed_by_the_heartbeat(stack: Stack, gateway: OwnGateway) -> None:
    requests = credentials.bearers(gateway.ws_port, credentials.tokens(stack.config, STILL + AWAKE))
    where = [("127.0.0.1", gateway.ws_port)]
    with Fleet(1, capacity=STILL) as fleet:
        awake = Engine(AWAKE)
        numbers = awake.prepare(where, requests[STILL:], accept=ACCEPT)
        awake.open(numbers)
        assert awake.run(10.0)
        ((first, behind),) = fleet.call("prepare", targets=where, requests=requests[:STILL], accept=ACCEPT)
        fleet.call("open", numbers=list(range(first, behind)))
        assert fleet.run(10.0)
        assert gateway.gauge("websockets") == STILL + AWAKE
        (pid,) = fleet.pids
        os.kill(pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            while time.monotonic() < began + HEARTBEAT_S + PONG_S + LATE_S:
                awake.run(0.1, until="time")
        finally:
            os.kill(pid, signal.SIGCONT)
        # Who was not closed by now answers its ping and stays; the others find why they were while a socket lingers.
        fleet.run(0.5, until="time")
        assert fleet.told().statistics["closes"] == {"4408": STILL}
        assert awake.states(numbers) == {"open": AWAKE}, "whoever answers stays"
        until(lambda: awake.run(0.05, until="time") is not None and gateway.gauge("websockets") == AWAKE, LINGER_S)
    assert "Traceback" not in gateway.said

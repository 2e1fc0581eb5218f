"""More gateways beside a stack, and what programs cost."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil
import pytest

from benchmarks import meter
from benchmarks.processes import accepting, gateways, running
from benchmarks.scenario import CannotStart
from benchmarks.target import Target
from cli.ports import choose
from tests.support.stack import Stack


@pytest.mark.slow
def test_gateways_of_a_scenarios_own(stack: Stack, tmp_path: Path) -> None:
    target = Target(stack.layout, stack.mock.port, stack.mock.pid)
    with gateways(target, 2, tmp_path, max_connections=77) as servers:
        assert len({port for server in servers for port in server.ports.values()}) == 6
        assert all(accepting(server.ports["own_ws"])() for server in servers)
        used = meter.memory(*(server.pid for server in servers))
        assert used.rss > used.pss > 2**20
        assert meter.cpu(servers[0].pid).total_s > 0
    assert not any(psutil.pid_exists(server.pid) for server in servers)


def test_what_does_not_start_is_told_with_its_last_words(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", "raise SystemExit('no such luck')"]
    ready = accepting(choose())
    with pytest.raises(CannotStart, match="no such luck"), running("it", argv, tmp_path, ports={}, ready=ready):
        raise AssertionError("it is not ready")
    with pytest.raises(CannotStart, match="No such file"), running("it", ["/no/it"], tmp_path, ports={}, ready=ready):
        raise AssertionError("it is not ready")


def test_the_kernels_share_is_counted() -> None:
    before = meter.kernel_sockets()
    assert before.total >= before.buffers >= 0
    assert before.since(before) == (0, 0, None if before.slabs is None else 0)

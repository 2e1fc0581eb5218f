"""The benchmarks still run: every scenario, tiny, against the tests' stack; its figures mean nothing here."""

from __future__ import annotations

import pytest

from benchmarks import machine, report
from benchmarks.__main__ import SCENARIOS
from benchmarks.sizes import Sizes
from benchmarks.target import Target
from tests.support.stack import Stack

TINY = Sizes(
    turns=12,
    at_once=4,
    deltas=8,
    delay_ms=10.0,
    idle_s=0.1,
    requests=32,
    streams=32,
    stream_delay_ms=1.0,
    admissions=100,
    admission_rate=500.0,
)


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_every_scenario_runs(stack: Stack, name: str) -> None:
    result = SCENARIOS[name](Target(stack.layout, stack.mock.port, stack.mock.pid), TINY)
    assert result.scenario == name
    assert result.wrong == ()
    assert len({figure.name for figure in result.figures}) == len(result.figures) > 0
    lines = report.lines(machine.describe(stack.layout.data), [result])
    assert len(lines) == 1 + len(result.figures)

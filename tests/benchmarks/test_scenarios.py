"""Every scenario still runs: all that the registry finds, tiny; the figures mean nothing here."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.harness import Lent, run_scenario
from benchmarks.registry import all_scenarios
from benchmarks.target import Target
from tests.support.stack import Stack


@pytest.mark.slow
@pytest.mark.parametrize("name", all_scenarios())
def test_every_scenario_runs(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    scenario = all_scenarios()[name]
    target = None
    if scenario.needs_stack:
        stack: Stack = request.getfixturevalue("stack")
        target = Target(stack.layout, stack.mock.port, stack.mock.pid)
    bench = Lent(tmp_path, tiny=True, target=target)
    outcome = run_scenario(scenario, bench, peers=True)
    bench.close()
    wrong = {name: list(sample.wrong) for name, samples in outcome.samples.items() for sample in samples}
    assert {name: found for name, found in wrong.items() if found} == {}
    started = {
        name: why for name, why in outcome.absent.items() if not why.startswith(("cannot be started here", "left out"))
    }
    assert started == {}, "only what is not installed may be missing"
    assert all(
        name in outcome.samples for name in (c.name for c in scenario.contestants if c.role in ("ours", "floor"))
    )
    known = {metric.key for metric in scenario.metrics}
    measured = {value.metric for samples in outcome.samples.values() for sample in samples for value in sample.values}
    assert measured == known, "what is declared is measured, and the other way round"

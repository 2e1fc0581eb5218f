"""Turns under every fault at once: thousands of fresh seeds, each a run of the real code in virtual time."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys

import pytest

from tests.simulation.runs import first_failure, run

PARTS = 4
"""So that two workers share the seeds."""


@pytest.mark.parametrize("part", range(PARTS))
def test_seeds(part: int, pytestconfig: pytest.Config) -> None:
    """Fresh seeds each time; one that fails is printed, and `--seed` runs it again."""
    seed = pytestconfig.getoption("--seed")
    if seed is not None:
        result = run(seed, record=True)
        sys.stdout.write("\n".join(result.trace) + "\n")
        assert not result.violations, str(result)
        return
    base = secrets.randbits(48) << 16
    count = -(-pytestconfig.getoption("--seeds") // PARTS)
    failed = first_failure(range(base, base + count))
    if failed is not None:
        pytest.fail(f"{failed}\nreplay: pytest 'tests/simulation/test_seeds.py::test_seeds[0]' --seed {failed.seed}")


def test_a_seed_replays_exactly() -> None:
    """The same in this process, and in another whose strings hash differently."""
    seeds = range(100, 110)
    here = [run(seed, record=True).digest for seed in seeds]
    assert len(set(here)) == len(here)
    assert [run(seed, record=True).digest for seed in seeds] == here
    script = (
        "from tests.simulation.runs import run\n"
        f"print([run(seed, record=True).digest for seed in range({seeds.start}, {seeds.stop})])"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(sys.path)}
    told = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert told.stdout.strip() == str(here)

"""The comparison of the kernels with their references runs, and compares the same work."""

from __future__ import annotations

from pathlib import Path

from benchmarks.harness import Lent, run_scenario
from benchmarks.scenarios.kernels import SCENARIO, _frame
from ext import ws_reference


def test_every_kind_of_work_is_done_by_both(tmp_path: Path) -> None:
    outcome = run_scenario(SCENARIO, Lent(tmp_path, tiny=True), peers=False)
    assert outcome.absent == {}
    kernels, reference = (
        {value.metric: value.value for value in outcome.samples[name][0].values} for name in ("kernels", "reference")
    )
    assert set(kernels) == set(reference) == {metric.key for metric in SCENARIO.metrics}
    # Hundreds of times on a quiet machine: what is left of it on any other.
    assert all(kernels[key] > 5 * reference[key] > 0 for key in ("mask_large", "parse_large"))


def test_frames_are_whole_and_masked() -> None:
    frame = _frame(1, "é".encode() * 100)
    assert ws_reference.FrameParser(1000, 1).feed(frame) == [(1, "é" * 100)]

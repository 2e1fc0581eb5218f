"""The comparison of the kernels with their references runs, and compares the same work."""

from __future__ import annotations

from benchmarks import kernels
from ext import ws_reference


def test_every_kind_of_work_is_done_by_both() -> None:
    rows = kernels.run(0.002)
    assert len({row["work"] for row in rows}) == len(rows) == 7
    assert all(row["per_s"] > 0 and row["reference_per_s"] > 0 for row in rows)
    # Hundreds of times on a quiet machine: what is left of it on any other.
    assert all(row["times"] > 5 for row in rows if "64 KiB" in row["work"])


def test_frames_are_whole_and_masked() -> None:
    frame = kernels._frame(1, "é".encode() * 100)
    assert ws_reference.FrameParser(1000, 1).feed(frame) == [(1, "é" * 100)]


def test_a_scenario_of_the_benchmarks() -> None:
    result = kernels.measure(quick=True)
    assert (result.scenario, len(result.figures), result.wrong) == ("kernels", 7, ())

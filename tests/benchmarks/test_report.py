"""Percentiles, goals and the page."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from benchmarks import machine, report
from benchmarks.figures import Figure, Result, latencies, percentile


@pytest.mark.parametrize(("percent", "expected"), [(50, 50.0), (99, 99.0), (99.5, 100.0), (100, 100.0), (0, 1.0)])
def test_percentiles_are_samples(percent: float, expected: float) -> None:
    samples = [float(number) for number in range(1, 101)]
    random.Random(1).shuffle(samples)
    assert percentile(samples, percent) == expected
    assert percentile([7.0], percent) == 7.0


def test_nothing_has_no_percentile() -> None:
    with pytest.raises(ValueError, match="nothing"):
        percentile([], 50)


def test_goals_are_bounds_from_above_or_below() -> None:
    assert Figure(name="a", value=2.0, unit="ms", goal=2.0).reached is True
    assert Figure(name="a", value=2.1, unit="ms", goal=2.0).reached is False
    assert Figure(name="a", value=1.9, unit="1/s", goal=2.0, least=True).reached is False
    assert Figure(name="a", value=1.9, unit="1/s").reached is None


def test_the_page_tells_machine_figures_goals_and_what_went_wrong(tmp_path: Path) -> None:
    figures = (*latencies("a call", [0.001, 0.004], p99=2.0), Figure(name="rate", value=12345.6, unit="1/s"))
    fine = Result(scenario="fine", title="Fine", how="Calls\nare made.", figures=figures[-1:])
    bad = Result(
        scenario="bad",
        title="Bad",
        how="More.",
        figures=figures,
        wrong=("the text of turn 3 is cut",),
        logged=("router-1: slow",),
    )
    described = machine.describe(tmp_path)
    page = report.page(described, [fine, bad], 12.3, quick=True)
    assert "| rate | 12,346 1/s |  |  |" in page
    assert "| a call, p99 | 4 ms | ≤ 2 | **not reached** |" in page
    assert "**What went wrong (1)" in page
    assert "- the text of turn 3 is cut" in page
    assert "- router-1: slow" in page
    assert "short run" in page
    assert f"{described.cores} cores" in page
    lines = report.lines(described, [fine, bad])
    assert lines[0]["machine"]["cores"] == described.cores
    assert {"scenario": "bad", "wrong": "the text of turn 3 is cut"} in lines
    assert [line["reached"] for line in lines if "reached" in line] == [False]

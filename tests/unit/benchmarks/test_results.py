"""Results: medians, ratios, goals, files."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import meter, results
from benchmarks.harness import Lent, run_scenario
from benchmarks.scenario import Bench, Contestant, Measure, Metric, Sample, Value, clocked
from tests.support.figures import IDLE, TURNS, Sizes, made, run_line


def test_figures_are_medians_of_rounds_with_ratios_and_goals(tmp_path: Path) -> None:
    section = made(tmp_path).sections["idle"]
    rss = section.of("rss", "Parley")[0]
    assert (rss.median, rss.low, rss.high, rss.rounds) == (3.9, pytest.approx(3.744), pytest.approx(4.095), 3)
    assert {ratio.to: round(ratio.median, 2) for ratio in rss.ratios} == {"floor": 3.0, "picows": 0.45, "granian": 0.03}
    assert rss.reached is True
    assert section.of("rate", "Parley")[0].reached is False, "0.88 of the floor"
    assert section.of("rate", "picows")[0].reached is None, "goals are ours"
    curve = section.of("p99", "Parley")
    assert [(one.at, one.reached) for one in curve] == [(100, None), (1000, None), (4000, True)]
    assert [section.busy(name) for name in ("Parley", "picows")] == [False, True]


def test_a_busy_generator_bounds_what_the_clock_on_the_wall_tells() -> None:
    labels = [
        ("p99", "ms"),
        ("CPU of one", "ms"),
        ("of it NATS", "ms"),
        ("rate", "1/s"),
        ("of it new", "1/s"),
        ("x", "µs"),
    ]
    metrics = [Metric(key=label, label=label, unit=unit) for label, unit in labels]
    assert clocked(metrics) == {"p99", "rate", "of it new"}


def test_what_fails_is_told_and_only_ours_fails_a_run(tmp_path: Path) -> None:
    found = made(tmp_path)
    absent = {one.name: one.absent for one in found.sections["idle"].described.contestants if one.absent}
    assert absent == {
        "granian": "failed in round 3: RuntimeError: it is gone",
        "Centrifugo": "cannot be started here: there is no `centrifugo` on PATH",
    }
    assert found.sections["idle"].of("rss", "granian")[0].rounds == 2
    bench = Lent(tmp_path, tiny=False, settles=False)
    assert run_scenario(IDLE, bench, peers=True).failed is False
    assert run_scenario(TURNS, bench, peers=True).failed is True
    without = run_scenario(IDLE, bench, peers=False)
    assert all("--peers" in without.absent[name] for name in ("picows", "granian", "Centrifugo"))


def test_much_that_is_wrong_is_told_in_part(tmp_path: Path) -> None:
    outcome = run_scenario(TURNS, Lent(tmp_path, tiny=False, settles=False), peers=False)
    outcome.samples["Parley"] = [Sample(values=[], wrong=[f"turn {number}" for number in range(1_000)])]
    described = results.lines_of(run_line(), outcome)[0]
    assert isinstance(described, results.Described)
    assert [one.what for one in described.wrong][-2:] == ["turn 9", "and 990 more"]


def test_what_fails_at_the_end_is_told(tmp_path: Path) -> None:
    @contextlib.contextmanager
    def start(bench: Bench, sizes: Sizes) -> Iterator[Measure]:
        yield lambda _: Sample(values=[Value("cpu", 1.0)])
        raise RuntimeError("it does not stop")

    scenario = dataclasses.replace(TURNS, contestants=[Contestant("Parley", "ours", start)])
    outcome = run_scenario(scenario, Lent(tmp_path, tiny=True), peers=False)
    assert outcome.failed
    assert len(outcome.samples["Parley"]) == 1
    described = results.lines_of(run_line(), outcome)[0]
    assert isinstance(described, results.Described)
    assert [one.what for one in described.wrong] == ["RuntimeError: it does not stop"]


def test_others_on_the_machine_are_counted_apart_from_what_is_ours() -> None:
    before = meter.others()
    until = before._replace(at=before.at + 2.0, all_s=before.all_s + 3.0, ours_s=before.ours_s + 1.0)
    assert until.since(before) == pytest.approx(1.0)
    assert before.ours_s <= meter.others().ours_s


def test_no_contestant_is_always_the_first_or_after_the_same_other(tmp_path: Path) -> None:
    told: list[str] = []
    run_scenario(IDLE, Lent(tmp_path, tiny=False, settles=False), peers=True, tell=told.append)
    order = [line.rpartition(": ")[2] for line in told if " of 3: " in line]
    rounds = [order[at : at + 4] for at in (0, 4, 8)]
    assert [names[0] for names in rounds] == ["Parley", "granian", "floor"]
    assert all(sorted(names) == sorted(rounds[0]) for names in rounds)
    before = [dict(zip(names[1:], names, strict=False)) for names in rounds]
    for name in rounds[0]:
        assert len({found.get(name) for found in before}) > 1, f"{name} is always after the same one"


def test_two_contestants_take_turns_at_being_first(tmp_path: Path) -> None:
    two = dataclasses.replace(IDLE, contestants=IDLE.contestants[:2])
    told: list[str] = []
    run_scenario(two, Lent(tmp_path, tiny=False, settles=False), peers=False, tell=told.append)
    order = [line.rpartition(": ")[2] for line in told]
    assert order[::2] == ["Parley", "floor", "floor"]


@pytest.mark.parametrize("name", ["TCP", "TCPv6", "sock_inode_cache", "dentry", "filp", "skbuff_head_cache", "ep_head"])
def test_what_the_kernel_keeps_for_sockets(name: str) -> None:
    line = f"{name}  10 20 512 8 1 : tunables 0 0 0 : slabdata 3 3 0"
    assert meter.SLABS.match(line)
    assert not meter.SLABS.match("x" + line)
    assert not meter.SLABS.match(line.replace(name, name + "-other"))


def test_files_keep_what_another_run_measured(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    made(tmp_path).write(path)
    found = results.read(path)
    again = made(tmp_path, TURNS, run="run2")
    found.add([run_line("run2"), *again.sections["turns"].lines])
    found.write(path)
    assert b'"kind":"run"' in path.read_bytes().splitlines()[0]
    kept = results.read(path)
    assert [run.run for run in kept.used] == ["run1", "run2"]
    assert [section.described.run for section in kept.sections.values()] == ["run1", "run2"]
    assert len(kept.sections["turns"].figures) == len(again.sections["turns"].figures)

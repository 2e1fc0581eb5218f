"""The report as Markdown and as a page, its charts, and README's figures."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import command, results, svg
from benchmarks.harness import Lent, run_scenario
from benchmarks.pages import content, fleet, markdown, page, readme
from benchmarks.scenario import Metric
from benchmarks.words import label, number
from tests.support.figures import IDLE, TURNS, contestant, made, run_line

ROOT = Path(__file__).parents[3]


@pytest.fixture
def found(tmp_path: Path) -> results.Results:
    return made(tmp_path)


def test_markdown_tells_figures_goals_and_mishaps(found: results.Results) -> None:
    text = markdown.render(content.blocks(found))
    assert "| RSS for each (KiB) | **3.90 (3.74–4.09)** | 1.30 (1.25–1.37) |" in text
    assert "≥ 0.900 × floor, **not reached**" in text
    assert "96,000 (92,160–100,800) †" in text, "its generator was busy"
    assert "8.60 (8.26–9.03) |" in text, "which memory does not mind"
    assert "**granian**: failed in round 3" in text
    assert "there is no `centrifugo` on PATH" in text
    assert "Parley, round 1: the text of turn 3 is cut" in text
    assert "Idle &lt;sockets>" in text
    assert "net.ipv4.tcp_mem" in text
    wide = [line for line in text.splitlines() if len(line) > 120 and not line.startswith("|")]
    assert wide == []


def test_tiny_runs_and_several_runs_are_marked(tmp_path: Path, found: results.Results) -> None:
    assert "one run" not in markdown.render(content.blocks(found))
    again = made(tmp_path, TURNS, run="run2")
    found.add([run_line("run2", tiny=True), *again.sections["turns"].lines])
    text = markdown.render(content.blocks(found))
    assert "**Not all of this was measured in one run**" in text
    assert "**Tiny runs are among these**" in text


class _Page(HTMLParser):
    """Sees that tags are closed in order, and what would be fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.targets: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "meta":
            self.open.append(tag)
        self.handle_startendtag(tag, attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [value or "" for name, value in attrs if name in ("src", "srcset", "xlink:href", "data")]
        self.targets += [value or "" for name, value in attrs if name == "href"]
        self.ids += [value or "" for name, value in attrs if name == "id"]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_needs_nothing_else(found: results.Results) -> None:
    text = page.render(content.TITLE, content.blocks(found))
    seen = _Page()
    seen.feed(text)
    seen.close()
    assert seen.open == []
    assert seen.fetched == []
    assert "<script" not in text
    assert "url(" not in text
    assert "Idle &lt;sockets&gt;" in text
    assert len(seen.ids) == len(set(seen.ids))
    assert {target.removeprefix("#") for target in seen.targets if target.startswith("#")} <= set(seen.ids)
    for chart in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        names = re.search(r'aria-labelledby="(\S+) (\S+)"', chart)
        assert names
        assert set(names.groups()) <= set(seen.ids)
    assert text.count("<svg") == 3


def test_charts_are_whole_and_keep_within_their_frame() -> None:
    bars = svg.bars(
        "A & b", "KiB", [svg.Bar("ours", "ours", 3.0, 2.0, 4.0), svg.Bar("<x>", "peer-0", 300, 300, 300)], 4
    )
    series = [svg.Series("ours", "ours", [(1, 0, 0, 0), (10, 5, 4, 6)]), svg.Series("x", "floor", [(10, 5.1, 5, 6)])]
    lines = svg.lines("Over load", "ms", "pings/s", series, 3.0)
    for chart in (bars, lines):
        root = ElementTree.fromstring(chart)
        _, _, width, height = (float(part) for part in root.attrib["viewBox"].split())
        for element in root:
            for name, most in (
                ("x", width),
                ("x1", width),
                ("x2", width),
                ("y", height),
                ("y1", height),
                ("cy", height),
            ):
                assert 0 <= float(element.get(name, 0)) <= most
    assert "&lt;x&gt;" in bars
    with pytest.raises(ValueError, match="nothing"):
        svg.bars("a", "b", [])
    with pytest.raises(ValueError, match="nothing"):
        svg.lines("a", "b", "c", [])


def test_a_fleet_is_computed_from_what_was_measured(found: results.Results) -> None:
    values = {feeds: one.value for feeds, one in fleet.inputs(found).items()}
    assert values["rss_kib_per_connection"] == 3.9
    rows = dict(fleet.derived(values))
    assert rows["idle connections for each GiB of the gateway's memory"] == f"{2**20 / 3.9:,.0f}"
    text = markdown.render(fleet.blocks(found))
    memory = 1_000_000 * fleet.SOCKETS * (3.9 + 4.4) / 2**20 + 80 * 93 / 1024
    cores = 1_000_000 * (fleet.SOCKETS * 4 + fleet.TURNS / 3600 * (5_000 + fleet.DELTAS * 3)) / 1e6 / fleet.SHARE
    assert f"| 1,000,000 | 80 | {number(memory)} | {number(cores)} |" in text
    assert "| CPU of the gateway for a small message and its answer | not measured |  |" in text


def test_the_model_says_at_what_load_and_of_whom_it_takes_a_figure(tmp_path: Path) -> None:
    metric = Metric(key="p99", label="CPU", unit="µs", per="pings/s", feeds="cpu_us_per_delta")
    two = [contestant(name, "ours", {"p99": costs}) for name, costs in (("one", (1.0, 2.0, 9.0)), ("two", (1.0,) * 3))]
    scenario = dataclasses.replace(TURNS, metrics=[metric], contestants=two)
    assert fleet.inputs(made(tmp_path, scenario)) == {"cpu_us_per_delta": ("Turns, one, 4,000 pings/s", 9.0)}


def test_peers_that_were_not_asked_for_are_told_in_one_line(tmp_path: Path) -> None:
    outcome = run_scenario(IDLE, Lent(tmp_path, tiny=False, settles=False), peers=False)
    found = results.Results([run_line(), *results.lines_of(run_line(), outcome)])
    short = markdown.render(content.blocks(found)).partition("## Sizing")[0]
    assert short.count("not asked for") == 1
    assert "(`--peers`): picows, granian, Centrifugo." in short
    assert "Not measured, or not to the end" not in short


@pytest.mark.parametrize(
    ("at", "per", "text"),
    [
        (1, "deltas that come at once", "CPU, 1 delta that comes at once"),
        (4, "deltas that come at once", "CPU, 4 deltas that come at once"),
        (1, "pings/s", "CPU, 1 pings/s"),
        (None, "", "CPU"),
    ],
)
def test_one_of_a_load_is_not_several(at: float | None, per: str, text: str) -> None:
    assert label(Metric(key="cpu", label="CPU", unit="µs", per=per), at) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (7, "7"), (0.1234, "0.123"), (3.9, "3.90"), (12.345, "12.3"), (1234.5, "1,234"), (0.00095, "0.000950")],
)
def test_numbers_have_three_figures_that_count(value: float, text: str) -> None:
    assert number(value) == text


def test_readme_has_a_block_that_is_replaced(found: results.Results) -> None:
    block = readme.render(found)
    assert "| Idle &lt;sockets>: frames out | **80,000 1/s** | 0.88 × | picows: 96,000 1/s |" in block
    text = f"before\n{readme.render(results.Results())}\nafter\n"
    once = readme.put(text, block)
    assert once.startswith("before\n<!-- figures")
    assert once.endswith("-->\nafter\n")
    assert readme.put(once, block) == once
    with pytest.raises(ValueError, match="marks"):
        readme.put("nothing", block)


def test_readme_has_the_figures_of_the_committed_results() -> None:
    """`parley bench report` writes them."""
    committed = results.read(command.COMMITTED) if command.COMMITTED.exists() else results.Results()
    text = (ROOT / "README.md").read_text()
    assert readme.put(text, readme.render(committed)) == text


def test_the_committed_report_is_of_the_committed_results() -> None:
    if not command.COMMITTED.exists():
        assert not (command.DOCS / "report.md").exists()
        return
    told = content.blocks(results.read(command.COMMITTED))
    assert (command.DOCS / "report.md").read_text() == markdown.render(told)
    assert (command.DOCS / "report.html").read_text() == page.render(content.TITLE, told)

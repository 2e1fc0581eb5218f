"""README's figures: a marked block that only `parley bench report` writes, from the committed results."""

from __future__ import annotations

from benchmarks.pages import markdown
from benchmarks.pages.blocks import Block, Table, Text
from benchmarks.pages.content import headlines
from benchmarks.results import Results

BEGIN = "<!-- figures: written by `parley bench report` -->"
END = "<!-- end of the figures -->"


def render(results: Results) -> str:
    """The block with its marks; only the marks where nothing was measured."""
    rows = [row for section in results.sections.values() for row in headlines(section, everything=False)]
    if not rows:
        return f"{BEGIN}\n{END}"
    runs = results.used
    machine, last = runs[-1].machine, runs[-1]
    several = f" and {len(runs) - 1} earlier" if len(runs) > 1 else ""
    found: list[Block] = [
        Text(
            f"On {machine.cores} cores of {machine.processor} with {machine.memory_gib:.0f} GiB, load generators and "
            f"all servers included; medians; revision `{last.revision or 'unknown'}` of {last.at}{several}. The "
            "[report](docs/benchmarks/report.md) has the rest: spreads, every peer, how it was measured and how it "
            "could mislead, and what a fleet needs (with charts: [report.html](docs/benchmarks/report.html))."
        ),
        Table(["what", "Parley", "÷ floor", "best peer", "goal", "reached"], rows, [1], words=[3, 4]),
    ]
    return f"{BEGIN}\n\n{markdown.render(found)}\n{END}"


def put(text: str, block: str) -> str:
    """README with the block in its place. Raises ValueError where the marks are not there, once each."""
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError("README.md has not one pair of the marks of the figures")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + block + after

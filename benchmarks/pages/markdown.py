"""Blocks as Markdown, lines at most 120 wide but for tables. Charts are left out: their tables are there."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

from benchmarks.pages.blocks import Block, Bullets, Chart, Heading, Table, Text

WIDTH = 120


def render(blocks: Iterable[Block]) -> str:
    return "\n\n".join(_block(block) for block in blocks if not isinstance(block, Chart)) + "\n"


def table(found: Table) -> str:
    marks = ["---" if number == 0 or number in found.words else "--:" for number in range(len(found.head))]
    rows = [
        [_strong(cell) if number in found.strong else cell for number, cell in enumerate(row)] for row in found.rows
    ]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in row) + " |" for row in [found.head, marks, *rows])


def _block(block: Block) -> str:
    match block:
        case Heading():
            return f"{'#' * block.level} {_escaped(block.text)}"
        case Text():
            return _filled(block.text)
        case Bullets():
            return "\n".join(_filled(item, "- ", "  ") for item in block.items)
        case Table():
            return table(block)
        case Chart():
            raise ValueError("Markdown has no charts")


def _filled(text: str, first: str = "", later: str = "") -> str:
    return textwrap.fill(
        " ".join(_escaped(text).split()),
        WIDTH,
        initial_indent=first,
        subsequent_indent=later,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _strong(cell: str) -> str:
    return f"**{cell}**" if cell and "**" not in cell else cell


def _cell(cell: str) -> str:
    return " ".join(_escaped(cell).split()).replace("|", "\\|")


def _escaped(text: str) -> str:
    """What is in backticks stays as it is; elsewhere nothing is a tag."""
    parts = text.split("`")
    return "`".join(part if number % 2 else part.replace("<", "&lt;") for number, part in enumerate(parts))

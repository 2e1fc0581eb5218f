"""What a page consists of, before it is Markdown or HTML. Texts may hold `code` and **strong** words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Heading:
    """`level`: 1 for the page's own, 2 for a part, 3 below. `name`: its anchor."""

    level: int
    text: str
    name: str = ""


@dataclass(frozen=True)
class Text:
    """A paragraph. `kind`: "" or "warning"."""

    text: str
    kind: str = ""


@dataclass(frozen=True)
class Bullets:
    items: Sequence[str]


@dataclass(frozen=True)
class Table:
    """`head`: names of columns, numbers stand right in all but the first. `strong`: columns that are ours."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    strong: Sequence[int] = ()
    words: Sequence[int] = ()


@dataclass(frozen=True)
class Chart:
    """`svg`: the chart; Markdown has the table beside it instead."""

    title: str
    svg: str


Block = Heading | Text | Bullets | Table | Chart

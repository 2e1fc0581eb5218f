"""Blocks as one HTML page that needs nothing else: no scripts, no fonts, nothing from elsewhere."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

from benchmarks.pages.blocks import Block, Bullets, Chart, Heading, Table, Text
from benchmarks.pages.style import STYLE

# A median with its spread, as words.spread writes it: on a page the spread stands below, so that tables stay narrow.
SPREAD = re.compile(r"^(\S+) \(([\d.,]+–[\d.,]+)\)(.*)$")
BELOW = r"\1\3<small>\2</small>"


def render(title: str, blocks: Sequence[Block]) -> str:
    body = "\n".join(_parts(blocks))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n{body}\n"
        "</main>\n</body>\n</html>\n"
    )


def _parts(blocks: Sequence[Block]) -> Iterable[str]:
    """With the list of parts after the first heading."""
    for block in blocks:
        yield _block(block)
        if isinstance(block, Heading) and block.level == 1:
            parts = [one for one in blocks if isinstance(one, Heading) and one.level == 2]
            links = " ".join(f'<a href="#{one.name}">{_inline(one.text)}</a>' for one in parts)
            yield f'<nav aria-label="Parts">{links}</nav>'


def _block(block: Block) -> str:
    match block:
        case Heading():
            anchor = f' id="{block.name}"' if block.name else ""
            return f"<h{block.level}{anchor}>{_inline(block.text)}</h{block.level}>"
        case Text():
            return (
                f'<p class="{block.kind}">{_inline(block.text)}</p>' if block.kind else f"<p>{_inline(block.text)}</p>"
            )
        case Bullets():
            return "<ul>" + "".join(f"<li>{_inline(item)}</li>" for item in block.items) + "</ul>"
        case Table():
            return _table(block)
        case Chart():
            return f"<figure>\n<figcaption>{_inline(block.title)}</figcaption>\n{block.svg}\n</figure>"


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col"{_kind(table, n)}>{_inline(cell)}</th>' for n, cell in enumerate(table.head))
    rows = "\n".join(
        "<tr>"
        + "".join(
            f'<th scope="row">{_inline(cell)}</th>'
            if n == 0
            else f"<td{_kind(table, n)}>{SPREAD.sub(BELOW, _inline(cell))}</td>"
            for n, cell in enumerate(row)
        )
        + "</tr>"
        for row in table.rows
    )
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{html.escape(table.head[0])}"><table>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>"
    )


def _kind(table: Table, column: int) -> str:
    kinds = ["ours"] if column in table.strong else []
    kinds += ["words"] if column in table.words else []
    return f' class="{" ".join(kinds)}"' if kinds else ""


def _inline(text: str) -> str:
    found = html.escape(text, quote=False)
    found = re.sub(r"`([^`]+)`", r"<code>\1</code>", found)
    found = re.sub(r"\[([^\]]+)\]\(([\w./#-]+)\)", r'<a href="\2">\1</a>', found)
    return re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", found)

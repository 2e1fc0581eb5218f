"""`parley reconcile`: whether the ledger, the ends in history and the providers' own log agree."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

import msgspec

from cli import settings
from core.books import Report, Served, TooMuch
from core.compose import Composition
from core.config import Config

NANO = 1_000_000_000
SHOWN = 50


def add(parser: argparse.ArgumentParser) -> None:
    settings.add(parser)
    window = parser.add_mutually_exclusive_group()
    window.add_argument("--hours", type=float, default=24.0, metavar="N", help="how far to look back (default: 24)")
    window.add_argument("--since", type=iso_time, metavar="TIME", help="or since when: 2026-03-01T00:00Z")
    parser.add_argument(
        "--log",
        type=Path,
        metavar="FILE",
        help='every call that the providers served, one JSON line each: {"attempt", "prompt_tokens", '
        '"completion_tokens", "ended"}',
    )
    parser.add_argument("--json", action="store_true", help="the whole report as JSON")


def run(args: argparse.Namespace) -> int:
    """Returns 0 where the books balance, 1 where they do not or cannot be compared."""
    try:
        log = None if args.log is None else _read(args.log)
    except (OSError, msgspec.DecodeError) as error:
        print(f"parley: {args.log}: {error}", file=sys.stderr)
        return 1
    until_ms = time.time_ns() // 1_000_000 + 1
    since_ms = until_ms - int(args.hours * 3_600_000) if args.since is None else args.since
    return settings.complete(_compare(settings.configuration(args), since_ms, until_ms, log, args.json))


def iso_time(text: str) -> int:
    """Unix milliseconds of a time in ISO 8601; without a zone it is local. Raises ValueError."""
    return int(datetime.fromisoformat(text).timestamp() * 1000)


def _read(path: Path) -> list[Served]:
    decoder = msgspec.json.Decoder(Served)
    with path.open("rb") as file:
        return [decoder.decode(line) for line in file if line.strip()]


async def _compare(config: Config, since_ms: int, until_ms: int, log: Iterable[Served] | None, as_json: bool) -> int:
    try:
        async with Composition(config) as parts:
            report = await parts.reconcile(since_ms, until_ms, log)
    except TooMuch as error:
        print(f"parley: {error}: --hours or --since", file=sys.stderr)
        return 1
    print(msgspec.json.format(msgspec.json.encode(report)).decode() if as_json else summary(report))
    return 0 if report.balanced else 1


def summary(report: Report) -> str:
    """The report for people: sums, what is on its way, what was cut, what is wrong."""
    lines = [
        f"{report.turns} turns, {report.attempts} attempts",
        f"users pay      {_usd(report.users_by_ledger)} by the ledger, {_usd(report.users_by_history)} by history",
        f"no history     {_usd(report.users_unstored)} ({report.unstored} attempts)",
        f"platform pays  {_usd(report.platform)}",
    ]
    if report.running or report.pending:
        lines.append(f"on its way: {len(report.running)} running, {len(report.pending)} ended and not yet recorded")
    if report.unnamed:
        lines.append(f"lines of the log that name no attempt: {report.unnamed}")
    if report.cut:
        counted = sum(cut.counted or 0 for cut in report.cut)
        bound = sum(cut.bound or 0 for cut in report.cut)
        lines.append(f"cut short: {len(report.cut)} attempts, {counted} tokens counted, at most {bound}")
    lines += [f"{problem.finding}: {problem.attempt}: {problem.detail}" for problem in report.problems[:SHOWN]]
    if len(report.problems) > SHOWN:
        lines.append(f"and {len(report.problems) - SHOWN} more: --json shows all")
    lines.append("balanced" if report.balanced else f"NOT BALANCED: {len(report.problems)} problems")
    return "\n".join(lines)


def _usd(nano: int) -> str:
    return f"${nano // NANO}.{nano % NANO:09d}"

"""`parley migrate`: brings the database's schema up to date. Several may run at once."""

from __future__ import annotations

import argparse

from cli import settings
from core.schema.migrate import migrate, status


def add(parser: argparse.ArgumentParser) -> None:
    settings.add(parser)
    parser.add_argument("--status", action="store_true", help="only show what is applied and what is pending")


def run(args: argparse.Namespace) -> int:
    dsn = settings.configuration(args).postgres.dsn
    return settings.complete(_show(dsn) if args.status else _apply(dsn))


async def _apply(dsn: str) -> int:
    applied = await migrate(dsn)
    print("\n".join(applied) if applied else "nothing to do")
    return 0


async def _show(dsn: str) -> int:
    for state in await status(dsn):
        print(f"{state.label}  {state.applied_at.isoformat(timespec='seconds') if state.applied_at else 'pending'}")
    return 0

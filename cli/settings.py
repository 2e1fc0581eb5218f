"""Which configuration a command uses, and how it tells what went wrong."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Coroutine

from cli.control import add_data
from cli.layout import Layout, read_json
from core.config import Config, load
from core.errors import ParleyError, Unavailable, Unknown
from core.schema.migrate import MigrationError


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="FILE", help="configuration (TOML); PARLEY_* variables win over it")
    add_data(parser)


def configuration(args: argparse.Namespace) -> Config:
    """That of `--config`; else of the stack in `--data`, where there has been one; else of the environment alone."""
    stack = Layout(args.data).environment
    if args.config is None and stack.exists():
        return load(environ=read_json(stack))
    return load(args.config)


def complete(work: Coroutine[None, None, int]) -> int:
    """Runs a command's work; returns its exit status, 1 with a message where it failed."""
    try:
        return asyncio.run(work)
    except Unavailable as error:
        print(f"parley: {error}; does it run? `parley up` starts it", file=sys.stderr)
    except (Unknown, ParleyError, MigrationError) as error:
        print(f"parley: {error}", file=sys.stderr)
    return 1

"""`parley worker NAME`: one worker process against the servers of the configuration."""

from __future__ import annotations

import argparse

from cli import logging_setup
from core.config import load

NAMES = ("router", "ledger", "janitor")


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", choices=NAMES, help="which one")
    parser.add_argument("--config", metavar="FILE", help="configuration (TOML); PARLEY_* variables win over it")


def run(args: argparse.Namespace) -> int:
    from workers.main import run as work

    config = load(args.config)
    logging_setup.configure(config.log_level)
    return work(args.name, config)

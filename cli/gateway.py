"""`parley gateway`: one gateway process against the servers of the configuration."""

from __future__ import annotations

import argparse

from cli import logging_setup
from core.config import load


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="FILE", help="configuration (TOML); PARLEY_* variables win over it")


def run(args: argparse.Namespace) -> int:
    from gateway.app import application
    from gateway.serve import run as serve

    config = load(args.config)
    logging_setup.configure(config.log_level)
    made = application(config)
    return serve(made, config, made.leaving)

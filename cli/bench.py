"""`parley bench`: measures Parley on this machine. The benchmarks are in the source tree, not in what is installed."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MISSING = """\
parley bench: benchmarks need a source tree and the packages of development ({what} is missing). In a clone:
  make setup
  make bench                              # or: parley bench list"""


def add(parser: argparse.ArgumentParser) -> None:
    try:
        _command().add(parser)
    except ModuleNotFoundError as error:
        parser.add_argument("words", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
        parser.set_defaults(missing=error.name)


def run(args: argparse.Namespace) -> int:
    """1 where there are no benchmarks here."""
    if "missing" in args:
        print(MISSING.format(what=args.missing), file=sys.stderr)
        return 1
    return int(_command().run(args))


def _command() -> Any:
    """The module benchmarks.command of the tree that this file is in. Raises ModuleNotFoundError."""
    if not (ROOT / "benchmarks" / "command.py").is_file():
        # Another package of that name must not be taken for ours.
        raise ModuleNotFoundError("there is no source tree", name="benchmarks")
    # `parley` from an environment does not look into the current folder.
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    return importlib.import_module("benchmarks.command")

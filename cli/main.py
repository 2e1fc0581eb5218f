"""`parley`: the command line. Each command is a module with `add` (its options) and `run` (an exit status)."""

from __future__ import annotations

import argparse
import importlib
import sys
from importlib import metadata

from core.config import ConfigError

COMMANDS = {
    "up": "start everything on this machine and print the link",
    "status": "what a running stack consists of",
    "logs": "what its parts have logged",
    "stop": "stop one part of a running stack",
    "start": "start one part of a running stack again",
    "chat": "ask from the terminal",
    "admin": "make and list accounts",
    "reconcile": "compare the ledger with history",
    "bench": "measure this machine: list, run, report (in a source tree)",
    "migrate": "bring the database's schema up to date",
    "gateway": "run one gateway",
    "worker": "run one worker: router, ledger or janitor",
    "model": "serve the local model",
}
# Several commands in one module, where they are the same thing said twice.
MODULES = {"stop": "control", "start": "control"}


def version() -> str:
    try:
        return metadata.version("parley")
    except metadata.PackageNotFoundError:
        return "(not installed)"


def parser_for(name: str | None) -> argparse.ArgumentParser:
    """The parser with the options of one command; the others only have their line of help, so nothing of theirs is
    imported.
    """
    parser = argparse.ArgumentParser(prog="parley", description="An open streaming-chat platform.")
    parser.add_argument("--version", action="version", version=f"parley {version()}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command, text in COMMANDS.items():
        sub = commands.add_parser(command, help=text, description=text[:1].upper() + text[1:] + ".")
        if command == name:
            module = importlib.import_module(f"cli.{MODULES.get(command, command)}")
            module.add(sub)
            sub.set_defaults(run=module.run)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns its exit status: 0 well, 1 failed, 2 wrong usage, 130 interrupted."""
    words = sys.argv[1:] if argv is None else argv
    name = next((word for word in words if not word.startswith("-")), None)
    try:
        args = parser_for(name).parse_args(words)
        return int(args.run(args))
    except ConfigError as error:
        print(f"parley: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 1

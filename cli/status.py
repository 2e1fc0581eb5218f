"""`parley status`: the parts of a running stack."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from cli.control import NotRunning, add_data, ask
from cli.layout import Layout

NOT_RUNNING = 3


def add(parser: argparse.ArgumentParser) -> None:
    add_data(parser)
    parser.add_argument("--json", action="store_true", help='[{"part", "pid", "state", "since", "ports"}]')


def run(args: argparse.Namespace) -> int:
    """Returns 0 where everything is ready, 1 where a part is not, 3 where nothing runs."""
    try:
        parts = ask(Layout(args.data), {"do": "status"}, within_s=5.0)["parts"]
    except NotRunning as error:
        print("[]" if args.json else f"parley: {error}", file=sys.stdout if args.json else sys.stderr)
        return NOT_RUNNING
    print(json.dumps(parts, indent=1) if args.json else table(parts))
    return 0 if all(part["state"] == "ready" for part in parts) else 1


def table(parts: list[dict[str, Any]]) -> str:
    """One line a part, in columns."""
    rows = [("PART", "PID", "STATE", "SINCE", "PORTS")]
    for part in parts:
        ports = " ".join(f"{name}={port}" for name, port in part["ports"].items())
        rows.append((part["part"], str(part["pid"] or "-"), part["state"], part["since"], ports))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )

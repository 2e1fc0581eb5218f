"""`parley logs`: what the parts have logged, also after they have ended."""

from __future__ import annotations

import argparse
import sys
import time

from cli.control import add_data
from cli.layout import Layout
from cli.logfiles import Follower, last_lines

POLL_S = 0.2


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("part", nargs="?", help="one part only")
    add_data(parser)
    parser.add_argument("-f", "--follow", action="store_true", help="go on as it grows, until Ctrl-C")
    parser.add_argument(
        "-n", "--lines", type=_count, default=20, metavar="N", help="how many of the last lines of each"
    )


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise ValueError(text)
    return number


def run(args: argparse.Namespace) -> int:
    layout = Layout(args.data)
    names = sorted(path.stem for path in layout.logs.glob("*.log"))
    if args.part is not None:
        if args.part not in names:
            known = ", ".join(names) or "none"
            print(f"parley: no log of {args.part!r} in {layout.logs}; there are: {known}", file=sys.stderr)
            return 1
        names = [args.part]
    width = max((len(name) for name in names), default=0)
    followers = {name: Follower(layout.log(name)) for name in names}
    for name in names:
        _show(name, width, last_lines(layout.log(name), args.lines), single=args.part is not None)
    while args.follow:
        for name, follower in followers.items():
            _show(name, width, follower.read(), single=args.part is not None)
        sys.stdout.flush()
        time.sleep(POLL_S)
    return 0


def _show(name: str, width: int, lines: list[str], single: bool) -> None:
    for line in lines:
        print(line if single else f"{name.ljust(width)} | {line}")

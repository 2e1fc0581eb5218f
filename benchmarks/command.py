"""`parley bench list`, `run`, `report`: what is asked for, and where its results and reports go."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

import msgspec

from benchmarks import machine, results
from benchmarks.driver import ROOT
from benchmarks.harness import Lent, run_scenario
from benchmarks.pages import content, markdown, page, readme
from benchmarks.registry import all_scenarios

ALL = "all"
DOCS = ROOT / "docs" / "benchmarks"
COMMITTED = DOCS / "results.jsonl"
README = ROOT / "README.md"
SCRATCH = ROOT / "benchmarks" / "results" / "results.jsonl"
INTERRUPTED = 130


def add(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser("list", help="which scenarios there are")
    run_ = actions.add_parser("run", help="measure")
    run_.add_argument("scenario", nargs="*", default=[ALL], help="their names (default: all)")
    run_.add_argument("--peers", action="store_true", help="with the peers that this machine has")
    run_.add_argument("--tiny", action="store_true", help="that it works, not what it costs: a second each")
    run_.add_argument("--rounds", type=_positive, metavar="N", help="other than the scenarios say")
    run_.add_argument("--keep", action="store_true", help="replace only these scenarios in the committed results")
    run_.add_argument("--results", type=Path, metavar="FILE", help="where they go, instead of where they would")
    run_.add_argument("--folder", type=Path, metavar="DIR", help="for the stack's data (default: temporary files')")
    made = actions.add_parser("report", help="make the report and README's figures from results")
    made.add_argument("--results", type=Path, metavar="FILE", help="results to read (default: the committed ones)")
    made.add_argument("--out", type=Path, metavar="DIR", help="where the pages go (default: beside the results)")


def run(args: argparse.Namespace) -> int:
    """An exit status: 1 where something of ours failed, 2 for a wrong question."""
    match args.action:
        case "list":
            return _list()
        case "run":
            return _run(args)
        case _:
            return _report(args)


def _list() -> int:
    for scenario in all_scenarios().values():
        print(f"{scenario.name:<14} {scenario.question}")
        for contestant in scenario.contestants:
            print(f"{'':<14} - {contestant.name} ({contestant.role})")
    return 0


def _run(args: argparse.Namespace) -> int:
    known = all_scenarios()
    names = list(known) if ALL in args.scenario else list(dict.fromkeys(args.scenario))
    unknown = [name for name in names if name not in known]
    if unknown:
        return _wrong(f"there is no scenario {unknown[0]!r}; there are: {', '.join(known)}")
    if args.tiny and args.keep:
        return _wrong("a tiny run says nothing about costs: it does not go into the committed results (--keep)")
    if args.folder is not None and not args.folder.is_dir():
        return _wrong(f"there is no folder {args.folder}")
    path = args.results or (COMMITTED if args.keep or _complete(args, set(names) == set(known)) else SCRATCH)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        held = results.read(path) if args.keep and path.exists() else results.Results()
    except (OSError, ValueError) as error:
        return _wrong(f"{_shown(path)}: {error}")
    return _measured(args, names, held, path)


def _complete(args: argparse.Namespace, whole: bool) -> bool:
    """Whether a run, without being asked to, may replace the committed results: only one that has all of theirs."""
    return whole and args.peers and not args.tiny and args.rounds is None


def _measured(args: argparse.Namespace, names: Sequence[str], held: results.Results, path: Path) -> int:
    """Measures into a file beside `path`, which takes its place when all is measured; an exit status."""
    part = path.with_name(path.name + ".part")
    part.unlink(missing_ok=True)
    try:
        with _terminated_as_interrupted():
            failed = _measure(args, names, held, part)
    except KeyboardInterrupt:
        told = f"; what was measured is in {_shown(part)}" if part.exists() else ""
        _tell(f"interrupted: {_shown(path)} is as it was{told}")
        return INTERRUPTED
    part.replace(path)
    print(f"{_shown(path)} is written", file=sys.stderr)
    return _pages(path, None) or (1 if failed else 0)


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM ends as Ctrl-C does: what was started is stopped, and temporary files go. In the main thread only."""

    def end(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _measure(args: argparse.Namespace, names: Sequence[str], held: results.Results, path: Path) -> list[str]:
    """Measures, and writes the results after each scenario; returns those where something of ours failed."""
    failed: list[str] = []
    with tempfile.TemporaryDirectory(prefix="parley-bench-", dir=args.folder) as folder:
        run_ = _described(Path(folder), args)
        held.add([run_])
        _print([run_])
        bench = Lent(Path(folder), tiny=args.tiny)
        try:
            for name in names:
                outcome = run_scenario(all_scenarios()[name], bench, peers=args.peers, rounds=args.rounds, tell=_tell)
                lines = results.lines_of(run_, outcome)
                held.add(lines)
                held.write(path)
                _print(lines)
                if outcome.failed:
                    failed.append(name)
                    _tell(f"{name}: something went wrong: see `wrong` and `absent` in its line")
        finally:
            bench.close()
    return failed


def _print(lines: Sequence[results.Line]) -> None:
    for line in lines:
        print(msgspec.json.encode(line).decode(), flush=True)


def _described(folder: Path, args: argparse.Namespace) -> results.Run:
    found = machine.describe(folder)
    return results.Run(
        run=uuid.uuid4().hex[:12],
        at=found.date,
        revision=found.revision,
        tiny=args.tiny,
        peers=args.peers,
        machine=found,
    )


def _report(args: argparse.Namespace) -> int:
    path = args.results or COMMITTED
    if not path.exists():
        return _wrong(f"there is no {_shown(path)}: `parley bench run` writes it")
    return _pages(path, args.out)


def _pages(path: Path, out: Path | None) -> int:
    """An exit status."""
    try:
        _make_pages(path, out)
    except (OSError, ValueError) as error:
        return _wrong(f"{_shown(path)}: {error}")
    return 0


def _make_pages(path: Path, out: Path | None) -> None:
    """Beside the results, or in `out`. README tells of the committed results only."""
    found = results.read(path)
    told = content.blocks(found)
    folder = out or path.parent
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.md").write_text(markdown.render(told))
    (folder / "report.html").write_text(page.render(content.TITLE, told))
    print(f"{_shown(folder / 'report.md')} and report.html are written", file=sys.stderr)
    if path.resolve() == COMMITTED and out is None:
        README.write_text(readme.put(README.read_text(), readme.render(found)))


def _positive(text: str) -> int:
    """Raises ValueError, which argparse tells."""
    if (value := int(text)) < 1:
        raise ValueError(f"{value} is not 1 or more")
    return value


_positive.__name__ = "number of 1 or more"  # as argparse calls it


def _shown(path: Path) -> Path:
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


def _tell(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def _wrong(text: str) -> int:
    print(f"parley bench: {text}", file=sys.stderr)
    return 2

"""`python -m benchmarks`: starts a stack of its own, measures, prints, writes the page."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from msgspec.structs import replace

from benchmarks import admit, completions, machine, report, streams
from benchmarks.driver import ROOT
from benchmarks.figures import Result
from benchmarks.sizes import FULL, QUICK, Sizes
from benchmarks.target import Target, started

Scenario = Callable[[Target, Sizes], Result]

SCENARIOS: Mapping[str, Scenario] = {
    "streams": streams.measure,
    "completions": completions.measure,
    "admit": admit.measure,
}
PAGE = ROOT / "docs" / "benchmarks.md"
RESULTS = ROOT / "benchmarks" / "results"


def main() -> int:
    names = [*SCENARIOS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure Parley on this machine")
    parser.add_argument("--quick", action="store_true", help="a short run; the page goes to benchmarks/results/")
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help=f"some of: {', '.join(names)}")
    parser.add_argument("--folder", type=Path, help="for the stack's data (default: that of temporary files)")
    args = parser.parse_args()
    chosen = args.only or names
    partial = args.quick or args.only
    RESULTS.mkdir(exist_ok=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="parley-bench-", dir=args.folder) as folder:
        described = machine.describe(Path(folder))
        results = measure(chosen, Path(folder), quick=args.quick)
    found = [json.dumps(line, ensure_ascii=False) for line in report.lines(described, results)]
    text = report.page(described, results, time.monotonic() - began, quick=args.quick)
    page = RESULTS / "benchmarks.md" if partial else PAGE
    page.write_text(text)
    (RESULTS / "latest.jsonl").write_text("\n".join(found) + "\n")
    print("\n".join(found))
    print(f"{page.relative_to(ROOT)} is written", file=sys.stderr)
    return 1 if any(result.wrong for result in results) else 0


def measure(names: list[str], folder: Path, *, quick: bool) -> list[Result]:
    """Runs the scenarios of these names, one after the other, against one stack."""
    sizes = QUICK if quick else FULL
    results: list[Result] = []
    scenarios = [name for name in SCENARIOS if name in names]
    if scenarios:
        with started(folder) as target:
            for name in scenarios:
                _tell(name)
                logged = len(target.warnings())
                result = SCENARIOS[name](target, sizes)
                results.append(replace(result, logged=tuple(target.warnings()[logged:])))
    return results


def _tell(name: str) -> None:
    print(f"measuring: {name}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())

"""`python -m tests.fuzz`: a long run by hand. Prints what it made and found; 1 where it found anything.

python -m tests.fuzz --seconds 300 --seed 4            all targets, the time split among them
python -m tests.fuzz --target frames --seed 4 --only 17    one execution again
"""

from __future__ import annotations

import argparse
import sys
import time

from tests.fuzz.runs import GATEWAY, LISTENER, TARGETS, Finding, run

BATCH = 5_000


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Seeded mutation fuzzing.")
    parser.add_argument("--target", choices=(*TARGETS, LISTENER, GATEWAY), action="append", help="default: all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=60.0, help="for all targets together")
    parser.add_argument("--only", type=int, help="the number of one execution")
    options = parser.parse_args()
    targets = options.target or (*TARGETS, LISTENER, GATEWAY)
    found = 0
    for target in targets:
        began = time.monotonic()
        until = began + options.seconds / len(targets)
        done = 0
        findings: list[Finding] = []
        while time.monotonic() < until and not findings:
            first, count = (options.only, 1) if options.only is not None else (done, BATCH)
            more, findings = run(target, options.seed, first, count, until)
            done += more
            if options.only is not None:
                break
        for finding in findings:
            sys.stdout.write(f"{finding}\n")
        found += len(findings)
        seconds = time.monotonic() - began
        made = f"{done:,} executions in {seconds:.0f} s"
        sys.stdout.write(f"{target}: seed {options.seed}, {made}, {len(findings)} found\n")
        sys.stdout.flush()
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

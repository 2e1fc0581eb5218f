"""Runs scenarios: all contestants of one side by side, measured in turns, round by round, the order rotated."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import meter
from benchmarks.scenario import CannotStart, Contestant, LeftOut, Measure, Sample, Scenario
from benchmarks.target import Target, started

Tell = Callable[[str], None]

NOT_ASKED = "not asked for: peers are measured with --peers"
# Between two measurements.
SETTLE_S = 6.0
SETTLE_STEP_S = 0.25
SETTLED_CORES = 0.15


class Lent:
    """The `Bench` of one run. `target`: a stack that runs already; else one is started at the first use. `settles`:
    whether a measurement waits until the one before has left the machine at rest; a tiny one never does. Must be
    closed, in the main thread.
    """

    def __init__(self, folder: Path, *, tiny: bool, target: Target | None = None, settles: bool = True) -> None:
        self.tiny = tiny
        self.settles = settles and not tiny
        self._base = folder
        self._given = target
        self._held = contextlib.ExitStack()
        self.folder = folder

    @property
    def target(self) -> Target:
        if self._given is None:
            folder = self._base / "stack"
            folder.mkdir(exist_ok=True)
            self._given = self._held.enter_context(started(folder))
        return self._given

    @property
    def logged(self) -> list[str]:
        """What the stack's parts have warned of so far; nothing where no stack was needed yet."""
        return self._given.warnings() if self._given is not None else []

    def enter(self, scenario: str) -> None:
        self.folder = self._base / f"scenario-{scenario}"
        self.folder.mkdir(parents=True, exist_ok=True)

    def close(self) -> None:
        self._held.close()


@dataclass
class Outcome:
    """All rounds of one scenario. `samples`: by contestant, one for each round that it was measured in; `absent`: by
    contestant, why there are none, or why they end early; `logged`: warnings of the stack; `others`: cores that were
    used by what is not ours; `ending`: what failed when the contestants were ended.
    """

    scenario: Scenario[Any]
    tiny: bool
    began: str
    seconds: float = 0.0
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    logged: Sequence[str] = ()
    others: float = 0.0
    ending: str = ""

    @property
    def failed(self) -> bool:
        """Whether something of ours, or a floor, is missing or went wrong. Peers are only told."""
        ours = [contestant.name for contestant in self.scenario.contestants if contestant.role != "peer"]
        wrong = any(sample.wrong for name in ours for sample in self.samples.get(name, ()))
        return wrong or bool(self.ending) or any(name in self.absent for name in ours)


def run_scenario(
    scenario: Scenario[Any], bench: Lent, *, peers: bool, rounds: int | None = None, tell: Tell = lambda _: None
) -> Outcome:
    """One scenario, all rounds. A contestant that fails is told in `absent` and left out from then on."""
    outcome = Outcome(scenario, bench.tiny, datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"))
    began, count = time.monotonic(), rounds or (1 if bench.tiny else scenario.rounds)
    bench.enter(scenario.name)
    before, used = len(bench.logged), meter.others()
    try:
        _rounds(scenario, bench, outcome, count, peers=peers, tell=tell)
    except Exception as error:
        outcome.ending = _reason(error)
    outcome.logged = tuple(bench.logged[before:])
    outcome.seconds = time.monotonic() - began
    outcome.others = meter.others().since(used)
    return outcome


def _rounds(scenario: Scenario[Any], bench: Lent, outcome: Outcome, count: int, *, peers: bool, tell: Tell) -> None:
    """Raises what the contestants raise when they are ended."""
    with contextlib.ExitStack() as held:
        ready = dict(_started(scenario, bench, outcome, held, peers=peers))
        for number in range(count):
            for name in _rotated([name for name in ready if name not in outcome.absent], number):
                tell(f"{scenario.name}: round {number + 1} of {count}: {name}")
                try:
                    sample = ready[name](number)
                except Exception as error:
                    outcome.absent[name] = f"failed in round {number + 1}: {_reason(error)}"
                    tell(f"{scenario.name}: {name} {outcome.absent[name]}")
                    continue
                outcome.samples.setdefault(name, []).append(sample)
                if bench.settles and len(ready) > 1:
                    _settle()


def _settle() -> None:
    """Waits until what we started is at rest: some servers clean up for seconds after their clients have left."""
    until = time.monotonic() + SETTLE_S
    while time.monotonic() < until:
        before = meter.others()
        time.sleep(SETTLE_STEP_S)
        after = meter.others()
        if after.ours_s - before.ours_s < SETTLED_CORES * (after.at - before.at):
            return


def _started(
    scenario: Scenario[Any], bench: Lent, outcome: Outcome, held: contextlib.ExitStack, *, peers: bool
) -> Iterator[tuple[str, Measure]]:
    for contestant in scenario.contestants:
        if contestant.role == "peer" and not peers:
            outcome.absent[contestant.name] = NOT_ASKED
            continue
        try:
            yield contestant.name, _start(scenario, contestant, bench, held)
        except CannotStart as error:
            outcome.absent[contestant.name] = f"cannot be started here: {error}"
        except LeftOut as error:
            outcome.absent[contestant.name] = f"left out: {error}"
        except Exception as error:
            outcome.absent[contestant.name] = f"did not start: {_reason(error)}"


def _start(scenario: Scenario[Any], contestant: Contestant[Any], bench: Lent, held: contextlib.ExitStack) -> Measure:
    measure: Measure = held.enter_context(contestant.start(bench, scenario.sizes(tiny=bench.tiny)))
    return measure


def _rotated(names: list[str], by: int) -> list[str]:
    """So that none is always the first, or always after the same other: every other round is the one before it,
    backwards.
    """
    at = by // 2 % len(names) if names else 0
    turned = names[at:] + names[:at]
    return turned[::-1] if by % 2 else turned


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".strip()[:500]

"""Runs of the simulation: one from its seed, or many, until one of them breaks an invariant."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from tests.simulation.checks import violations
from tests.simulation.scenario import anything
from tests.simulation.world import World, deterministic

ABANDONED_MS: Final = 40_000
COLLECT_EVERY: Final = 50

Scenario = Callable[[World], None]


class Result:
    """Of one run. `trace` and `digest` only where it was recorded; `seconds` are virtual."""

    def __init__(self, world: World) -> None:
        self.seed = world.seed
        self.violations = list(violations(world))
        self.trace = world.trace or []
        self.digest = world.digest
        self.seconds = world.loop.time()
        self.steps = world.loop.steps

    def __str__(self) -> str:
        shown = "\n  ".join(each[:2000] for each in self.violations[:10])
        return f"seed {self.seed} breaks {len(self.violations)} invariants:\n  {shown}"


class _Errors(logging.Handler):
    """What the code logs as an error fails the run."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.world: World | None = None

    def emit(self, record: logging.LogRecord) -> None:
        if self.world is not None:
            problem = f" {record.exc_info[1]!r}" if record.exc_info else ""
            self.world.fail(f"logged: {record.getMessage()}{problem}")


_errors = _Errors()


@contextmanager
def quiet() -> Iterator[None]:
    """Errors are heard and nothing else is said; the garbage of the runs is collected between them."""
    root = logging.getLogger()
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    others = root.handlers[:]
    root.handlers[:] = [_errors]
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    gc.freeze()
    try:
        yield
    finally:
        root.handlers[:] = others
        logging.disable(disabled)
        gc.unfreeze()
        if collecting:
            gc.enable()


def run(seed: int, scenario: Scenario = anything, record: bool = False) -> Result:
    """One run, from its seed alone."""
    with quiet():
        return _run(seed, scenario, record)


def _run(seed: int, scenario: Scenario, record: bool) -> Result:
    with deterministic(ABANDONED_MS):
        world = _errors.world = World(seed, record)
        try:
            scenario(world)
            world.start()
            world.run(world.within_s)
            return Result(world)
        finally:
            _errors.world = None


def first_failure(seeds: Iterable[int], scenario: Scenario = anything) -> Result | None:
    """The first of the runs that breaks an invariant, if any does."""
    with quiet():
        for count, seed in enumerate(seeds, 1):
            result = _run(seed, scenario, record=False)
            if result.violations:
                return result
            if count % COLLECT_EVERY == 0:
                gc.collect()
    return None

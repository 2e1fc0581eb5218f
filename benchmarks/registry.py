"""Which scenarios there are: every module under benchmarks/scenarios/ that has a `SCENARIO`."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any

from benchmarks import scenarios
from benchmarks.scenario import Scenario


@functools.cache
def all_scenarios() -> Mapping[str, Scenario[Any]]:
    """By name, in the order of the report. Raises ValueError where two have one name or a metric stands twice."""
    found: dict[str, Scenario[Any]] = {}
    names = [module.name for module in pkgutil.iter_modules(scenarios.__path__)]
    modules = [importlib.import_module(f"{scenarios.__name__}.{name}") for name in names]
    for scenario in (module.SCENARIO for module in modules if hasattr(module, "SCENARIO")):
        keys = [metric.key for metric in scenario.metrics]
        if scenario.name in found or len(set(keys)) < len(keys):
            raise ValueError(f"the scenario {scenario.name} or a metric of it stands twice")
        found[scenario.name] = scenario
    return dict(sorted(found.items(), key=lambda item: (item[1].order, item[0])))

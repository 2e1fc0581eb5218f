"""What holds for every test: fast ones first, one stack and one browser for all, the seeds of the simulation."""

import pytest

from tests.support.browser import browser
from tests.support.stack import stack, stack_session

__all__ = ["browser", "stack", "stack_session"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--seeds", type=int, default=5000, metavar="N", help="how many seeds the simulation runs (default: 5000)"
    )
    parser.addoption(
        "--seed", type=int, default=None, metavar="N", help="run this one seed of the simulation again, with its trace"
    )


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)

"""What holds for every test: fast ones first, one stack and one browser for all, the seeds of the simulation."""

from collections.abc import AsyncIterator

import pytest

from tests.mockllm.control import MockControl
from tests.support.browser import browser
from tests.support.client import User
from tests.support.stack import Stack, stack, stack_session

__all__ = ["browser", "stack", "stack_session"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--seeds", type=int, default=5000, metavar="N", help="how many seeds the simulation runs (default: 5000)"
    )
    parser.addoption(
        "--seed", type=int, default=None, metavar="N", help="run this one seed of the simulation again, with its trace"
    )
    parser.addoption(
        "--leak", type=int, default=20_000, metavar="N", help="how many connections the leak test ends (default: 20000)"
    )


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)


@pytest.fixture
async def user(stack: Stack) -> AsyncIterator[User]:
    """A new account on the stack."""
    async with await User.new(stack) as made:
        yield made


@pytest.fixture
async def mock(stack: Stack) -> AsyncIterator[MockControl]:
    """The controls of the scripted provider behind the stack."""
    control = MockControl(stack.mock.url)
    yield control
    await control.close()

"""The whole stack for tests that break parts of it, somebody who uses it, and the provider's controls."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.mockllm.control import MockControl
from tests.support.client import User
from tests.support.stack import Stack


@pytest.fixture
async def user(stack: Stack) -> AsyncIterator[User]:
    """A new account."""
    async with await User.new(stack) as made:
        yield made


@pytest.fixture
async def mock(stack: Stack) -> AsyncIterator[MockControl]:
    """The scripted provider behind the stack."""
    control = MockControl(stack.mock.url)
    yield control
    await control.close()

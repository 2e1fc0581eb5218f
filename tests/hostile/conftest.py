"""What hostile clients aim at: two accounts on the stack, and a gateway apart."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.hostile.apart import Apart, apart_from
from tests.hostile.world import World, make_world
from tests.support.stack import Stack


@pytest.fixture(scope="session")
def world_session(stack_session: Stack) -> World:
    """An owner with one of everything, and a stranger. Tests take `world`, and leave what is here as they found it."""
    stack_session.heal()
    return make_world(stack_session)


@pytest.fixture
def world(world_session: World) -> World:
    """The world on a stack that is whole, with access tokens that outlive the test."""
    world_session.stack.heal()
    world_session.renew()
    return world_session


@pytest.fixture(scope="session")
def apart(world_session: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Apart]:
    """A gateway and a router beside the stack's, with limits that a test can reach, and telling all they have to."""
    with apart_from(world_session.stack, tmp_path_factory.mktemp("apart")) as made:
        yield made

from collections.abc import AsyncIterator

import pytest

from tests.support.accounts import shared_dsn
from tests.support.api import Platform, open_platform
from tests.support.postgres import dsn, postgres_server, postgres_template
from tests.support.redis import RedisServer, redis_server, redis_session

__all__ = ["dsn", "postgres_server", "postgres_template", "redis_server", "redis_session", "shared_dsn"]


@pytest.fixture
async def platform(shared_dsn: str, redis_server: RedisServer) -> AsyncIterator[Platform]:
    async with open_platform(shared_dsn, redis_server.url) as platform:
        yield platform

"""A migrated database that many tests share: quicker than one for each."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.postgres import PostgresServer


@pytest.fixture(scope="session")
def shared_dsn(postgres_server: PostgresServer, postgres_template: str) -> str:
    """Its address. A test empties the tables that it counts in, or makes its own people."""
    return postgres_server.dsn(asyncio.run(postgres_server.create_database(postgres_template)))

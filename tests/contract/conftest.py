from tests.support.accounts import shared_dsn
from tests.support.nats import nats_server, nats_session
from tests.support.postgres import dsn, postgres_server, postgres_template
from tests.support.redis import redis_server, redis_session

__all__ = [
    "dsn",
    "nats_server",
    "nats_session",
    "postgres_server",
    "postgres_template",
    "redis_server",
    "redis_session",
    "shared_dsn",
]

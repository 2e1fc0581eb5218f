"""The composition root: the only module that knows which adapter stands behind which port."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final, Self

from core.accounts.port import Accounts, Attempts, RevocationChannel, Tickets
from core.accounts.postgres import PostgresAccounts
from core.accounts.redis import RedisAttempts, RedisRevocations, RedisTickets
from core.books import Report, Served
from core.bus.jetstream import JetStreamUsage
from core.bus.link import Link
from core.bus.nats import NatsBus
from core.bus.port import Bus
from core.catalog.port import Catalog
from core.catalog.postgres import PostgresCatalog
from core.clock import SystemClock
from core.config import Config
from core.errors import Unavailable
from core.history.port import History
from core.history.postgres import PostgresHistory
from core.idempotency.port import Idempotency
from core.idempotency.redis import RedisIdempotency
from core.ledger.port import Entry, Ledger
from core.ledger.postgres import PostgresLedger
from core.ledger.reconcile import reconcile
from core.limits.port import Limits
from core.limits.redis import RedisLimits
from core.postgres import Pool, Statements, open_pool
from core.presence.port import Presence
from core.presence.redis import RedisPresence
from core.providers.openai import OpenAIOptions, OpenAIProvider
from core.providers.port import Provider
from core.recorder import Recorder
from core.redis import Redis
from core.spool import Spool

USAGE_SPOOL_BYTES: Final = 256 * 1024 * 1024

log = logging.getLogger(__name__)


class Composition:
    """The adapters of one process, each made when it is first asked for and closed, in reverse, with the context.

    Errors: `Unavailable` where a server that is needed at start cannot be reached.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.clock = SystemClock()
        self._stack = AsyncExitStack()
        self._pool: Pool | None = None
        self._link: Link | None = None
        self._redis: Redis | None = None
        self._limits: RedisLimits | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def history(self) -> History:
        return PostgresHistory(await self._statements())

    async def ledger(self) -> Ledger:
        return PostgresLedger(await self._statements())

    async def reconcile(self, since_ms: int, until_ms: int, log: Iterable[Served] | None = None) -> Report:
        """Compares ledger, history and, where given, the providers' log: see `core.ledger.reconcile`."""
        return await reconcile(await self.pool(), since_ms, until_ms, log)

    async def accounts(self) -> Accounts:
        return PostgresAccounts(await self.pool(), self.config.postgres.timeout_s)

    async def catalog(self) -> Catalog:
        catalog = PostgresCatalog(await self.pool(), self.config.postgres.timeout_s, self.clock)
        self._stack.push_async_callback(catalog.close)
        return catalog

    async def bus(self, name: str) -> Bus:
        """`name` is what the server shows of this connection."""
        return NatsBus(await self._nats(name))

    async def usage(self, name: str) -> JetStreamUsage:
        """The stream is made where it is missing; one that is away is made by whoever needs it first."""
        usage = JetStreamUsage(await self._nats(name))
        self._stack.push_async_callback(usage.close)
        try:
            await usage.ensure()
        except Unavailable as error:
            log.warning("the usage stream is away: %s", error)
        return usage

    async def spool(self, name: str, kind: Any, max_bytes: int) -> Spool[Any]:
        """A spool below the process's `data` folder; `kind` is what it holds. Raises OSError."""
        spool: Spool[Any] = await Spool.open(Path(self.config.data) / "spool" / name, kind, max_bytes)
        self._stack.push_async_callback(spool.close)
        return spool

    async def recorder(self, name: str) -> Recorder:
        """Where this process's usage records go; the caller starts and stops it."""
        spool: Spool[Entry] = await self.spool("usage", Entry, USAGE_SPOOL_BYTES)
        return Recorder(await self.usage(name), spool, self.config.nats.usage_timeout_s)

    async def limits(self) -> Limits:
        settings = self.config.redis
        limits = RedisLimits(self.redis(), settings.degraded_share, settings.degraded_s, self.clock)
        self._stack.push_async_callback(limits.close)
        self._limits = limits
        return limits

    @property
    def degraded(self) -> bool:
        """Whether this process decides limits by itself, because Redis is away."""
        return self._limits is not None and self._limits.degraded

    def tickets(self) -> Tickets:
        return RedisTickets(self.redis())

    def attempts(self) -> Attempts:
        return RedisAttempts(self.redis())

    def revocation_channel(self) -> RevocationChannel:
        return RedisRevocations(self.redis(), self.config.redis.url, self.config.redis.timeout_s)

    def presence(self, gateway: str) -> Presence:
        """The caller starts and stops it."""
        return RedisPresence(self.redis(), gateway)

    def idempotency(self) -> Idempotency:
        return RedisIdempotency(self.redis())

    def redis(self) -> Redis:
        if self._redis is None:
            self._redis = Redis(self.config.redis.url, self.config.redis.timeout_s)
            self._stack.push_async_callback(self._redis.close)
        return self._redis

    def providers(self) -> dict[str, Provider]:
        """By name, as the configuration lists them."""
        found: dict[str, Provider] = {}
        for settings in self.config.providers:
            options = OpenAIOptions(
                name=settings.name,
                base_url=settings.base_url,
                api_key=settings.api_key,
                send_tags=settings.send_tags,
            )
            provider = OpenAIProvider(options)
            self._stack.push_async_callback(provider.close)
            found[settings.name] = provider
        return found

    async def pool(self) -> Pool:
        if self._pool is None:
            self._pool = await open_pool(self.config.postgres.dsn, self.config.postgres.pool_size)
            self._stack.push_async_callback(_close_pool, self._pool)
        return self._pool

    async def ping_postgres(self, timeout_s: float) -> None:
        """One round trip. Raises `Unavailable`."""
        await Statements(await self.pool(), timeout_s).read("SELECT 1")

    async def _statements(self) -> Statements:
        timeout_s = self.config.postgres.timeout_s
        return Statements(await self.pool(), timeout_s, timeout_s)

    async def _nats(self, name: str) -> Link:
        if self._link is None:
            self._link = await Link.open(self.config.nats.urls, name)
            self._stack.push_async_callback(self._link.close)
        return self._link


async def _close_pool(pool: Pool) -> None:
    await Statements(pool).close()


@asynccontextmanager
async def administration(config: Config) -> AsyncIterator[tuple[Accounts, Catalog]]:
    """What a command needs to change accounts and the catalog: one connection, for as long as the context lives."""
    pool = await open_pool(config.postgres.dsn, 1)
    catalog = PostgresCatalog(pool, config.postgres.timeout_s, SystemClock())
    try:
        yield PostgresAccounts(pool, config.postgres.timeout_s), catalog
    finally:
        await catalog.close()
        await pool.close()

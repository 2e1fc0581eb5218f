"""What the HTTP resources are built from, and how handlers ask for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from litestar.di import NamedDependency
from litestar.params import SkipValidation

from core.accounts.port import Accounts, Attempts, Tickets
from core.auth.opaque import Cursors, RefreshTokens
from core.auth.passwords import Passwords
from core.auth.tokens import AccessTokens
from core.catalog.port import Catalog
from core.clock import Clock
from core.config import Config
from core.history.port import History
from core.idempotency.port import Idempotency
from ext.ws_hops import Hops
from gateway.api.completions_port import Completions
from gateway.api.streams import EventStreams
from gateway.api.turns_port import Turns
from gateway.identity import Identities, Identity
from gateway.revocations import Revocations

Tell = Callable[[str, str, Mapping[str, Any]], None]
"""Tells all devices of a user: user, name of the event, data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """`unready` names the parts that keep this process from serving, each with its reason; empty: it is ready.
    `hops` are the proxies that are trusted to tell a client's address. Without `completions` there is no
    OpenAI-compatible resource.
    """

    config: Config
    clock: Clock
    accounts: Accounts
    history: History
    catalog: Catalog
    turns: Turns
    tickets: Tickets
    idempotency: Idempotency
    attempts: Attempts
    passwords: Passwords
    access_tokens: AccessTokens
    refresh_tokens: RefreshTokens
    cursors: Cursors
    identities: Identities
    revocations: Revocations
    streams: EventStreams
    tell: Tell
    unready: Callable[[], Awaitable[Mapping[str, str]]]
    completions: Completions | None = None
    hops: Hops = field(default_factory=Hops)


Svc = NamedDependency[SkipValidation[Services]]
Caller = NamedDependency[SkipValidation[Identity]]

"""What opens WebSockets in a benchmark: access tokens and tickets of as many people as are wanted, none of them stored.

An access token needs no row to be good, so a quarter of a million people cost no database.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Sequence

import msgspec
from msgspec.structs import replace

from benchmarks.native.upgrade import upgrade
from core.accounts.model import SCOPES, Ticket
from core.auth.tokens import AUDIENCE, ISSUER, AccessTokens, Claims, SigningKey
from core.clock import SystemClock
from core.compose import Composition
from core.config import Config
from core.ids import uuid7

TICKETS_AT_ONCE = 64
MINT_S = 10.0


def new_id() -> str:
    return uuid7(time.time_ns() // 1_000_000)


def tokens(config: Config, count: int, users: Sequence[str] = ()) -> list[str]:
    """Access tokens of `count` new people, or of these `users` in turn, each of a session of its own; good for
    `auth.access_s`.
    """
    key = SigningKey.load(config.auth.signing_key)
    sample = AccessTokens(key, config.auth.access_s, SystemClock()).issue(new_id(), new_id(), "user", config.zone)
    head = sample.partition(".")[0].encode()
    now = int(time.time())

    def mint(user: str) -> str:
        claims = Claims(user, new_id(), "user", config.zone, now, now + config.auth.access_s, ISSUER, AUDIENCE)
        text = head + b"." + _base64(msgspec.json.encode(claims))
        return (text + b"." + _base64(key.sign(text))).decode()

    return [mint(users[number % len(users)] if users else new_id()) for number in range(count)]


async def _tickets(config: Config, count: int) -> list[str]:
    lanes = asyncio.Semaphore(TICKETS_AT_ONCE)
    patient = replace(config, redis=replace(config.redis, timeout_s=MINT_S))
    async with Composition(patient) as parts:
        issuer = parts.tickets()

        async def issue() -> str:
            whom = Ticket(
                user_id=new_id(), role="user", zone=config.zone, session_id=new_id(), key_id=None, scopes=SCOPES
            )
            async with lanes:
                return await issuer.issue(whom)

        return list(await asyncio.gather(*(issue() for _ in range(count))))


def tickets(config: Config, count: int) -> list[str]:
    """Single-use tickets of `count` new people; good for 30 s."""
    return asyncio.run(_tickets(config, count))


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def bearers(port: int, given: Sequence[str]) -> list[bytes]:
    """Requests with these access tokens."""
    return [upgrade(host=f"127.0.0.1:{port}", token=token) for token in given]


def cookies(port: int, given: Sequence[str]) -> list[bytes]:
    """Requests of a page of this host with these access tokens as its session cookie (without HTTPS)."""
    host = f"127.0.0.1:{port}"
    page = f"Origin: http://{host}"
    return [upgrade(host=host, headers=[page, f"Cookie: theme=dark; parley_session={token}"]) for token in given]


def ticketed(port: int, given: Sequence[str]) -> list[bytes]:
    """Requests with these tickets."""
    host = f"127.0.0.1:{port}"
    return [upgrade(host=host, subprotocols=f"parley.v1, parley.ticket.{ticket}") for ticket in given]

"""Idempotency of stateless calls in Redis: one hash per key, moved by scripts."""

from __future__ import annotations

import hashlib
import logging
import secrets
from typing import Any, Final

import redis.exceptions

from core.errors import Unavailable, Unknown
from core.idempotency.port import KEEP_S, LEASE_S, MAX_ANSWER_BYTES, Begun, Finished, Mismatch, Running
from core.redis import Argument, Redis, Script

RETRY_MS: Final = 1_000

_BEGIN: Final = Script(
    """
local found = redis.call('HMGET', KEYS[1], 'body', 'answer')
if not found[1] then
    redis.call('HSET', KEYS[1], 'body', ARGV[1], 'lease', ARGV[2])
    redis.call('EXPIRE', KEYS[1], ARGV[3])
    return {'begun'}
end
if found[1] ~= ARGV[1] then
    return {'mismatch'}
end
if found[2] then
    return {'finished', found[2]}
end
return {'running'}
"""
)
_RENEW: Final = Script(
    """
if redis.call('HGET', KEYS[1], 'lease') ~= ARGV[1] then
    return 0
end
return redis.call('EXPIRE', KEYS[1], ARGV[2])
"""
)
_FINISH: Final = Script(
    """
if redis.call('HGET', KEYS[1], 'lease') ~= ARGV[1] then
    return 0
end
redis.call('HDEL', KEYS[1], 'lease')
redis.call('HSET', KEYS[1], 'answer', ARGV[2])
return redis.call('EXPIRE', KEYS[1], ARGV[3])
"""
)
_ABANDON: Final = Script(
    """
if redis.call('HGET', KEYS[1], 'lease') ~= ARGV[1] then
    return 0
end
return redis.call('DEL', KEYS[1])
"""
)

log = logging.getLogger(__name__)


class RedisIdempotency:
    """`core.idempotency.port.Idempotency`. While Redis is away no key is taken: the promise could not be kept."""

    def __init__(self, client: Redis) -> None:
        self._client = client

    async def begin(self, account: str, key: str, body_hash: str) -> Begun | Running | Finished | Mismatch:
        lease = secrets.token_urlsafe(12)
        state, *answer = await self._run(_BEGIN, account, key, body_hash, lease, LEASE_S)
        if state == b"begun":
            return Begun(lease)
        if state == b"finished":
            return Finished(answer[0])
        return Mismatch() if state == b"mismatch" else Running(RETRY_MS)

    async def renew(self, account: str, key: str, lease: str) -> bool:
        return bool(await self._run(_RENEW, account, key, lease, LEASE_S))

    async def finish(self, account: str, key: str, lease: str, answer: bytes) -> None:
        if len(answer) > MAX_ANSWER_BYTES:
            raise ValueError(f"an answer of {len(answer)} bytes is not kept; at most {MAX_ANSWER_BYTES} are")
        await self._run(_FINISH, account, key, lease, answer, KEEP_S)

    async def abandon(self, account: str, key: str, lease: str) -> None:
        try:
            await self._run(_ABANDON, account, key, lease)
        except Unavailable as error:
            log.info("an idempotency key lapses by itself: %s", error)

    async def _run(self, script: Script, account: str, key: str, *args: Argument) -> Any:
        try:
            return await self._client.run(script, (_name(account, key),), args)
        except (Unavailable, Unknown, redis.exceptions.RedisError) as error:
            raise Unavailable(f"idempotency keys: {error}") from error


def _name(account: str, key: str) -> str:
    """Hashed: a key is of any length and may be a secret."""
    return "parley:idempotency:" + hashlib.sha256(f"{account}\0{key}".encode("utf-8", "surrogatepass")).hexdigest()

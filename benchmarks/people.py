"""Who uses the stack in a benchmark: accounts, tokens, conversations and keys, made in the stores directly.

Passwords cost what they are meant to cost, and nothing here measures that.
"""

from __future__ import annotations

import asyncio
import time
from typing import NamedTuple

from core.accounts.model import SCOPES
from core.auth.opaque import KEY_SHOWN_CHARS, fingerprint, new_api_key
from core.auth.tokens import AccessTokens, SigningKey
from core.clock import SystemClock
from core.compose import Composition
from core.config import Config
from core.ids import uuid7

AT_ONCE = 8


class Person(NamedTuple):
    user_id: str
    token: str


async def make_people(config: Config, count: int) -> list[Person]:
    """Accounts with access tokens."""
    tokens = AccessTokens(SigningKey.load(config.auth.signing_key), config.auth.access_s, SystemClock())
    lanes = asyncio.Semaphore(AT_ONCE)
    async with Composition(config) as parts:
        accounts = await parts.accounts()

        async def make() -> Person:
            user_id = _new_id()
            async with lanes:
                await accounts.create_user(user_id, f"{user_id}@example.org", "Bench", None, "user", config.zone)
            return Person(user_id, tokens.issue(user_id, _new_id(), "user", config.zone))

        return list(await asyncio.gather(*(make() for _ in range(count))))


async def make_conversations(config: Config, people: list[Person], count: int) -> list[str]:
    """Empty conversations; number `n` is the person's of number `n` modulo how many there are."""
    lanes = asyncio.Semaphore(AT_ONCE)
    async with Composition(config) as parts:
        accounts, history = await parts.accounts(), await parts.history()

        async def make(number: int) -> str:
            conversation, owner = _new_id(), people[number % len(people)].user_id
            async with lanes:
                await history.create_conversation(conversation, owner, config.zone)
                await accounts.create_conversation(conversation, owner, "", None)
            return conversation

        return list(await asyncio.gather(*(make(number) for number in range(count))))


async def make_key(config: Config, person: Person) -> str:
    """An API key of a person's."""
    key = new_api_key()
    async with Composition(config) as parts:
        accounts = await parts.accounts()
        await accounts.create_key(_new_id(), person.user_id, "bench", key[:KEY_SHOWN_CHARS], fingerprint(key), SCOPES)
    return key


def _new_id() -> str:
    return uuid7(time.time_ns() // 1_000_000)

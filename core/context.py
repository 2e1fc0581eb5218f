"""Which messages fit the model's window: the system prompt always, then as many of the newest as there is room for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from core.history.port import PathTurn
from core.providers.port import ProviderMessage

PER_MESSAGE_TOKENS: Final = 4


class Context(msgspec.Struct, frozen=True):
    """What a provider is given. `prompt_tokens` as counted here; `dropped` messages did not fit."""

    messages: tuple[ProviderMessage, ...]
    continue_from: str | None
    prompt_tokens: int
    dropped: int


class ContextTooLong(Exception):
    """Even the user's newest message alone does not fit."""


def assemble(path: Sequence[PathTurn], system: str, window: int, answer: int, count: Callable[[str], int]) -> Context:
    """Fits `path` (newest first, its first the turn to be answered) into `window` tokens less `answer` for the answer.

    A window too small for the whole reservation still leaves the prompt a quarter of it. Raises `ContextTooLong`.
    """
    room = window - min(answer, window * 3 // 4)
    kept: list[ProviderMessage] = []
    used = count(system) + PER_MESSAGE_TOKENS if system else 0
    asked = path[0]
    used += count(asked.content) + count(asked.answer) + 2 * PER_MESSAGE_TOKENS
    if used > room:
        raise ContextTooLong(f"the message needs {used} tokens and the model has room for {room}")
    kept.append(ProviderMessage("user", asked.content))
    dropped = 0
    for at, step in enumerate(path[1:], 1):
        cost = count(step.content) + count(step.answer) + 2 * PER_MESSAGE_TOKENS
        if used + cost > room:
            dropped = len(path) - at
            break
        used += cost
        if step.answer:
            kept.append(ProviderMessage("assistant", step.answer))
        kept.append(ProviderMessage("user", step.content))
    if system:
        kept.append(ProviderMessage("system", system))
    return Context(tuple(reversed(kept)), asked.answer or None, used, dropped)

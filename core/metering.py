"""Tokens and prices to money, in integers: nano-USD."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from core.model import NewTurn, Usage

BYTES_PER_TOKEN: Final = 4
TOKENS_PER_MESSAGE: Final = 4


def price(usage: Usage, input_price: int, output_price: int) -> int:
    """What an attempt cost in nano-USD, at prices in nano-USD per token.

    Cached tokens are part of the prompt's and reasoning tokens of the completion's, at the same prices.
    """
    return usage.prompt_tokens * input_price + usage.completion_tokens * output_price


def estimate_tokens(text: str) -> int:
    """Tokens of a text where nobody counted them: one for every four bytes of its UTF-8, rounded up."""
    return -(-len(text.encode("utf-8", "surrogatepass")) // BYTES_PER_TOKEN)


def estimate_usage(messages: Iterable[str], completion: str) -> Usage:
    """Usage where the provider gave none: `estimate_tokens`, and four tokens for the frame of each prompt message."""
    prompt = sum(estimate_tokens(message) + TOKENS_PER_MESSAGE for message in messages)
    return Usage(prompt_tokens=prompt, completion_tokens=estimate_tokens(completion), estimated=True)


def reservation(turn: NewTurn) -> int:
    """Tokens that are reserved for a turn: what its message is estimated at, and all that the answer may have."""
    return turn.max_tokens + estimate_tokens(turn.content)

"""Deterministic answers and token counts.

Tokens: ceil(UTF-8 bytes / 4) of a text; a prompt is the sum over its messages of 4 + the tokens of the content,
plus 3. A count is taken over a whole text, never summed over its pieces.
"""

import random
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise

_SYLLABLES = ("ba", "ce", "di", "fo", "gu", "la", "me", "ni", "or", "pu", "ra", "se", "ti", "vo", "xe", "zu", "ka")
# What splits badly: precomposed and combining accents, wide and right-to-left letters, an emoji of five code
# points joined by ZWJ, a flag of two, a keycap, a skin tone, Devanagari conjuncts.
_HARD = (
    "café",
    "e\u0301le\u0300ve",
    "naïve",
    "漢字かな",
    "שלום",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467",
    "\U0001f1ea\U0001f1fa",
    "1\ufe0f\u20e3",
    "\U0001f44d\U0001f3fd",
    "क्षत्रिय",
    "z\u0334\u0321a\u0337l",
)
_PUNCTUATION = (".", ",", ";", " —", "\n", "\n\n- ", "\t")


def count_tokens(text: str) -> int:
    return -(-len(text.encode("utf-8")) // 4)


def prompt_tokens(contents: list[str]) -> int:
    return 3 + sum(4 + count_tokens(content) for content in contents)


def pieces(seed: int) -> Iterator[str]:
    """An endless answer in the pieces in which it is streamed, the same for the same seed.

    Every eighth word or so is hard; half of the hard ones are split between two pieces at a code point, so that
    grapheme clusters arrive in parts.
    """
    rng = random.Random(seed)
    while True:
        draw = rng.random()
        if draw < 0.12:
            word = " " + rng.choice(_HARD)
            if rng.random() < 0.5 and len(word) > 2:
                at = rng.randrange(1, len(word))
                yield word[:at]
                word = word[at:]
            yield word
        elif draw < 0.24:
            yield rng.choice(_PUNCTUATION)
        else:
            yield " " + "".join(rng.choice(_SYLLABLES) for _ in range(rng.randrange(1, 4)))


@lru_cache(maxsize=4096)
def first_pieces(seed: int, count: int) -> tuple[str, ...]:
    """The first `count` pieces of the answer of a seed."""
    source = pieces(seed)
    return tuple(next(source) for _ in range(count))


def split_text(text: str, count: int | None) -> list[str]:
    """A text given by a script in `count` pieces of nearly equal length, or in pieces of four code points."""
    if not text:
        return []
    if count is None:
        return [text[at : at + 4] for at in range(0, len(text), 4)]
    count = max(1, min(count, len(text)))
    bounds = [len(text) * i // count for i in range(count + 1)]
    return [text[a:b] for a, b in pairwise(bounds)]


def without_prefix(source: Iterator[str], prefix: str) -> Iterator[str]:
    """The pieces after `prefix`; all of them when the answer does not begin with it."""
    held: list[str] = []
    joined = ""
    for piece in source:
        held.append(piece)
        joined += piece
        if len(joined) >= len(prefix) or not prefix.startswith(joined):
            break
    if joined.startswith(prefix):
        rest = joined[len(prefix) :]
        held = [rest] if rest else []
    yield from held
    yield from source

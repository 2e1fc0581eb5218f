"""Seeded changes to valid bytes. Each execution has a generator of its own, so any of them can be made again alone."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise

INTERESTING = (0, 1, 2, 13, 10, 32, 34, 44, 58, 92, 123, 125, 126, 127, 128, 129, 136, 137, 254, 255)


def generator(seed: int, target: str, number: int) -> random.Random:
    """The randomness of execution `number` of `target` under `seed`."""
    return random.Random(f"{seed}/{target}/{number}")


def mutate(rng: random.Random, data: bytes, words: Sequence[bytes], most: int = 6) -> bytes:
    """`data` with up to `most` changes, sometimes none: bytes of their own, slices, and `words` of the format."""
    changed = bytearray(data)
    for _ in range(rng.randrange(most + 1)):
        _change(rng, changed, words)
    return bytes(changed)


def _change(rng: random.Random, data: bytearray, words: Sequence[bytes]) -> None:
    at = rng.randrange(len(data) + 1)
    upto = min(len(data), at + rng.choice((1, 1, 2, 4, 16, 64)))
    kind = rng.randrange(9)
    if kind == 0 and at < len(data):
        data[at] ^= 1 << rng.randrange(8)
    elif kind == 1 and at < len(data):
        data[at] = rng.choice(INTERESTING)
    elif kind == 2:
        data[at:at] = rng.randbytes(rng.choice((1, 1, 2, 5, 130)))
    elif kind == 3:
        del data[at:upto]
    elif kind == 4:
        data[at:at] = data[at:upto] * rng.choice((1, 1, 2, 30))
    elif kind == 5:
        other = rng.randrange(len(data) + 1)
        data[other:other] = data[at:upto]
    elif kind == 6:
        data[at:upto] = rng.choice(words)
    elif kind == 7:
        data[at:at] = rng.choice(words)
    else:
        del data[at:]


def cut(rng: random.Random, data: bytes, most: int = 12) -> list[bytes]:
    """`data` in pieces, as a network may deliver it; sometimes byte by byte."""
    if len(data) < 400 and rng.randrange(12) == 0:
        return [data[at : at + 1] for at in range(len(data))]
    places = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randrange(most + 1)))
    return [data[a:b] for a, b in pairwise([0, *places, len(data)])]

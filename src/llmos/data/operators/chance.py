"""Chance that follows from the pipeline's seed and a record's id alone."""

from __future__ import annotations

import hashlib
from random import Random


def number_of(seed: int, *parts: str | int) -> int:
    """Return a number from 0 to 2**62 - 1 that the arguments alone decide: a seed for a model."""
    told = "\x1f".join(map(str, (seed, *parts))).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(told, digest_size=8).digest(), "big") >> 2


def chance(seed: int, *parts: str | int) -> Random:
    """Return a generator whose numbers the arguments alone decide."""
    return Random(number_of(seed, *parts))

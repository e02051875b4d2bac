"""How much a word that no list has looks like a name, by the letters of names and other words."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from functools import cache, lru_cache

from llmos.data.pii.lexicon_en import AMBIGUOUS, GIVEN, SURNAMES
from llmos.data.pii.ordinary_en import BEGINNING, FUNCTION, THING_AFTER

MOST = 1.5
_SMOOTHING, _SCALE = 0.5, 4.0


@lru_cache(100_000)
def likeness(word: str) -> float:
    """Return a number from -MOST to MOST: the log odds of its letter trigrams in names, scaled.

    Args:
        word: in lower case.
    """
    names, others = _trained()
    total = math.fsum(_log(names, gram) - _log(others, gram) for gram in _grams(word))
    return max(-MOST, min(MOST, total / _SCALE))


def _log(counts: Counter[str], gram: str) -> float:
    context = counts[gram[:-1]] + _SMOOTHING * 28
    return math.log((counts[gram] + _SMOOTHING) / context)


@cache
def _trained() -> tuple[Counter[str], Counter[str]]:
    others = (BEGINNING | FUNCTION | THING_AFTER) - GIVEN - SURNAMES
    return _counts((GIVEN | SURNAMES) - AMBIGUOUS), _counts(others)


def _counts(words: Iterable[str]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for word in sorted(words):
        for gram in _grams(word):
            counts[gram] += 1
            counts[gram[:-1]] += 1
    return counts


def _grams(word: str) -> list[str]:
    padded = f"^^{word}$"
    return [padded[place : place + 3] for place in range(len(padded) - 2)]

"""Which words stand near which, as arrays."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from llmos.data.encoding import IntArray, Ragged

CHUNK_WORDS = 20_000
"""Of a step, but for the line that it ends in."""
KEYED = 0x3EC
"""Of the random streams here, so that they are none of the samplers'."""


@dataclass(frozen=True, slots=True, eq=False)
class Text:
    """The words of a text, and the line of each: windows end with a line."""

    words: IntArray
    lines: IntArray


def chunks(rows: Ragged) -> list[tuple[int, int]]:
    """Return ranges of lines of CHUNK_WORDS words or a little more: always the same."""
    starts = np.searchsorted(rows.offsets, np.arange(0, max(len(rows.flat), 1), CHUNK_WORDS))
    borders = [*np.unique(starts).tolist(), len(rows)]
    return [(a, b) for a, b in pairwise(borders) if b > a]


def known_words(rows: Ragged, chunk: tuple[int, int], unknown: int) -> Text:
    """Return a chunk's words without those that are not in the vocabulary: they leave no gap."""
    first, last = chunk
    words = np.asarray(rows.flat[rows.offsets[first] : rows.offsets[last]], dtype=np.int64)
    lines = np.repeat(np.arange(last - first), np.diff(rows.offsets[first : last + 1]))
    return Text(words[words != unknown], lines[words != unknown])


def thinned(text: Text, kept: npt.NDArray[np.float64], random: np.random.Generator) -> Text:
    """Drop words by chance; ``kept`` is the probability with which each of the vocabulary stays."""
    stays = random.random(len(text.words)) < kept[text.words]
    return Text(text.words[stays], text.lines[stays])


def pairs(text: Text, reach: int | IntArray, window: int) -> tuple[IntArray, IntArray]:
    """Return every two words that are near each other, both ways: the place of the one, in order,
    and how far behind it the other is, or before it where that is negative.

    Both are in the same line, and at most ``reach`` apart, which may be the one's own, and at most
    ``window``.
    """
    count = len(text.words)
    limits = np.broadcast_to(np.asarray(reach), (count,))
    near = np.zeros((count, 2 * window), dtype=np.bool_)
    for distance in range(1, min(window, count - 1) + 1):
        same = text.lines[distance:] == text.lines[:-distance]
        near[distance:, window - distance] = same & (limits[distance:] >= distance)
        near[:-distance, window + distance - 1] = same & (limits[:-distance] >= distance)
    places, columns = np.divmod(np.flatnonzero(near), 2 * window)
    return places, np.array([*range(-window, 0), *range(1, window + 1)])[columns]


def generator(seed: int, epoch: int, chunk: int) -> np.random.Generator:
    """Return random numbers that depend on the arguments alone."""
    counter = np.array([0, 0, chunk, epoch], dtype=np.uint64)
    key = np.array([seed, KEYED], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))

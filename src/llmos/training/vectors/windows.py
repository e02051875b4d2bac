"""Which words stand near which: the windows of a text, as arrays."""

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

Mask = npt.NDArray[np.bool_]


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
    lines = np.repeat(np.arange(last - first), rows.lengths[first:last])
    return Text(words[words != unknown], lines[words != unknown])


def thinned(text: Text, kept: npt.NDArray[np.float64], random: np.random.Generator) -> Text:
    """Drop words by chance; ``kept`` is the probability with which each of the vocabulary stays."""
    stays = random.random(len(text.words)) < kept[text.words]
    return Text(text.words[stays], text.lines[stays])


def contexts(text: Text, reach: int | IntArray, window: int) -> tuple[IntArray, Mask]:
    """Return the words around each ``[words, 2 * window]``, and which of these are there: those of
    the same line, at most ``reach`` away."""
    offsets = np.array([*range(-window, 0), *range(1, window + 1)])
    places = np.arange(len(text.words))[:, None] + offsets
    inside = (places >= 0) & (places < len(text.words))
    places = places.clip(0, max(len(text.words) - 1, 0))
    limit = np.broadcast_to(np.asarray(reach), (len(text.words),))[:, None]
    near = inside & (np.abs(offsets) <= limit) & (text.lines[places] == text.lines[:, None])
    return text.words[places], near


def generator(seed: int, epoch: int, chunk: int) -> np.random.Generator:
    """Return random numbers that depend on the arguments alone."""
    counter = np.array([0, 0, chunk, epoch], dtype=np.uint64)
    key = np.array([seed, KEYED], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))

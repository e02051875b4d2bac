"""Which pieces of the records of all shards are there before, and their removal.

Pieces count from 0 in their shard, in order. Of those with the same key a shard keeps the first
alone among its keys, so that a key is in no more entries than there are shards.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from pathlib import Path

import msgspec
import numpy as np

from llmos.data.pipeline.clusters import Rows, entries_of, firsts_in, in_order
from llmos.data.pipeline.keyfiles import KEYS, drops_file, passes

COUNTS, REPEATS = "counts.bin", "repeats.bin"


class Trimmed(msgspec.Struct):
    """What came of it: pieces that count, and how many of them were there before."""

    pieces: int
    repeated: int


def write_pieces(directory: Path, keys: Sequence[Sequence[bytes]], copies: int = 1) -> None:
    """Write the keys of the pieces of a shard's records into the directory that is being made:
    those of the first with each key, or first two, the places of the others, and each record's
    number."""
    entries = in_order(entries_of([(key,) for some in keys for key in some]))
    stay = firsts_in(entries)
    if copies == 2:
        stay[1:] |= stay[:-1].copy()
    entries[stay].tofile(directory / KEYS)
    np.sort(entries["row"][~stay]).tofile(directory / REPEATS)
    np.array([*map(len, keys)], np.int64).tofile(directory / COUNTS)


def write_repeats(
    directory: Path, shards: Sequence[Path], scratch: Path, *, every: bool = False
) -> Trimmed:
    """Write of each shard which of its pieces are there before (`drops_file`).

    Args:
        shards: the directory of each, in order.
        scratch: a folder for what lies on disk meanwhile.
        every: also which are there later; of each key a shard has kept two.
    """
    totals = [int(_numbers(shard / COUNTS).sum()) for shard in shards]
    starts = [0, *accumulate(totals)]
    places = Places(scratch)
    for parts in passes(shards, starts):
        entries = in_order(np.concatenate([*parts]))
        is_repeated = ~firsts_in(entries)
        if every:
            is_repeated[:-1] |= is_repeated[1:].copy()
        places.add_all(np.sort(entries["row"][is_repeated]), starts)
    count = 0
    for number, shard in enumerate(shards):
        places.add(number, _numbers(shard / REPEATS))
        count += places.write(drops_file(directory, number), number)
    return Trimmed(starts[-1], count)


class Places:
    """Places in shards, gathered in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(exist_ok=True)

    def add(self, shard: int, places: Rows) -> None:
        """Add some of a shard, counted from its start."""
        if len(places):
            with (self._folder / str(shard)).open("ab") as file:
                file.write(places.tobytes())

    def add_all(self, places: Rows, starts: Sequence[int]) -> None:
        """Add some of all shards, in order, counted from the first one's start."""
        bounds = np.searchsorted(places, starts).tolist()
        for shard, (begin, end) in enumerate(pairwise(bounds)):
            self.add(shard, places[begin:end] - starts[shard])

    def write(self, path: Path, shard: int) -> int:
        """Write those of a shard in order, where there are some; return how many."""
        file = self._folder / str(shard)
        if not file.exists():
            return 0
        found = np.sort(_numbers(file))
        found.tofile(path)
        return len(found)


def counts_beside(drops: Path) -> Path:
    """Return the file of how many places each record of a shard has, beside its `drops_file`."""
    return drops.with_suffix(".counts")


def repeats_by_row(drops: Path, counts: Path) -> Iterator[list[int]]:
    """Yield of each record of a shard which of its pieces are to go, by their places among its own.

    Args:
        drops: the places in the shard, as `drops_file` tells; it need not be there.
        counts: how many places each record has.
    """
    repeated = _numbers(drops) if drops.exists() else np.zeros(0, np.int64)
    ends = np.cumsum(_numbers(counts))
    bounds = np.searchsorted(repeated, ends).tolist()
    begin = start = 0
    for end, bound in zip(ends.tolist(), bounds, strict=True):
        yield (repeated[begin:bound] - start).tolist()
        begin, start = bound, end


def _numbers(path: Path) -> Rows:
    return np.fromfile(path, np.int64)

"""The keys of all shards, which lie on disk in order: read a part of all keys at a time, so that
memory does not grow with the dataset.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from llmos.data.pipeline.clusters import ENTRY, Entries

KEYS = "keys.bin"
KEYS_A_PASS = 2**19
"""Keys compared at a time, which bounds memory: more of them take more passes."""


def drops_file(directory: Path, shard: int) -> Path:
    """Return the file that says what of a shard is to go, where something is."""
    return directory / f"drops-{shard:05d}.bin"


def passes(shards: Sequence[Path], starts: Sequence[int]) -> Iterator[Iterator[Entries]]:
    """Yield the entries of all shards, some keys at a time, all entries of a key together: of each
    shard those it has, in order, their places counted from the shard's start.

    Args:
        shards: directories with the files KEYS.
        starts: what is added to the places of each shard.
    """
    files = [_KeyFile(shard / KEYS) for shard in shards]
    count = max(1, math.ceil(sum(file.count for file in files) / KEYS_A_PASS))
    for number in range(1, count + 1):
        yield _parts(files, starts, number * 2**64 // count)


def _parts(files: Sequence[_KeyFile], starts: Sequence[int], bound: int) -> Iterator[Entries]:
    for file, start in zip(files, starts, strict=False):
        part = file.read_below(bound)
        part["row"] += start
        yield part


class _KeyFile:
    """The keys of a shard, which it hands out in their order."""

    def __init__(self, path: Path) -> None:
        self.count = path.stat().st_size // ENTRY.itemsize
        self._path = path
        self._place = 0

    def read_below(self, bound: int) -> Entries:
        """Return those that come next, up to the first whose first half is ``bound`` or more."""
        begin = self._place
        with self._path.open("rb", buffering=0) as file:

            def half(place: int) -> int:
                file.seek(place * ENTRY.itemsize)
                return int.from_bytes(file.read(8), "little")

            self._place = bisect_left(range(self.count), bound, lo=begin, key=half)
        offset = begin * ENTRY.itemsize
        return np.fromfile(self._path, ENTRY, self._place - begin, offset=offset)

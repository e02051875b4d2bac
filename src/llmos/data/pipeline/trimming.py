"""Which pieces of the records of all shards are there before, and their removal.

Pieces count from 0 in their shard, in order. Of those with the same key a shard keeps the first
alone among its keys, so that a key is in no more entries than there are shards.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
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


def write_pieces(directory: Path, keys: Sequence[Sequence[bytes]]) -> None:
    """Write the keys of the pieces of a shard's records into the directory that is being made:
    those of the first with each key, the places of the others, and each record's number."""
    entries = in_order(entries_of([(key,) for some in keys for key in some]))
    firsts = firsts_in(entries)
    entries[firsts].tofile(directory / KEYS)
    np.sort(entries["row"][~firsts]).tofile(directory / REPEATS)
    np.array([*map(len, keys)], np.int64).tofile(directory / COUNTS)


def write_repeats(directory: Path, shards: Sequence[Path], scratch: Path) -> Trimmed:
    """Write of each shard which of its pieces are there before (`drops_file`).

    Args:
        shards: the directory of each, in order.
        scratch: a folder for what lies on disk meanwhile.
    """
    totals = [int(_numbers(shard / COUNTS).sum()) for shard in shards]
    starts = [0, *accumulate(totals)]
    for parts in passes(shards, starts):
        entries = in_order(np.concatenate([*parts]))
        repeated = np.sort(entries["row"][~firsts_in(entries)])
        bounds = np.searchsorted(repeated, starts)
        for number, (start, begin, end) in enumerate(zip(starts, bounds, bounds[1:], strict=False)):
            if begin < end:
                with (scratch / str(number)).open("ab") as file:
                    file.write((repeated[begin:end] - start).tobytes())
    count = 0
    for number, shard in enumerate(shards):
        found = _numbers(shard / REPEATS)
        if (scratch / str(number)).exists():
            found = np.concatenate([found, _numbers(scratch / str(number))])
        count += len(found)
        if len(found):
            np.sort(found).tofile(drops_file(directory, number))
    return Trimmed(starts[-1], count)


def repeats_by_row(path: Path, shard: Path) -> Iterator[list[int]]:
    """Yield of each record of a shard which of its pieces are to go, by their places among its own.

    Args:
        path: what `drops_file` tells.
        shard: its directory.
    """
    repeated = _numbers(path) if path.exists() else np.zeros(0, np.int64)
    ends = np.cumsum(_numbers(shard / COUNTS))
    bounds = np.searchsorted(repeated, ends).tolist()
    begin = start = 0
    for end, bound in zip(ends.tolist(), bounds, strict=True):
        yield (repeated[begin:bound] - start).tolist()
        begin, start = bound, end


def _numbers(path: Path) -> Rows:
    return np.fromfile(path, np.int64)

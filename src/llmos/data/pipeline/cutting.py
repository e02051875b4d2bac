"""Which windows of the texts of all shards are there before.

Only windows that hold a key which is somewhere else, too, are compared, all of them exactly. They
lie on disk in parts by their hashes, and are compared a part at a time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmos.data.pipeline import keyfiles
from llmos.data.pipeline.clusters import ENTRY, Entries, firsts_in, in_order
from llmos.data.pipeline.keyfiles import drops_file
from llmos.data.pipeline.operator import WindowTrimmer
from llmos.data.pipeline.record import Record
from llmos.data.pipeline.shard import ROWS
from llmos.data.pipeline.trimming import (
    COUNTS,
    Places,
    Trimmed,
    counts_beside,
    repeats_by_row,
    write_repeats,
)
from llmos.storage.parquet import read_rows

MAX_PARTS = 512
FLUSH_WINDOWS = 2**20


def write_cuts(
    directory: Path, shards: Sequence[Path], operator: WindowTrimmer[Any], scratch: Path
) -> Trimmed:
    """Write of each shard which windows of its texts are there before (`drops_file`), by the
    characters at which they begin, and how many characters each record has (`counts_beside`).

    Args:
        shards: the directory of each, in order.
        scratch: a folder for what lies on disk meanwhile.
    """
    shared = scratch / "shared"
    shared.mkdir()
    count = write_repeats(shared, shards, scratch / "keys", every=True).repeated
    parts = math.ceil(count * operator.length / keyfiles.KEYS_A_PASS)
    found = _Windows(operator.length, min(max(1, parts), MAX_PARTS), scratch)
    starts = [0]
    for number, shard in enumerate(shards):
        lengths = []
        end = starts[-1]
        places = repeats_by_row(drops_file(shared, number), shard / COUNTS)
        for row, mine in zip(read_rows(shard / ROWS), places, strict=True):
            record = Record.of_row(row)
            if mine:
                entries = operator.windows(record, mine)
                entries["row"] += end
                found.add(entries, number, starts[-1])
            lengths.append(sum(map(len, record.texts(operator.options.field))))
            end += lengths[-1]
        found.flush(number, starts[-1])
        np.array(lengths, np.int64).tofile(counts_beside(drops_file(directory, number)))
        starts.append(end)
    return found.write(directory, starts)


def windows_among(operator: WindowTrimmer[Any], records: Sequence[Record]) -> list[list[int]]:
    """Return of each of some records which windows are there before, in memory."""
    found, ends = [], [0]
    for record in records:
        entries = operator.windows(record, None)
        entries["row"] += ends[-1]
        found.append(entries)
        ends.append(ends[-1] + sum(map(len, record.texts(operator.options.field))))
    if not found:
        return []
    entries = in_order(np.concatenate(found))
    repeated = np.sort(entries["row"][_is_repeated(entries, operator.length)])
    bounds = np.searchsorted(repeated, ends)
    return [
        (repeated[begin:end] - start).tolist()
        for start, (begin, end) in zip(ends, pairwise(bounds.tolist()), strict=False)
    ]


class _Windows:
    """Windows of all shards, in parts by their hashes.

    Args:
        length: of a window.
        scratch: a folder for them.
    """

    def __init__(self, length: int, parts: int, scratch: Path) -> None:
        self._length, self._parts, self._scratch = length, parts, scratch
        self._places = Places(scratch / "found")
        self._waiting: list[Entries] = []
        self._count = self._held = 0

    def add(self, entries: Entries, shard: int, start: int) -> None:
        """Take those of a record of a shard that begins at ``start``."""
        self._waiting.append(entries)
        self._held += len(entries)
        if self._held >= FLUSH_WINDOWS:
            self.flush(shard, start)

    def flush(self, shard: int, start: int) -> None:
        """Write what is waiting, all of one shard. What is there before among these is found now,
        so that no hash is in a part as often as in the dataset."""
        entries = in_order(np.concatenate([np.empty(0, ENTRY), *self._waiting]))
        self._count += self._held
        self._waiting, self._held = [], 0
        is_repeated = _is_repeated(entries, self._length)
        self._places.add(shard, np.sort(entries["row"][is_repeated]) - start)
        entries = entries[~is_repeated]
        high = entries["high"] >> np.uint64(32)
        parts = (high * np.uint64(self._parts)) >> np.uint64(32)
        bounds = np.searchsorted(parts, np.arange(self._parts + 1, dtype=np.uint64)).tolist()
        for part, (begin, end) in enumerate(pairwise(bounds)):
            if begin < end:
                with self._part(part).open("ab") as file:
                    file.write(entries[begin:end].tobytes())

    def write(self, directory: Path, starts: Sequence[int]) -> Trimmed:
        """Write of each shard which windows are there before."""
        for part in range(self._parts):
            if self._part(part).exists():
                entries = in_order(np.fromfile(self._part(part), ENTRY))
                self._part(part).unlink()
                repeated = np.sort(entries["row"][_is_repeated(entries, self._length)])
                self._places.add_all(repeated, starts)
        shards = range(len(starts) - 1)
        found = sum(self._places.write(drops_file(directory, shard), shard) for shard in shards)
        return Trimmed(self._count, found)

    def _part(self, number: int) -> Path:
        return self._scratch / f"part-{number}.bin"


def _is_repeated(ordered: Entries, length: int) -> NDArray[np.bool_]:
    """Return of entries in order whether the first with the same hash is before each: it does not
    overlap it."""
    is_first = firsts_in(ordered)
    first = ordered["row"][is_first][is_first.cumsum() - 1]
    found: NDArray[np.bool_] = ordered["row"] - first >= length
    return found

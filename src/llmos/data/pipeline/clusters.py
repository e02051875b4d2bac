"""Clusters of records: those that have a key in common are alike, and so is who is alike to them.

Records are places, from 0. Where a folder is given, the arrays of a number a record lie on disk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llmos.data.pipeline.operator import KEY_BYTES

ENTRY = np.dtype([("high", "<u8"), ("low", "<u8"), ("row", "<i8")])
"""A key, and the place of a record that has it."""
_BLOCK_ROWS = 2**20

Rows = NDArray[np.int64]
Entries = NDArray[np.void]


class Clusters:
    """A forest of disjoint sets, in which the least place of a set is its root.

    Args:
        rows: how many records there are.
        folder: where the arrays are to lie; in memory without one.
    """

    def __init__(self, rows: int, folder: Path | None = None) -> None:
        self._rows = rows
        self._folder = folder
        self._above, self._kept = self._numbers("above"), self._numbers("kept")
        self._sizes = self._numbers("sizes")
        for block in self._blocks():
            self._above[block] = block
        self.count = 0
        """Clusters of two and more; known once they are settled, as the next is."""
        self.largest = 0

    def unite(self, entries: Entries) -> Entries:
        """Put records that have a key in common into one cluster; return an entry of each key."""
        ordered = in_order(entries)
        is_first = firsts_in(ordered)
        firsts = ordered[is_first]
        same_as = firsts["row"][is_first.cumsum() - 1]
        self._join(same_as[~is_first], ordered["row"][~is_first])
        return firsts

    def settle(self, weights: NDArray[np.int64]) -> None:
        """Have the heaviest of each cluster stay, of equal ones the first.

        Args:
            weights: of each record, none below 0.
        """
        heaviest = self._numbers("heaviest")
        for rows in self._blocks():
            roots = self._roots(rows)
            np.maximum.at(heaviest, roots, weights[rows])
            np.add.at(self._sizes, roots, 1)
            self._kept[rows] = self._rows
        for rows in self._blocks():
            roots = self._above[rows]
            is_heaviest = weights[rows] == heaviest[roots]
            np.minimum.at(self._kept, roots[is_heaviest], rows[is_heaviest])
            self.count += int((self._sizes[rows] > 1).sum())
            self.largest = max(self.largest, int(self._sizes[rows].max()))

    def kept(self, rows: Rows) -> Rows:
        """Return which record stays of the cluster of each; its own place where it does."""
        return self._kept[self._above[rows]]

    def sizes(self, rows: Rows) -> Rows:
        """Return of how many records the cluster of each is."""
        return self._sizes[self._above[rows]]

    def _join(self, some: Rows, others: Rows) -> None:
        """Put the records at the same places of two lists into the same set."""
        while True:
            some, others = self._roots(some), self._roots(others)
            apart = some != others
            if not apart.any():
                return
            least = np.minimum(some, others)[apart]
            others = np.maximum(some, others)[apart]
            some = least
            np.minimum.at(self._above, others, some)

    def _roots(self, rows: Rows) -> Rows:
        """Return the root of the set of each, to which the way is then one step."""
        while True:
            above = self._above[rows]
            higher = self._above[above]
            if np.array_equal(above, higher):
                return above
            self._above[rows] = higher  # ways are halved: a long chain takes few turns

    def _blocks(self) -> Iterator[Rows]:
        for start in range(0, self._rows, _BLOCK_ROWS):
            yield np.arange(start, min(start + _BLOCK_ROWS, self._rows))

    def _numbers(self, name: str) -> Rows:
        return numbers(self._rows, self._folder / f"{name}.bin" if self._folder else None)


def numbers(count: int, path: Path | None = None) -> Rows:
    """Return so many numbers, all 0; where a path is given, they lie there on disk."""
    if path is None or not count:
        return np.zeros(count, np.int64)
    return np.asarray(np.memmap(path, np.int64, "w+", shape=(count,)))


def entries_of(keys: Sequence[Sequence[bytes]]) -> Entries:
    """Return the keys of records, any number of KEY_BYTES of each, with the records' places."""
    entries = np.empty(sum(map(len, keys)), ENTRY)
    halves = np.frombuffer(b"".join(key for some in keys for key in some), "<u8")
    entries["high"], entries["low"] = halves.reshape(-1, KEY_BYTES // 8).T
    entries["row"] = np.repeat(np.arange(len(keys)), np.array([*map(len, keys)], np.int64))
    return entries


def in_order(entries: Entries) -> Entries:
    """Return entries by their keys; those with the same key stay in the order in which they are."""
    return entries[np.lexsort((entries["low"], entries["high"]))]


def firsts_in(ordered: Entries) -> NDArray[np.bool_]:
    """Return of entries in order whether each is the first with its key."""
    is_first = np.ones(len(ordered), np.bool_)
    is_first[1:] = False
    for half in ("high", "low"):
        is_first[1:] |= ordered[half][1:] != ordered[half][:-1]
    return is_first

"""How many records of all shards have the same key, and how many different values they have; which
of those groups are too small.

Of each group a count is held, and no more values than are told, so that memory does not grow where
all records are of one group either.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from llmos.data.pipeline import keyfiles
from llmos.data.pipeline.clusters import Entries, Rows, entries_of, firsts_in, in_order
from llmos.data.pipeline.keyfiles import KEYS, drops_file, passes
from llmos.data.pipeline.operator import MAX_GROUP_VALUES, Grouper, GroupSize
from llmos.data.pipeline.record import ID, META, Row
from llmos.errors import DataError

if TYPE_CHECKING:
    from llmos.data.pipeline.steps import Keyed

VALUES, FIELDS, SMALLEST = "values.bin", "fields.json", "smallest.json"
SHOWN = 20
"""Of the groups that are too small; the smallest."""
_GROUP = np.dtype([("high", "<u8"), ("low", "<u8"), ("first", "<i8"), ("rows", "<i8")])
_PAIR = np.dtype([("high", "<u8"), ("low", "<u8"), ("value", "<i8")])
_SMALL = np.dtype([("row", "<i8"), ("rows", "<i8"), ("values", "<i8")])


class Grouped(msgspec.Struct):
    """What came of it. ``small`` are the groups that are too small; the least and all different
    values are told up to MAX_GROUP_VALUES."""

    groups: int = 0
    smallest: int = 0
    least_values: int = 0
    small_groups: int = 0
    small_rows: int = 0
    small_values: int = 0


class Shown(msgspec.Struct):
    """A group that is too small, by one of its records.

    Attributes:
        row: its place in the dataset.
    """

    row: int
    rows: int
    values: int


def write_groups(
    directory: Path,
    operator: Grouper[Any],
    keys: Sequence[Sequence[bytes]],
    values: Sequence[int],
    rows: Sequence[Row],
) -> None:
    """Write the keys and values of a shard's records, and the fields that they have, into the
    directory that is being made."""
    in_order(entries_of(keys)).tofile(directory / KEYS)
    np.array(values, np.int64).tofile(directory / VALUES)
    names = [name for name in operator.fields if name not in (ID, META)]
    there = [name for name in names if any(row.get(name) is not None for row in rows)]
    (directory / FIELDS).write_bytes(msgspec.json.encode(there))


def write_small(
    directory: Path, shards: Sequence[Path], operator: Grouper[Any], scratch: Path
) -> Grouped:
    """Write of each shard which records are of groups that are too small (`drops_file`), and some
    of those groups (SMALLEST).

    Args:
        shards: the directory of each, in order.
        scratch: a folder for what lies on disk meanwhile.

    Raises:
        DataError: no record has anything in one of the operator's fields.
    """
    starts = [0, *accumulate((shard / VALUES).stat().st_size // 8 for shard in shards)]
    if starts[-1]:
        there = [msgspec.json.decode((shard / FIELDS).read_bytes()) for shard in shards]
        check_fields(operator, {name for names in there for name in names})
    found, shown = Grouped(), list[tuple[int, int, int, int, int]]()
    together = np.zeros(0, np.int64)
    # All records of a key are in one pass, which is gone through twice.
    twice = (passes(shards, starts) for _ in range(2))
    for parts, again in zip(*twice, strict=True):
        groups, pairs = _counted(parts, shards, starts)
        places = _Places(groups)
        having = places.of(pairs)
        values = np.bincount(having, minlength=len(groups))
        small = (groups["rows"] < operator.least.rows) | (values < operator.least.values)
        _note(found, groups, values, small)
        alike = pairs["value"][small[having]]
        together = np.unique(np.concatenate([together, alike]))[:MAX_GROUP_VALUES]
        shown += _smallest(groups, values, small)
        shown = sorted(shown)[:SHOWN]
        for number, part in enumerate(again):
            is_first = firsts_in(part)
            of = places.of(part[is_first])[is_first.cumsum() - 1]
            rows, of = part["row"][small[of]] - starts[number], of[small[of]]
            _append(scratch / str(number), rows, groups["rows"][of], values[of])
    found.small_values = len(together)
    for number in range(len(shards)):
        if (path := scratch / str(number)).exists():
            np.sort(np.fromfile(path, _SMALL), order="row").tofile(drops_file(directory, number))
    told = [Shown(first, rows, values) for rows, _, _, first, values in shown]
    (directory / SMALLEST).write_bytes(msgspec.json.encode(told))
    return found


def read_small(drops: Path) -> dict[int, GroupSize]:
    """Return the groups of a shard's records that are too small, by the records' places."""
    if not drops.exists():
        return {}
    found = np.fromfile(drops, _SMALL)
    return {row: GroupSize(rows, values) for row, rows, values in found.tolist()}


def read_smallest(directory: Path) -> list[Shown]:
    """Return the smallest groups that are too small, one record of each."""
    return msgspec.json.decode((directory / SMALLEST).read_bytes(), type=list[Shown])


def small_among(
    operator: Grouper[Any], keyed: Sequence[Keyed]
) -> tuple[dict[int, GroupSize], GroupSize]:
    """Return of records in memory what `read_small` does, and the size of all of those.

    Raises:
        DataError: no record has anything in one of the operator's fields.
    """
    if keyed:
        fields = [one.record.fields for one in keyed]
        check_fields(operator, {name for one in fields for name in one if one[name] is not None})
    rows = Counter(one.keys[0] for one in keyed)
    values = defaultdict[bytes, set[int]](set)
    for one in keyed:
        values[one.keys[0]] |= {one.weight} - {0}
    sizes = {key: GroupSize(count, len(values[key])) for key, count in rows.items()}
    least = operator.least
    small = {
        place: sizes[one.keys[0]]
        for place, one in enumerate(keyed)
        if sizes[one.keys[0]].rows < least.rows or sizes[one.keys[0]].values < least.values
    }
    different = {keyed[place].weight for place in small} - {0}
    return small, GroupSize(len(small), len(different))


def check_fields(operator: Grouper[Any], there: set[str]) -> None:
    """Refuse fields that no record has. Raises DataError."""
    for name in operator.fields:
        if name not in there:
            raise DataError(f"no record has anything in {name!r}: name another field")


def _counted(
    parts: Iterator[Entries], shards: Sequence[Path], starts: Sequence[int]
) -> tuple[Entries, Entries]:
    """Return the groups of a pass, and their different values, both in the order of the keys."""
    groups, pairs = _Gathered(_GROUP, _summed), _Gathered(_PAIR, _different)
    for part, shard, start in zip(parts, shards, starts, strict=False):
        if not len(part):
            continue
        is_first = firsts_in(part)
        some = np.empty(int(is_first.sum()), _GROUP)
        some["high"], some["low"] = part["high"][is_first], part["low"][is_first]
        some["first"] = part["row"][is_first]
        some["rows"] = np.diff(np.append(np.flatnonzero(is_first), len(part)))
        groups.add(some)
        values = np.memmap(shard / VALUES, np.int64, "r")[part["row"] - start]
        told = np.empty(int((values > 0).sum()), _PAIR)
        told["high"], told["low"] = part["high"][values > 0], part["low"][values > 0]
        told["value"] = values[values > 0]
        pairs.add(_different(told))
    return groups.all(), pairs.all()


class _Gathered:
    """Arrays put together, and made fewer whenever there are many.

    Args:
        fewer: brings them into order, and those of the same key together.
    """

    def __init__(self, kind: np.dtype[np.void], fewer: Callable[[Entries], Entries]) -> None:
        self._waiting: list[Entries] = [np.empty(0, kind)]
        self._held = 0
        self._fewer = fewer

    def add(self, some: Entries) -> None:
        self._waiting.append(some)
        self._held += len(some)
        if self._held > 2 * keyfiles.KEYS_A_PASS:
            self._waiting, self._held = [self.all()], 0

    def all(self) -> Entries:
        return self._fewer(np.concatenate(self._waiting))


def _summed(groups: Entries) -> Entries:
    """Return groups in order, of each key one: all its records, the first of them in front."""
    ordered = in_order(groups)
    is_first = firsts_in(ordered)
    made = ordered[is_first]
    if len(made):
        made["rows"] = np.add.reduceat(ordered["rows"], np.flatnonzero(is_first))
    return made


def _different(pairs: Entries) -> Entries:
    """Return keys with their values in order, each once, and no more of a key than are told."""
    ordered = pairs[np.lexsort((pairs["value"], pairs["low"], pairs["high"]))]
    is_new = firsts_in(ordered)
    is_new[1:] |= ordered["value"][1:] != ordered["value"][:-1]
    ordered = ordered[is_new]
    is_first = firsts_in(ordered)
    begins = np.flatnonzero(is_first)[is_first.cumsum() - 1]
    told: Entries = ordered[np.arange(len(ordered)) - begins < MAX_GROUP_VALUES]
    return told


class _Places:
    """Where keys are among groups in order."""

    def __init__(self, groups: Entries) -> None:
        self._high, self._low = (np.ascontiguousarray(groups[half]) for half in ("high", "low"))

    def of(self, keys: Entries) -> Rows:
        """Return the place of each, which is there."""
        places = np.searchsorted(self._high, keys["high"])
        while (is_other := self._low[places] != keys["low"]).any():
            places[is_other] += 1  # the one after has the same first half
        return places


def _note(found: Grouped, groups: Entries, values: Rows, small: NDArray[np.bool_]) -> None:
    if not len(groups):
        return
    least = (int(groups["rows"].min()), int(values.min()))
    if found.groups:
        least = (min(found.smallest, least[0]), min(found.least_values, least[1]))
    found.smallest, found.least_values = least
    found.groups += len(groups)
    found.small_groups += int(small.sum())
    found.small_rows += int(groups["rows"][small].sum())


def _smallest(
    groups: Entries, values: Rows, small: NDArray[np.bool_]
) -> list[tuple[int, int, int, int, int]]:
    """Return the smallest of those that are too small, by what does not depend on the order."""
    some, different = groups[small], values[small]
    order = np.lexsort((some["low"], some["high"], some["rows"]))[:SHOWN]
    columns = (*(some[name][order] for name in ("rows", "high", "low", "first")), different[order])
    return list(zip(*(column.tolist() for column in columns), strict=True))


def _append(path: Path, *columns: Rows) -> None:
    """Add records of groups that are too small to a file: columns as _SMALL has them."""
    made = np.empty(len(columns[0]), _SMALL)
    for name, column in zip(_SMALL.names or (), columns, strict=True):
        made[name] = column
    if len(made):
        with path.open("ab") as file:
            file.write(made.tobytes())

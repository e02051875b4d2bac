"""What a process of a job does that deals the rows of datasets out: a shard's keys, its rows by
part, and the rows that a new shard takes of others.

A key is a number below KEYS that says where a row stands: rows below a limit are of one part, those
from it on of the next. Equal keys never part.
"""

from __future__ import annotations

import datetime
import hashlib
import math
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from llmos.data.pipeline.record import ID, Row
from llmos.data.pipeline.shard import Done, finish, making
from llmos.errors import DataError
from llmos.storage.blobs import BlobStore
from llmos.storage.parquet import read_rows

How = Literal["random", "group", "label", "time"]
"""What a key is made of: a row's id, its group, its id among those of its label, its time."""
KEYS = 2**63
KEY_FILE, LABEL_FILE, VALUE_FILE = "keys.bin", "labels.bin", "values.json"
MAX_LABELS = 1000
_TOP = 2**63


class KeyTask(msgspec.Struct, frozen=True, tag="keys"):
    """Make the keys of a shard's rows.

    Attributes:
        digest: of the shard.
        field: that of the group, the label or the time.
        out: the directory to make.
    """

    home: str
    digest: str
    how: How
    field: str
    seed: int
    out: str


class DealTask(msgspec.Struct, frozen=True, tag="deal"):
    """Write a shard's rows into its parts.

    Attributes:
        keys: the directory of its keys.
        limits: of each label the keys that the parts but the last end below.
        outs: the directory to make for each part.
    """

    home: str
    digest: str
    keys: str
    limits: dict[str, list[int]]
    outs: list[str]


class Slice(msgspec.Struct, frozen=True):
    """Some of a shard's rows: of those whose key is below ``limit``, ``take`` behind ``skip``.

    Attributes:
        prefix: put before each row's id.
    """

    digest: str
    keys: str
    limit: int
    skip: int
    take: int
    prefix: str


class GatherTask(msgspec.Struct, frozen=True, tag="gather"):
    """Make a shard of rows of others, in an order that is drawn."""

    home: str
    slices: list[Slice]
    seed: int
    out: str


def run_keys(task: KeyTask) -> None:
    """Make keys, unless that is done.

    Raises:
        CorruptBlobError: the shard is damaged.
        DataError: a row has nothing in the field.
    """
    import numpy as np

    if Path(task.out).exists():
        return
    blobs = BlobStore(Path(task.home) / "blobs")
    blobs.verify(task.digest)
    keys, labels, values = [], [], dict[str, int]()
    for row in read_rows(blobs.path(task.digest)):
        keys.append(_key(task, row))
        if task.how == "label":
            label = str(_value(row, task.field))
            labels.append(values.setdefault(label, len(values)))
            if len(values) > MAX_LABELS:
                raise DataError(
                    f"{task.field!r} has more than {MAX_LABELS:,} values: it is no label"
                )
    with making(Path(task.out)) as directory:
        np.array(keys, np.uint64).tofile(directory / KEY_FILE)
        if task.how == "label":
            np.array(labels, np.uint16).tofile(directory / LABEL_FILE)
            (directory / VALUE_FILE).write_bytes(msgspec.json.encode(list(values)))


def run_deal(task: DealTask) -> None:
    """Write the parts of a shard that are not done."""
    if all(Path(out).exists() for out in task.outs):
        return
    path = BlobStore(Path(task.home) / "blobs").path(task.digest)
    parts: list[list[Row]] = [[] for _ in task.outs]
    for row, part in zip(read_rows(path), parts_of(Path(task.keys), task.limits), strict=True):
        parts[part].append(row)
    for out, rows in zip(task.outs, parts, strict=True):
        _write(Path(out), rows)


def run_gather(task: GatherTask) -> None:
    """Make a shard, unless that is done."""
    if Path(task.out).exists():
        return
    blobs = BlobStore(Path(task.home) / "blobs")
    rows = [
        row for one in task.slices for row in _taken(blobs.path(one.digest), one, Path(one.keys))
    ]
    rows.sort(key=lambda row: _hash(task.seed, row[ID]))
    _write(Path(task.out), rows)


def read_keys(directory: Path) -> Any:
    """Return a shard's keys, ``[rows]`` of uint64, memory-mapped."""
    return _mapped(directory / KEY_FILE, "uint64")


def read_labels(directory: Path) -> tuple[Any, list[str]]:
    """Return the number of each row's label, ``[rows]``, and the labels."""
    labels = _mapped(directory / LABEL_FILE, "uint16")
    return labels, msgspec.json.decode((directory / VALUE_FILE).read_bytes(), type=list[str])


def parts_of(keys: Path, limits: dict[str, list[int]]) -> list[int]:
    """Return the part of each row of a shard, from 0.

    Args:
        limits: of each label; without labels that of "" is for all.
    """
    import numpy as np

    found = read_keys(keys)
    if not (keys / LABEL_FILE).exists():
        parts = np.searchsorted(np.array(limits[""], np.uint64), found, side="right")
        return list(map(int, parts))
    labels, values = read_labels(keys)
    parts = np.zeros(len(found), np.int64)
    for number, label in enumerate(values):
        places = np.flatnonzero(labels == number)
        own = np.array(limits[label], np.uint64)
        parts[places] = np.searchsorted(own, found[places], side="right")
    return list(map(int, parts))


def limits_for(keys: Sequence[Any], counts: Sequence[int]) -> list[int]:
    """Return of each count the limit below which so many keys are, as near as equal keys allow.

    Only what lies about the limits is in memory: keys are counted by their first 16 bits, and those
    that share them with a limit are sorted.
    """
    import numpy as np

    shift = np.uint64(47)
    tops = np.zeros(2**16, np.int64)
    for some in keys:
        tops += np.bincount((some >> shift).astype(np.int64), minlength=2**16)
    ends = np.cumsum(tops)
    limits = []
    for count in counts:
        if not 0 < count < ends[-1]:
            limits.append(0 if count <= 0 else KEYS)
            continue
        top = int(np.searchsorted(ends, count, side="right"))
        near = np.sort(np.concatenate([some[some >> shift == top] for some in keys]))
        place = count - int(ends[top] - tops[top])
        below, upto = (int(np.searchsorted(near, near[place], side)) for side in ("left", "right"))
        limits.append(int(near[place]) + (place - below > upto - place))
    return limits


def _key(task: KeyTask, row: Row) -> int:
    if task.how == "time":
        return _ordered(_time(row, task.field))
    of = _value(row, task.field) if task.how == "group" else row[ID]
    return _hash(task.seed, of if isinstance(of, str) else msgspec.json.encode(of).decode())


def _hash(seed: int, text: str) -> int:
    digest = hashlib.blake2b(f"{seed}\x1f{text}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def _value(row: Row, field: str) -> Any:
    value = row.get(field)
    if value is None:
        has = ", ".join(name for name in row if name != ID)
        raise DataError(f"the row {row[ID]!r} has nothing in {field!r}, only {has}")
    return value


def _time(row: Row, field: str) -> float:
    value = _value(row, field)
    if isinstance(value, str):
        try:
            at = datetime.datetime.fromisoformat(value.strip())
        except ValueError:
            value = None
        else:
            return (at if at.tzinfo else at.replace(tzinfo=datetime.UTC)).timestamp()
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise DataError(
            f"{field!r} of the row {row[ID]!r} is neither a number nor an ISO 8601 time"
        )
    return float(value)


def _ordered(number: float) -> int:
    """Return a key that is larger where the number is: a double's bits are in order of size."""
    bits = int.from_bytes(struct.pack(">d", number + 0.0), "big")
    return (bits ^ _TOP if bits < _TOP else bits ^ (2 * _TOP - 1)) >> 1


def _taken(path: Path, one: Slice, keys: Path) -> Iterator[Row]:
    seen = 0
    for row, key in zip(read_rows(path), read_keys(keys).tolist(), strict=True):
        if key >= one.limit:
            continue
        seen += 1
        if seen > one.skip + one.take:
            return
        if seen > one.skip:
            yield {**row, ID: f"{one.prefix}{row[ID]}"}


def _write(out: Path, rows: list[Row]) -> None:
    if out.exists():
        return
    with making(out) as directory:
        done = Done(len(rows), len(rows), rejected=0, schema={}, tallies={})
        finish(directory, rows, done, is_last=True)


def _mapped(path: Path, kind: str) -> Any:
    import numpy as np

    if not path.stat().st_size:
        return np.zeros(0, kind)
    return np.memmap(path, kind, "r")


def num_keys(directory: Path) -> int:
    """Return how many rows a shard has."""
    return (directory / KEY_FILE).stat().st_size // 8

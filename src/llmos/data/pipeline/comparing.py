"""What a process does to compare the records of all shards: which are alike, and who stays, or how
many there are of each kind.

Their keys lie in a file of each shard, in order, and are compared a part of all keys at a time, so
that memory does not grow with the dataset.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np

from llmos.data.pipeline.clusters import Clusters, Rows, entries_of, in_order, numbers
from llmos.data.pipeline.cutting import write_cuts
from llmos.data.pipeline.grouping import Grouped, write_groups, write_small
from llmos.data.pipeline.keyfiles import KEYS, drops_file, passes
from llmos.data.pipeline.operator import Comparer, Grouper, Trimmer, WindowTrimmer
from llmos.data.pipeline.record import ID, Record
from llmos.data.pipeline.registry import make_operator
from llmos.data.pipeline.shard import ROWS, StepSpec, making
from llmos.data.pipeline.steps import CLUSTER_SCHEMA
from llmos.data.pipeline.trimming import Trimmed, write_repeats
from llmos.storage.blobs import BlobStore
from llmos.storage.parquet import num_rows_in, read_column, read_rows, write_rows

WEIGHTS, COMPARED = "weights.bin", "compared.json"
_DROP_SCHEMA = {"row": "integer", "reason": "string"}


class CompareTask(msgspec.Struct, frozen=True, tag="compare"):
    """Find which records of all shards are alike, and which of those stay; or which pieces are
    repeated; or which records are of groups that are too small.

    Attributes:
        shards: the directory of each, in order.
        out: the directory to make.
    """

    shards: list[str]
    step: StepSpec
    seed: int
    out: str


class GroupTask(msgspec.Struct, frozen=True, tag="group"):
    """Make the keys of a shard's rows, of an operator that goes by how many are alike.

    Attributes:
        digest: of the shard.
        out: the directory to make.
    """

    home: str
    digest: str
    step: StepSpec
    out: str


class Compared(msgspec.Struct):
    """What came of it: clusters of two and more records, and the largest one's records."""

    clusters: int
    largest: int


def write_keys(directory: Path, keys: Sequence[Sequence[bytes]], weights: Sequence[int]) -> None:
    """Write the keys and weights of a shard's records into the directory that is being made."""
    in_order(entries_of(keys)).tofile(directory / KEYS)
    np.array(weights, np.int64).tofile(directory / WEIGHTS)


def run_group(task: GroupTask) -> None:
    """Make keys, unless that is done.

    Raises:
        CorruptBlobError: the shard is damaged.
        DiskFullError: there is no room.
    """
    if Path(task.out).exists():
        return
    operator = make_operator(task.step.name, task.step.options, 0)
    assert isinstance(operator, Grouper)
    blobs = BlobStore(Path(task.home) / "blobs")
    blobs.verify(task.digest)
    rows = list(read_rows(blobs.path(task.digest)))
    records = [Record.of_row(row) for row in rows]
    keys, values = [*map(operator.keys, records)], [*map(operator.value, records)]
    with making(Path(task.out)) as directory:
        write_groups(directory, operator, keys, values, rows)


def run_compare(task: CompareTask) -> None:
    """Compare the records of all shards, unless that is done.

    Writes of each shard the places, from 0, and reasons of the records that go (`drops_file`), and
    its part of the table of clusters (`clusters_file`); of a trimmer what `trimming` writes, of a
    grouper what `grouping` does.

    Raises:
        DataError, PipelineError: the operator cannot be used.
        DiskFullError: there is no room.
    """
    if Path(task.out).exists():
        return
    operator = make_operator(task.step.name, task.step.options, task.seed)
    shards = [Path(shard) for shard in task.shards]
    done: Compared | Trimmed | Grouped
    with making(Path(task.out)) as directory:
        with tempfile.TemporaryDirectory(dir=directory) as scratch:
            if isinstance(operator, WindowTrimmer):
                done = write_cuts(directory, shards, operator, Path(scratch))
            elif isinstance(operator, Trimmer):
                done = write_repeats(directory, shards, Path(scratch))
            elif isinstance(operator, Grouper):
                done = write_small(directory, shards, operator, Path(scratch))
            else:
                assert isinstance(operator, Comparer)
                found = _Comparison(shards, Path(scratch))
                for number, members in enumerate(found.members()):
                    _write(directory, number, task.step.number, operator, members)
                done = Compared(found.clusters.count, found.clusters.largest)
        (directory / COMPARED).write_bytes(msgspec.json.encode(done))


def read_compared(directory: Path) -> dict[str, int]:
    """Return what came of a comparison: as `Compared`, `Trimmed` or `Grouped` has it."""
    return msgspec.json.decode((directory / COMPARED).read_bytes(), type=dict[str, int])


def clusters_file(directory: Path, shard: int) -> Path:
    """Return the file of a shard's records that are in clusters, where some are."""
    return directory / f"clusters-{shard:05d}.parquet"


class _Member(msgspec.Struct):
    """A record that is not alone in its cluster."""

    row: int
    """Its place in its shard."""
    id: str
    kept_id: str
    """Of the record that stays."""
    is_kept: bool


class _Comparison:
    """The records of all shards in clusters.

    Args:
        scratch: a folder for what lies on disk meanwhile.
    """

    def __init__(self, shards: Sequence[Path], scratch: Path) -> None:
        self._shards = shards
        self._scratch = scratch
        self._starts = [0, *accumulate(num_rows_in(shard / ROWS) for shard in shards)]
        self.clusters = Clusters(self._starts[-1], scratch)
        self._unite()
        self.clusters.settle(self._weights())

    def members(self) -> Iterator[list[_Member]]:
        """Yield of each shard the records that are not alone."""
        clusters = self.clusters
        places = numbers(self._starts[-1], self._scratch / "places.bin")
        with (self._scratch / "ids.bin").open("w+b") as kept_ids:
            for rows, ids in self._shared():
                for row in rows[clusters.kept(rows) == rows].tolist():
                    places[row] = kept_ids.tell()
                    _write_text(kept_ids, ids[row])
            for start, (rows, ids) in zip(self._starts, self._shared(), strict=False):
                found = []
                for row, kept in zip(rows.tolist(), clusters.kept(rows).tolist(), strict=True):
                    kept_ids.seek(places[kept])
                    kept_id = _read_text(kept_ids)
                    found.append(_Member(row - start, ids[row], kept_id, row == kept))
                yield found

    def _unite(self) -> None:
        for parts in passes(self._shards, self._starts):
            firsts = [self.clusters.unite(part) for part in parts]
            self.clusters.unite(np.concatenate(firsts))

    def _weights(self) -> Rows:
        weights = numbers(self._starts[-1], self._scratch / "weights.bin")
        for shard, (start, end) in zip(self._shards, pairwise(self._starts), strict=True):
            weights[start:end] = np.fromfile(shard / WEIGHTS, np.int64)
        return weights

    def _shared(self) -> Iterator[tuple[Rows, dict[int, str]]]:
        """Yield of each shard the records that are not alone: their places, and ids by place."""
        for shard, (start, end) in zip(self._shards, pairwise(self._starts), strict=True):
            rows = np.arange(start, end)
            rows = rows[self.clusters.sizes(rows) > 1]
            ids = read_column(shard / ROWS, ID) if len(rows) else []
            yield rows, {row: ids[row - start] for row in rows.tolist()}


def _write(
    directory: Path, shard: int, step: int, operator: Comparer[Any], members: list[_Member]
) -> None:
    if not members:
        return
    drops = [
        {"row": one.row, "reason": operator.reason(one.kept_id)}
        for one in members
        if not one.is_kept
    ]
    if drops:
        write_rows(drops_file(directory, shard), drops, _DROP_SCHEMA)
    clusters = [
        {"step": step, "cluster": one.kept_id, "id": one.id, "kept": one.is_kept} for one in members
    ]
    write_rows(clusters_file(directory, shard), clusters, CLUSTER_SCHEMA)


def _write_text(file: IO[bytes], text: str) -> None:
    encoded = text.encode()
    file.write(len(encoded).to_bytes(4, "little") + encoded)


def _read_text(file: IO[bytes]) -> str:
    return file.read(int.from_bytes(file.read(4), "little")).decode()

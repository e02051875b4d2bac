"""What a process of a pipeline does with one shard: rows in, rows and side tables out.

What it makes lies in one directory, which appears whole under its name: that is the mark that the
shard is done. The same shard gives the same bytes, whoever does it.
"""

from __future__ import annotations

import contextlib
import shutil
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec

from llmos.data.datasets.stats import Stats, row_hash
from llmos.data.pipeline.asking import Ask
from llmos.data.pipeline.operator import (
    Collective,
    Consulting,
    Grouper,
    GroupSize,
    Trimmer,
    WindowTrimmer,
)
from llmos.data.pipeline.record import ID, Record, Row
from llmos.data.pipeline.registry import make_operator
from llmos.data.pipeline.steps import SIDE_SCHEMA, Outcome, Step, Tally, batched
from llmos.storage.blobs import BlobStore
from llmos.storage.files import disk_errors, sync_directory
from llmos.storage.parquet import (
    Schema,
    num_rows_in,
    read_rows,
    schema_of,
    sync_tree,
    write_rows,
)

ROWS, DROPPED, REJECTED = "rows.parquet", "dropped.parquet", "rejected.parquet"
HASHES, DONE = "hashes.bin", "done.json"


class StepSpec(msgspec.Struct, frozen=True):
    """One step: its number in the pipeline, from 1, its operator, and all of its options."""

    number: int
    name: str
    options: dict[str, Any]


class ShardTask(msgspec.Struct, frozen=True, tag="shard"):
    """Run steps over a shard.

    Attributes:
        source: the file of its rows.
        digest: of that file where it is a blob, which is checked; empty else.
        settles: the step before, which compared all records; the file ``drops``, where it is
            there, says which of them go, or which pieces of them.
        indexes: the folders in which steps find what they look up, by their numbers.
        hides: whether no text is shown of records that are dropped, rejected or changed.
        models: where the files lie that operators read of models, by the models' names.
        is_last: whether the rows are the dataset's.
        out: the directory to make.
    """

    home: str
    source: str
    digest: str
    steps: list[StepSpec]
    seed: int
    out: str
    settles: StepSpec | None = None
    drops: str = ""
    indexes: dict[str, str] = {}
    is_last: bool = False
    models: dict[str, str] = {}
    hides: bool = False


class Done(msgspec.Struct):
    """What is known of a shard that is done."""

    rows: int
    read: int
    rejected: int
    schema: Schema
    tallies: dict[str, Tally]
    """By the number of the step."""
    stats: Stats | None = None


def run_shard(task: ShardTask, ask: Ask) -> None:
    """Do a shard, unless it is done.

    Args:
        ask: of models, for the operators that do.

    Raises:
        CorruptBlobError: the file of its rows is damaged.
        DataError, PipelineError: an operator cannot be used.
        DiskFullError: there is no room.
    """
    if Path(task.out).exists():
        return
    if task.digest:
        BlobStore(Path(task.home) / "blobs").verify(task.digest)
    outcome = Outcome()
    steps = [_step(spec, task) for spec in task.steps]
    settling = _step(task.settles, task) if task.settles else None
    for step in steps:
        step.operator.ask = ask
    read = num_rows_in(Path(task.source))
    records: Iterator[Record] = map(Record.of_row, read_rows(Path(task.source)))
    if settling is not None:
        records = _settled(settling, records, task, outcome)
    rows: list[Row] = []
    keys: list[Sequence[bytes]] = []
    weights: list[int] = []
    last = steps[-1].operator if steps else None
    for batch in batched(records):
        for step in steps:
            batch = step.apply(batch, outcome)
        if isinstance(last, Collective):
            keyed = steps[-1].keyed(batch, outcome)
            keys += [one.keys for one in keyed]
            weights += [one.weight for one in keyed]
            batch = [one.record for one in keyed]
        rows += [record.to_row() for record in batch]
    used = [*steps, settling] if settling is not None else steps
    done = Done(
        rows=len(rows),
        read=read,
        rejected=len(outcome.rejected),
        schema={},
        tallies={str(step.number): step.tally for step in used},
    )
    with making(Path(task.out)) as directory:
        write_rows(directory / DROPPED, outcome.dropped, SIDE_SCHEMA)
        write_rows(directory / REJECTED, outcome.rejected, SIDE_SCHEMA)
        if isinstance(last, Collective):
            _write_keys(directory, last, keys, weights, rows)
        finish(directory, rows, done, is_last=task.is_last)


def _write_keys(
    directory: Path,
    operator: Collective[Any],
    keys: Sequence[Sequence[bytes]],
    weights: Sequence[int],
    rows: Sequence[Row],
) -> None:
    """Write what records may have in common into the directory that is being made."""
    if isinstance(operator, Trimmer):
        from llmos.data.pipeline.trimming import write_pieces

        write_pieces(directory, keys, copies=2 if isinstance(operator, WindowTrimmer) else 1)
    elif isinstance(operator, Grouper):
        from llmos.data.pipeline.grouping import write_groups

        write_groups(directory, operator, keys, weights, rows)
    else:
        from llmos.data.pipeline.comparing import write_keys

        write_keys(directory, keys, weights)


def finish(directory: Path, rows: Sequence[Row], done: Done, *, is_last: bool) -> None:
    """Write a shard's rows into the directory that is being made, and what is known of it."""
    schema = schema_of(rows) or {ID: "string"}
    done.schema = write_rows(directory / ROWS, rows, schema)
    if is_last:
        done.stats = Stats()
        for row in rows:
            done.stats.count(row)
        (directory / HASHES).write_bytes(b"".join(map(row_hash, rows)))
    (directory / DONE).write_bytes(msgspec.json.encode(done))


def read_done(directory: Path) -> Done:
    """Return what is known of a shard that is done."""
    return msgspec.json.decode((directory / DONE).read_bytes(), type=Done)


def _settled(
    step: Step, records: Iterator[Record], task: ShardTask, outcome: Outcome
) -> Iterator[Record]:
    path = Path(task.drops)
    if isinstance(step.operator, Trimmer):
        from llmos.data.pipeline.trimming import COUNTS, counts_beside, repeats_by_row

        has_windows = isinstance(step.operator, WindowTrimmer)
        counts = counts_beside(path) if has_windows else Path(task.source).with_name(COUNTS)
        yield from step.trimmed(records, repeats_by_row(path, counts), outcome)
        return
    if isinstance(step.operator, Grouper):
        from llmos.data.pipeline.comparing import read_compared
        from llmos.data.pipeline.grouping import read_small

        found = read_compared(path.parent)
        together = GroupSize(found["small_rows"], found["small_values"])
        yield from step.settled(records, read_small(path), together, outcome)
        return
    reasons = {row["row"]: row["reason"] for row in read_rows(path)} if path.exists() else {}
    for row, record in enumerate(records):
        if row in reasons:
            step.tally.kept -= 1
            step.drop(record, reasons[row], outcome)
        else:
            yield record


def _step(spec: StepSpec, task: ShardTask) -> Step:
    operator = make_operator(spec.name, spec.options, task.seed)
    operator.models = {name: Path(directory) for name, directory in task.models.items()}
    folder = task.indexes.get(str(spec.number))
    if folder is not None:
        assert isinstance(operator, Consulting)
        operator.use_index(Path(folder))
    return Step(spec.number, spec.name, operator, hides=task.hides)


@contextlib.contextmanager
def making(target: Path) -> Iterator[Path]:
    """Give a directory to fill, which gets its name once that went well.

    Where another has made it meanwhile, that one stays.
    """
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        with disk_errors():
            partial.mkdir(parents=True)
            yield partial
            sync_tree(partial)
            if not target.exists():
                partial.rename(target)
                sync_directory(target.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def tally_dict(tally: Tally) -> dict[str, Any]:
    """Return a tally as plain JSON, without its seconds, which no two runs share."""
    told = asdict(tally)
    del told["seconds"]
    return {**told, "dropped": dict(sorted(tally.dropped.items()))}

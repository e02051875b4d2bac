"""From shards that are done to a dataset's version: one schema, side tables, head, manifest."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from llmos.data.datasets.plots import draw
from llmos.data.datasets.sampled import describe_sample, text_field
from llmos.data.datasets.stats import Stats, count_duplicates
from llmos.data.pipeline.record import ID, Row
from llmos.data.pipeline.shard import HASHES, ROWS, read_done
from llmos.data.pipeline.steps import CLUSTER_SCHEMA, SIDE_SCHEMA
from llmos.storage.parquet import Schema, append_all, merged, num_rows_in, read_rows, write_rows
from llmos.types import FileRef, NewVersion

if TYPE_CHECKING:
    from llmos.kernel.context import JobContext

HEAD, DROPPED, REJECTED = "head.jsonl", "dropped.parquet", "rejected.parquet"
PLOTS = "plots.png"
CLUSTERS = "clusters.parquet"
HEAD_ROWS = 100
HEAD_CHARS = 2000
"""Of a text in the head; longer ones are cut."""
HEAD_ROW_BYTES = 2**16
HEAD_ITEMS = 50


@dataclass(frozen=True, slots=True)
class Parts:
    """What a dataset is made of: the files of each shard, in order."""

    rows: list[Path]
    schemas: list[Schema]
    hashes: list[Path]
    dropped: list[Path]
    rejected: list[Path]
    stats: Stats
    clusters: list[Path] = field(default_factory=list)
    """Files of the table of records that are not alone, where some are."""

    @classmethod
    def of(cls, directories: Sequence[Path]) -> Parts:
        """Return what shards that are done make, of which nothing was dropped or rejected."""
        done = [read_done(directory) for directory in directories]
        stats = Stats()
        for one in done:
            stats.add(one.stats or Stats())
        return cls(
            rows=[directory / ROWS for directory in directories],
            schemas=[one.schema for one in done],
            hashes=[directory / HASHES for directory in directories],
            dropped=[],
            rejected=[],
            stats=stats,
        )


def publish(
    context: JobContext,
    name: str,
    parts: Parts,
    about: Mapping[str, Any],
    inputs: Sequence[str],
    also: Mapping[str, FileRef] | None = None,
) -> NewVersion:
    """Return the version that a job ends with; its files are in the store.

    Args:
        parts: of at least one row.
        about: further keys of its manifest, "rejected" among them.
        inputs: its lineage.
        also: further files of it.
    """
    work = context.checkpoint_dir / "version" / name
    work.mkdir(parents=True, exist_ok=True)
    kept = [number for number, path in enumerate(parts.rows) if num_rows_in(path)]
    schema = merged(parts.schemas[number] for number in kept)
    files = dict(also or {})
    shards: list[dict[str, Any]] = []
    for place, number in enumerate(kept):
        context.raise_if_cancelled()
        context.wait_while_paused()
        filename = shard_filename(place)
        path = _conformed(parts.rows[number], parts.schemas[number], schema, work / filename)
        files[filename] = context.blobs.put_file(path, link=True)
        shards.append({"file": filename, "rows": num_rows_in(path)})
    counts = {}
    for filename, sources, columns in (
        (DROPPED, parts.dropped, SIDE_SCHEMA),
        (REJECTED, parts.rejected, SIDE_SCHEMA),
        (CLUSTERS, parts.clusters, CLUSTER_SCHEMA),
    ):
        counts[filename] = append_all(work / filename, sources, columns)
        if counts[filename]:
            files[filename] = context.blobs.put_file(work / filename)
    files[HEAD] = context.blobs.put_bytes(_head(parts.rows[number] for number in kept))
    duplicates = count_duplicates(parts.hashes)
    sample = _sampled([parts.rows[number] for number in kept], parts.stats)
    outcomes = {"different": parts.stats.rows - duplicates, "duplicates": duplicates}
    outcomes |= {"dropped": counts[DROPPED], "rejected": about["rejected"]}
    files[PLOTS] = context.blobs.put_bytes(_drawn(context, parts.stats, sample, outcomes))
    manifest = {
        "rows": sum(shard["rows"] for shard in shards),
        "schema": schema,
        "shards": shards,
        "dropped": counts[DROPPED],
        "stats": parts.stats.to_dict() | {"duplicates": duplicates, "sample": sample},
        **about,
    }
    return NewVersion("dataset", name, files, manifest, tuple(inputs))


def _sampled(shards: Sequence[Path], stats: Stats) -> dict[str, Any] | None:
    field = text_field(stats.fields)
    return None if field is None else describe_sample(shards, field)


def _drawn(
    context: JobContext,
    stats: Stats,
    sample: Mapping[str, Any] | None,
    outcomes: Mapping[str, int],
) -> bytes:
    os.environ.setdefault("MPLCONFIGDIR", str(context.home / "cache" / "matplotlib"))
    return draw(stats, sample, outcomes)


def file_refs(files: Mapping[str, Mapping[str, Any]]) -> dict[str, FileRef]:
    """Return files that a job was told of as ``{filename: {"digest", "size"}}``."""
    return {name: FileRef(**told) for name, told in files.items()}


def shard_filename(number: int) -> str:
    """Return the name of a shard among a version's files."""
    return f"data-{number:05d}.parquet"


def _conformed(path: Path, own: Schema, schema: Schema, target: Path) -> Path:
    """Return a file of the same rows whose columns are those of the whole dataset."""
    if list(own.items()) == list(schema.items()):
        return path
    write_rows(target, list(read_rows(path)), schema)
    return target


def _head(shards: Iterator[Path]) -> bytes:
    rows = islice((row for path in shards for row in read_rows(path)), HEAD_ROWS)
    return b"".join(msgspec.json.encode(cut(row)) + b"\n" for row in rows)


def cut(row: Row) -> Row:
    """Return a row as it is shown: long texts and lists are cut. Of a row that is too large even so
    only its id and size are told."""
    shown: Row = _cut(row)
    num_bytes = len(msgspec.json.encode(shown))
    if num_bytes <= HEAD_ROW_BYTES:
        return shown
    return {ID: _cut(row[ID]), "…": f"{num_bytes} bytes, too many to show"}


def _cut(value: Any) -> Any:
    match value:
        case str() if len(value) > HEAD_CHARS:
            return value[:HEAD_CHARS] + "…"
        case dict():
            return {name: _cut(one) for name, one in value.items()}
        case list():
            return [_cut(one) for one in value[:HEAD_ITEMS]]
    return value


def side_reasons(rows: Sequence[Row]) -> str:
    """Return the first few of a side table's rows for a message."""
    ids: dict[str, list[str]] = {}
    for row in rows[:3]:
        ids.setdefault(str(row["reason"]), []).append(str(row["id"]))
    return "; ".join(f"{', '.join(those)}: {reason}" for reason, those in ids.items())

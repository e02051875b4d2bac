"""What a process of an adding job does: a few files in, shards of rows out, and what was bad."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from llmos.data.datasets.readers import Bad, Part, Source, Unit, parts_of, read, reader_of
from llmos.data.datasets.stats import Stats, row_hash
from llmos.data.formats.lines import encoding_of
from llmos.data.formats.parser import Parser
from llmos.data.pipeline.record import Row
from llmos.data.pipeline.shard import DONE, REJECTED, making
from llmos.data.pipeline.steps import EXCERPT_CHARS, SIDE_SCHEMA
from llmos.errors import DataError
from llmos.storage.blobs import BlobStore
from llmos.storage.parquet import Schema, write_rows

SHARD_ROWS = 10_000
SHARD_BYTES = 32 * 2**20
"""A shard is full with so many rows, or about so many bytes of them."""
MAX_BAD_LISTED = 10_000
"""Of the files of a task; more are only counted."""
READING = "read"
"""The operator that rows which cannot be read are noted under, as step 0."""


class FileSpec(msgspec.Struct, frozen=True):
    """An uploaded file: its blob, what its user calls it, and what of it is read; all unless
    told."""

    digest: str
    shown: str
    format: str
    part: Part | None = None


class CutTask(msgspec.Struct, frozen=True, tag="cut"):
    """Find out where a large file can be cut, into parts of about ``part_bytes``.

    Attributes:
        out: the directory to make.
    """

    home: str
    file: FileSpec
    encoding: str | None
    unit: Unit | None
    columns: list[str]
    part_bytes: int
    out: str


class ReadTask(msgspec.Struct, frozen=True, tag="read"):
    """Read files, one after the other. Of a part of one, the whole was verified when it was cut.

    Attributes:
        stops: whether the first bad row is an error, and not noted and passed over.
        out: the directory to make.
    """

    home: str
    files: list[FileSpec]
    encoding: str | None
    unit: Unit | None
    columns: list[str]
    stops: bool
    out: str


class ReadDone(msgspec.Struct):
    """What is known of files that were read: one shard a place in ``rows`` and ``schemas``, one
    file, or part of one, a place in ``files``, each ``{"name", "digest", "format", "encoding",
    "rows", "bad"}``."""

    rows: list[int] = []
    schemas: list[Schema] = []
    files: list[dict[str, Any]] = []
    bad: int = 0
    stats: Stats = msgspec.field(default_factory=Stats)


def shard_name(number: int) -> str:
    """Return the name of a shard's file in the directory of its task."""
    return f"rows-{number:05d}.parquet"


def hashes_name(number: int) -> str:
    """Return the name of the file of the hashes of a shard's rows."""
    return f"hashes-{number:05d}.bin"


def run_cut(task: CutTask) -> None:
    """Cut a file into parts, unless that is done.

    Raises:
        DataError: it cannot be read at all.
        CorruptBlobError: it was damaged.
    """
    if Path(task.out).exists():
        return
    blobs = BlobStore(Path(task.home) / "blobs")
    blobs.verify(task.file.digest)
    parts = parts_of(_source(task, task.file, blobs.path(task.file.digest)), task.part_bytes)
    with making(Path(task.out)) as directory:
        (directory / DONE).write_bytes(msgspec.json.encode(parts))


def read_cut(directory: Path) -> list[Part]:
    """Return the parts that a file was cut into, none where it cannot be cut."""
    return msgspec.json.decode((directory / DONE).read_bytes(), type=list[Part])


def run_read(task: ReadTask) -> None:
    """Read files into shards, unless that is done.

    Raises:
        DataError: a file cannot be read at all, or has a bad row where those are errors.
        CorruptBlobError: a file was damaged.
        DiskFullError: there is no room.
    """
    if Path(task.out).exists():
        return
    blobs, done = BlobStore(Path(task.home) / "blobs"), ReadDone()
    with making(Path(task.out)) as directory:
        writer = _Writer(directory, done)
        listed: list[Row] = []
        with Parser() as parser, TemporaryDirectory(dir=directory) as folder:
            for file in task.files:
                if file.part is None:
                    blobs.verify(file.digest)
                source = _source(task, file, blobs.path(file.digest))
                found = rows_in(source, parser, Path(folder))
                told = {"name": file.shown, "digest": file.digest, "format": file.format}
                if source.encoding is not None:
                    told["encoding"] = source.encoding
                _keep(told, found, writer, listed, stops=task.stops)
        writer.flush()
        write_rows(directory / REJECTED, listed, SIDE_SCHEMA)
        (directory / DONE).write_bytes(msgspec.json.encode(done))


def read_done(directory: Path) -> ReadDone:
    """Return what is known of files that were read."""
    return msgspec.json.decode((directory / DONE).read_bytes(), type=ReadDone)


def rows_in(source: Source, parser: Parser, folder: Path) -> Iterator[Row | Bad]:
    """Yield the rows of a file, of an archive those of each file in it.

    Args:
        parser: reads documents.
        folder: where a file of an archive is put while it is read.

    Raises:
        DataError: nothing of it can be read; of a file in an archive, that is `Bad`.
    """
    if source.kind == "document":
        yield from parser.rows(source)
    elif source.kind != "archive":
        yield from read(source)
    else:
        for member in reader_of(source)(source, folder):
            if isinstance(member, Bad):
                yield member
                continue
            try:
                yield from rows_in(member, parser, folder)
            except DataError as error:
                yield Bad(member.shown, error.message)


def _source(task: ReadTask | CutTask, file: FileSpec, path: Path) -> Source:
    columns = tuple(task.columns)
    source = Source(path, file.shown, file.format, task.encoding, task.unit, columns, file.part)
    return replace(source, encoding=encoding_of(source)) if source.kind == "lines" else source


def _keep(
    told: dict[str, Any],
    found: Iterator[Row | Bad],
    writer: _Writer,
    listed: list[Row],
    *,
    stops: bool,
) -> None:
    """Take what was found in a file, and note what it is."""
    rows = bad = 0
    for one in found:
        if isinstance(one, dict):
            rows += 1
            writer.add(one)
            continue
        if stops:
            raise DataError(f"{one.where}: {one.reason}: mend it, or let bad rows be skipped")
        bad += 1
        if len(listed) < MAX_BAD_LISTED:
            listed.append(_side_row(one))
    writer.done.files.append({**told, "rows": rows, "bad": bad})
    writer.done.bad += bad


def _side_row(bad: Bad) -> Row:
    return {
        "id": bad.where,
        "step": 0,
        "operator": READING,
        "reason": bad.reason[:1000],
        "excerpt": bad.excerpt[:EXCERPT_CHARS],
    }


class _Writer:
    """Takes rows and writes a shard whenever there are enough."""

    def __init__(self, directory: Path, done: ReadDone) -> None:
        self._directory = directory
        self._rows: list[Row] = []
        self._bytes = 0
        self.done = done

    def add(self, row: Row) -> None:
        self._rows.append(row)
        self._bytes += sum(map(_size, row.values()))
        if len(self._rows) >= SHARD_ROWS or self._bytes >= SHARD_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what is there."""
        if not self._rows:
            return
        number = len(self.done.rows)
        self.done.schemas.append(write_rows(self._directory / shard_name(number), self._rows))
        for row in self._rows:
            self.done.stats.count(row)
        hashes = b"".join(map(row_hash, self._rows))
        (self._directory / hashes_name(number)).write_bytes(hashes)
        self.done.rows.append(len(self._rows))
        self._rows, self._bytes = [], 0


def _size(value: Any) -> int:
    """Return about how many bytes a value takes."""
    if isinstance(value, str):
        return len(value) if value.isascii() else 3 * len(value)
    return 8 if isinstance(value, int | float) else len(msgspec.json.encode(value))

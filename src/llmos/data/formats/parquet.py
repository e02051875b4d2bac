"""Parquet of any make, row by row; dates and decimals become text."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

from llmos.data.datasets.readers import Bad, Part, Source, checked, plain, printable
from llmos.data.pipeline.record import Row
from llmos.errors import DataError

BATCH_ROWS = 256
BUFFER_BYTES = 2**20
"""Of each column, read at a time: a group of rows may be as large as the file."""
MAX_CUTS = 8
"""Parts of a group of rows. Who reads one decodes those before it, too, which costs a twentieth of
reading them."""


@dataclass(frozen=True, slots=True)
class _Unheld:
    """A value that Python has no form for, and why."""

    reason: str


def parquet(source: Source) -> Iterator[Row | Bad]:
    """Yield the rows of a Parquet file.

    Raises:
        DataError: it is none, or has a column twice.
    """
    with _opened(source) as file:
        names = file.schema_arrow.names
        for number, batch in _batches(file, source.part):
            columns = [_values(column) for column in batch.columns]
            for place, values in enumerate(zip(*columns, strict=True), number):
                yield _row(dict(zip(names, values, strict=True)), f"{source.shown}:{place}")


def parquet_parts(source: Source, num_bytes: int) -> list[Part]:
    """Return the parts of a Parquet file, of whole groups of rows where these are not too large.

    Raises:
        DataError: as `parquet`.
    """
    parts: list[Part] = []
    begin = end = held = 0
    with _opened(source) as file:
        groups = [file.metadata.row_group(one) for one in range(file.metadata.num_row_groups)]
    for group in groups:
        first, pieces = end, min(MAX_CUTS, max(1, group.total_byte_size // num_bytes))
        for piece in range(1, pieces + 1):
            end = first + group.num_rows * piece // pieces
            held += group.total_byte_size // pieces
            if held >= num_bytes:
                parts.append(Part(begin, end, begin))
                begin, held = end, 0
    return [*parts, Part(begin, end, begin)] if begin < end else parts


@contextmanager
def _opened(source: Source) -> Iterator[Any]:
    """Give a Parquet file. Raises DataError as `parquet`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(source.path, pre_buffer=False, buffer_size=BUFFER_BYTES) as file:
            names = file.schema_arrow.names
            if len(set(names)) < len(names):
                raise DataError(f"{source.shown} has a column twice")
            yield file
    except MemoryError:  # one of Arrow's is an ArrowException, too
        raise
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{source.shown} is not a Parquet file that can be read: {error}") from None


def _batches(file: Any, part: Part | None) -> Iterator[tuple[int, Any]]:
    """Yield rows, some at a time, with the number of the first of them, from 1."""
    metadata = file.metadata
    begin, end = (part.begin, part.end) if part else (0, metadata.num_rows)
    sizes = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
    bounds = [0, *accumulate(sizes)]
    groups = [
        number
        for number, (first, until) in enumerate(pairwise(bounds))
        if first < end and begin < until
    ]
    at = bounds[groups[0]] if groups else end
    for batch in file.iter_batches(BATCH_ROWS, row_groups=groups):
        skipped = min(max(begin - at, 0), batch.num_rows)
        kept = batch.slice(skipped, max(end - at - skipped, 0))
        if kept.num_rows:
            yield at + skipped + 1, kept
        at += batch.num_rows
        if at >= end:
            return


def _values(column: Any) -> list[Any]:
    """Return a column's values; one that Python cannot hold, as a date of the year 10000, as
    `_Unheld`."""
    try:
        return list(column.to_pylist())
    except MemoryError:
        raise
    except (ValueError, OverflowError, NotImplementedError):
        return [_value(scalar) for scalar in column]


def _value(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except MemoryError:
        raise
    except (ValueError, OverflowError, NotImplementedError) as error:
        return _Unheld(str(error))


def _row(row: Row, where: str) -> Row | Bad:
    kept: Row = {}
    for name, value in row.items():
        if isinstance(value, _Unheld):
            return Bad(where, f"its {name[:80]!r} has no form here: {printable(value.reason)}")
        try:
            found = plain(value)
        except DataError as error:
            return Bad(where, f"its {name[:80]!r}: {error.message}")
        if found is not None:
            kept[name] = found
    return checked(kept, where, str(kept)[:200])

"""Parquet of any make, row by row; dates and decimals become text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from llmos.data.datasets.readers import Bad, Source, checked, plain, printable
from llmos.data.pipeline.record import Row
from llmos.errors import DataError

BATCH_ROWS = 256


@dataclass(frozen=True, slots=True)
class _Unheld:
    """A value that Python has no form for, and why."""

    reason: str


def parquet(source: Source) -> Iterator[Row | Bad]:
    """Yield the rows of a Parquet file.

    Raises:
        DataError: it is none, or has a column twice.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(source.path) as file:
            names = file.schema_arrow.names
            if len(set(names)) < len(names):
                raise DataError(f"{source.shown} has a column twice")
            for batch in file.iter_batches(BATCH_ROWS):
                columns = [_values(column) for column in batch.columns]
                for values in zip(*columns, strict=True):
                    number += 1
                    row = dict(zip(names, values, strict=True))
                    yield _row(row, f"{source.shown}:{number}")
    except MemoryError:  # one of Arrow's is an ArrowException, too
        raise
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{source.shown} is not a Parquet file that can be read: {error}") from None


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

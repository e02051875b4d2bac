"""Rows of plain JSON values as Parquet files (zstd), and back: what datasets are kept in.

A column is text, integer, number or boolean as all its values are; one of lists, mappings or mixed
values holds JSON text, and says so in its metadata. A key without a value and one that is not there
are the same, and whole numbers among others are numbers. The same rows give the same bytes.
pyarrow is imported where it is used.
"""

from __future__ import annotations

import importlib.util
import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from llmos.errors import DataError
from llmos.storage.files import disk_errors, sync_file

Row = dict[str, Any]
Schema = dict[str, str]
"""Column -> string, integer, number, boolean, or json."""

PACKAGES = {"pyarrow": "pyarrow"}
"""Modules that datasets need, beyond what llmos always has -> the packages they come from."""
EXTRAS = {"presidio-analyzer": "pii", "phonenumbers": "pii", "s3fs": "s3", "fsspec": "s3"}
"""Packages that come with another extra of llmos than "data"."""
JSON = "json"
MAX_COLUMNS = 2000
"""Of a dataset: what has more fields has values for names."""
ROW_GROUP_ROWS = 4096
BATCH_ROWS = 512
_KIND = b"llmos.kind"
_INT64 = range(-(2**63), 2**63)


def check_packages(modules: Mapping[str, str] = PACKAGES) -> None:
    """Pass silently when the packages that datasets need are installed.

    Raises:
        DataError: one is not; the message says how to install it.
    """
    for module, package in modules.items():
        if importlib.util.find_spec(module) is None:
            extra = EXTRAS.get(package, "data")
            raise DataError(f"{package} is not installed: pip install 'llmos[{extra}]'")


def schema_of(rows: Iterable[Row]) -> Schema:
    """Return the columns that hold these rows, in the order in which they first appear."""
    schema: Schema = {}
    for row in rows:
        for name, value in row.items():
            if value is not None:
                kind = _kind(value)
                known = schema.get(name)
                schema[name] = kind if known in (None, kind) else _wider(known, kind)
    return schema


def merged(schemas: Iterable[Schema]) -> Schema:
    """Return the columns that hold the rows of all of these."""
    found: Schema = {}
    for schema in schemas:
        for name, kind in schema.items():
            found[name] = kind if found.get(name) in (None, kind) else _wider(found[name], kind)
    return found


def write_rows(path: Path, rows: Sequence[Row], schema: Schema | None = None) -> Schema:
    """Write rows, each with an ``id``, as one file, which appears whole or not at all; return its
    columns.

    Args:
        schema: columns that hold the rows; found from them unless given.

    Raises:
        DataError: they have too many fields.
        DiskFullError: there is no room.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    wanted = schema_of(rows) if schema is None else schema
    if len(wanted) > MAX_COLUMNS:
        raise DataError(
            f"the rows have {len(wanted):,} different fields, over the {MAX_COLUMNS:,} that a "
            "dataset may have: put what varies into one field, as a mapping"
        )
    arrow = _arrow_schema(wanted)
    columns = [_column(rows, name, kind) for name, kind in wanted.items()]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, arrow, strict=True)]
    table = pa.Table.from_arrays(arrays, schema=arrow)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with disk_errors():
            pq.write_table(table, partial, compression="zstd", row_group_size=ROW_GROUP_ROWS)
            sync_file(partial)
            partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)
    return wanted


def append_all(path: Path, sources: Iterable[Path], schema: Schema) -> int:
    """Write the rows of several files of the same columns as one file; return how many there are.

    Only some rows are in memory at a time.
    """
    import pyarrow.parquet as pq

    count = 0
    with disk_errors(), pq.ParquetWriter(path, _arrow_schema(schema), compression="zstd") as writer:
        for source in sources:
            table = pq.read_table(source)
            if table.num_rows:
                writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
                count += table.num_rows
    sync_file(path)
    return count


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a file that `write_rows` made, in order, without keys that have no value.

    Raises:
        DataError: it is no such file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names, kinds = file.schema_arrow.names, schema_in(path)
            decode = msgspec.json.decode
            for batch in file.iter_batches(BATCH_ROWS):
                columns = []
                for name, column in zip(names, batch.columns, strict=True):
                    values = column.to_pylist()
                    if kinds[name] == JSON:
                        values = [None if one is None else decode(one) for one in values]
                    columns.append(values)
                for values in zip(*columns, strict=True):
                    yield {
                        name: value
                        for name, value in zip(names, values, strict=True)
                        if value is not None
                    }
    except pa.ArrowException as error:
        raise DataError(f"{path.name} is not a Parquet file that can be read: {error}") from error


def read_column(path: Path, name: str) -> list[Any]:
    """Return a column of a file that `write_rows` made, which holds no JSON."""
    import pyarrow.parquet as pq

    found: list[Any] = pq.read_table(path, columns=[name]).column(name).to_pylist()
    return found


def schema_in(path: Path) -> Schema:
    """Return the columns of a file that `write_rows` made."""
    import pyarrow.parquet as pq

    fields = pq.read_schema(path)
    return {field.name: (field.metadata or {}).get(_KIND, b"").decode() for field in fields}


def num_rows_in(path: Path) -> int:
    """Return how many rows a Parquet file has."""
    import pyarrow.parquet as pq

    return int(pq.read_metadata(path).num_rows)


def sync_tree(directory: Path) -> None:
    """Bring every file of a directory, and its entries, to the disk."""
    for path in directory.iterdir():
        sync_file(path)
    sync_file(directory)


def _kind(value: Any) -> str:
    if isinstance(value, str):
        return "string"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer" if value in _INT64 else JSON
    return "number" if isinstance(value, float) else JSON


def _wider(one: str, other: str) -> str:
    return "number" if {one, other} == {"integer", "number"} else JSON


def _arrow_schema(schema: Schema) -> Any:
    import pyarrow as pa

    types = {
        "string": pa.string(),
        "integer": pa.int64(),
        "number": pa.float64(),
        "boolean": pa.bool_(),
        JSON: pa.string(),
    }
    return pa.schema(
        [pa.field(name, types[kind], metadata={_KIND: kind}) for name, kind in schema.items()]
    )


def _column(rows: Sequence[Row], name: str, kind: str) -> list[Any]:
    values = [row.get(name) for row in rows]
    if kind == JSON:
        return [None if one is None else json.dumps(one, ensure_ascii=False) for one in values]
    if kind == "number":
        return [None if one is None else float(one) for one in values]
    return values

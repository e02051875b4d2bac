"""A dataset's rows written as files that other programs read."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llmos.errors import DataError
from llmos.storage.parquet import Row, check_packages, read_rows

FORMATS = {".jsonl": "jsonl", ".csv": "csv", ".tsv": "tsv", ".txt": "txt"}
"""By the suffix of a file."""


def write_as(
    format: str, shards: Sequence[Path], manifest: Mapping[str, Any], target: Path
) -> None:
    """Write the rows of a dataset's shards into one file.

    ``txt`` has the texts alone, an empty line between them; in ``csv`` and ``tsv``, lists and
    mappings are JSON.

    Raises:
        DataError: a row does not fit the format.
    """
    check_packages()
    rows = (row for shard in shards for row in read_rows(shard))
    with target.open("w", encoding="utf-8", newline="") as file:
        if format == "jsonl":
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        elif format == "txt":
            file.writelines(_texts(rows))
        else:
            names = list(manifest["schema"])
            writer = (
                csv.writer(file, lineterminator="\n")
                if format == "csv"
                else csv.writer(
                    file,
                    delimiter="\t",
                    quoting=csv.QUOTE_NONE,
                    quotechar=None,
                    lineterminator="\n",
                )
            )
            writer.writerow(names)
            writer.writerows(_cells(row, names, format) for row in rows)


def _texts(rows: Iterator[Row]) -> Iterator[str]:
    for number, row in enumerate(rows):
        text = row.get("text")
        if not isinstance(text, str):
            raise DataError(f"the row {row['id']!r} has no text: export it as jsonl or csv")
        yield ("\n" if number else "") + text.strip("\n") + "\n"


def _cells(row: Row, names: Sequence[str], format: str) -> list[str]:
    cells = [_cell(row.get(name)) for name in names]
    if format == "tsv" and any({"\t", "\n", "\r"} & set(cell) for cell in cells):
        raise DataError(
            f"the row {row['id']!r} has a tab or a line break, which tsv cannot hold: use csv"
        )
    return cells


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

"""Rows out of files: plain text, JSON lines, cells and Parquet, one after the other.

What cannot be read is yielded as `Bad`, with the reason, and reading goes on behind it. A line is
never held beyond MAX_RECORD_BYTES.
"""

from __future__ import annotations

import csv
import datetime
import decimal
import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TextIO

import msgspec

from llmos.data.datasets.encodings import SAMPLE_BYTES, detect
from llmos.data.pipeline.record import ID, META, TEXT, Row
from llmos.errors import DataError

Unit = Literal["paragraph", "line", "document"]
FORMATS = {
    ".txt": "text",
    ".md": "text",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}
MAX_RECORD_BYTES = 16 * 2**20
MAX_CELL_CHARS = 2**20
MAX_COLUMNS = 1000
MAX_NAME_CHARS = 200
MAX_DEPTH = 64
_INT64 = range(-(2**63), 2**63)


@dataclass(frozen=True, slots=True)
class Bad:
    """What could not be read: where it stands, why, and how it begins."""

    where: str
    reason: str
    excerpt: str = ""


@dataclass(frozen=True, slots=True)
class Source:
    """A file and how it is to be read.

    Attributes:
        path: where it lies.
        shown: what its user calls it.
        unit: what of a plain text is a row.
        columns: of a file of cells without a header line.
    """

    path: Path
    shown: str
    format: str
    encoding: str | None = None
    unit: Unit = "paragraph"
    columns: tuple[str, ...] = field(default=())


def format_of(shown: str, given: str | None = None) -> str:
    """Return the format of a file: as given, else by its suffix.

    Raises:
        DataError: nothing tells.
    """
    found = given or FORMATS.get(Path(shown).suffix.lower())
    if found is None:
        raise DataError(
            f"{shown}: what it holds is not known: files may end in {', '.join(FORMATS)}, "
            "or name the --format"
        )
    return found


def read(source: Source) -> Iterator[Row | Bad]:
    """Yield a dataset's rows of a file, each with an ``id``: its own, or "FILE:PLACE".

    Raises:
        DataError: nothing of it can be read.
    """
    if source.format == "parquet":
        yield from _parquet(source)
        return
    with source.path.open("rb") as file:
        sample = file.read(SAMPLE_BYTES)
    encoding = source.encoding or detect(sample, source.shown)
    readers = {"text": _text, "jsonl": _json_lines, "csv": _cells, "tsv": _cells}
    with _opened(source.path, encoding) as lines:
        yield from readers[source.format](source, lines)


@contextmanager
def _opened(path: Path, encoding: str) -> Iterator[TextIO]:
    """Give a text file, its undecodable bytes as half characters, its line ends as they are."""
    errors = "replace" if encoding.startswith(("utf-16", "utf-32")) else "surrogateescape"
    with path.open("rb") as raw, io.TextIOWrapper(raw, encoding, errors, newline="\n") as lines:
        yield lines


def _lines(lines: TextIO) -> Iterator[tuple[int, str | None]]:
    """Yield each line's number and itself; None for one that is too long, which is passed over."""
    number = 0
    while line := lines.readline(MAX_RECORD_BYTES):
        number += 1
        if line.endswith("\n") or len(line) < MAX_RECORD_BYTES:
            yield number, line
            continue
        while (rest := lines.readline(MAX_RECORD_BYTES)) and not rest.endswith("\n"):
            pass
        yield number, None


def _checked(row: Row, where: str, excerpt: str) -> Row | Bad:
    """Return a row with its id first and no field that a dataset cannot hold."""
    excerpt = _printable(excerpt)
    given = row.get(ID)
    if given is not None and (not isinstance(given, str | int) or isinstance(given, bool)):
        return Bad(where, "its id is neither text nor a whole number", excerpt)
    if not isinstance(row.get(META, {}), dict):
        return Bad(where, f"its {META!r}, which holds notes, is no mapping: rename it", excerpt)
    if len(row) > MAX_COLUMNS:
        return Bad(where, f"it has more than {MAX_COLUMNS} fields", excerpt)
    reason = _unstorable(row)
    if reason is None and any(len(name) > MAX_NAME_CHARS for name in row):
        reason = f"the name of a field is longer than {MAX_NAME_CHARS} characters"
    if reason is not None:
        return Bad(where, reason, excerpt)
    fields = {name: value for name, value in row.items() if name != ID}
    return {ID: where if given is None else str(given), **fields}


def _unstorable(value: Any, depth: int = 0) -> str | None:
    """Return why a value cannot be kept, None where it can."""
    if depth > MAX_DEPTH:
        return f"it is nested more than {MAX_DEPTH} deep"
    if isinstance(value, str):
        return None if value.isascii() or _is_unicode(value) else "it is not valid text"
    if isinstance(value, int):
        return None if value in _INT64 else "it has an integer beyond 64 bits"
    if isinstance(value, dict):
        every = (*value, *value.values())
        return next((why for one in every if (why := _unstorable(one, depth + 1))), None)
    if isinstance(value, list):
        return next((why for one in value if (why := _unstorable(one, depth + 1))), None)
    return None


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _printable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _text(source: Source, lines: TextIO) -> Iterator[Row | Bad]:
    """Yield the units of a plain text; white space around each is left out."""
    if source.unit == "line":
        for number, line in _lines(lines):
            where = f"{source.shown}:{number}"
            if line is None:
                yield Bad(where, _too_long())
            elif line.strip():
                yield _checked({TEXT: line.strip()}, where, line[:200])
        return
    held: list[str] = []
    size = begun = 0
    for number, line in _lines(lines):
        if source.unit == "paragraph" and line is not None and not line.strip():
            yield from _unit(source, held, size, begun)
            held, size, begun = [], 0, 0
            continue
        begun = begun or number
        size += MAX_RECORD_BYTES + 1 if line is None else len(line)
        if line is not None and size <= MAX_RECORD_BYTES:
            held.append(line)
    yield from _unit(source, held, size, begun)


def _unit(source: Source, held: list[str], size: int, begun: int) -> Iterator[Row | Bad]:
    where = source.shown if source.unit == "document" else f"{source.shown}:{begun}"
    text = "".join(held).strip()
    if size > MAX_RECORD_BYTES:
        yield Bad(where, _too_long(), _printable(text[:200]))
    elif text:
        yield _checked({TEXT: text.replace("\r\n", "\n")}, where, text[:200])


def _too_long() -> str:
    return f"it is longer than a row may be, {MAX_RECORD_BYTES // 2**20} MB"


def _json_lines(source: Source, lines: TextIO) -> Iterator[Row | Bad]:
    for number, line in _lines(lines):
        where = f"{source.shown}:{number}"
        if line is None:
            yield Bad(where, _too_long())
            continue
        if not line.strip():
            continue
        excerpt = _printable(line[:200])
        if (reason := _unstorable(line)) is not None:
            yield Bad(where, reason, excerpt)
            continue
        try:
            row = msgspec.json.decode(line)
        except (ValueError, RecursionError) as error:
            yield Bad(where, f"it is not JSON: {error}", excerpt)
            continue
        if not isinstance(row, dict):
            yield Bad(where, "it is not a JSON object", excerpt)
            continue
        yield _checked(row, where, excerpt)


def _cells(source: Source, lines: TextIO) -> Iterator[Row | Bad]:
    """Yield rows of CSV, or of tab-separated values, in which quotes mean nothing."""
    csv.field_size_limit(MAX_CELL_CHARS)
    is_csv = source.format == "csv"
    feed = (_whole(line, number, source) for number, line in _lines(lines))
    style: dict[str, Any] = {} if is_csv else {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
    reader = csv.reader(feed, strict=True, **style)
    header = list(source.columns)
    while True:
        begun = reader.line_num + 1
        where = f"{source.shown}:{begun}"
        try:
            cells = next(reader, None)
        except csv.Error as error:
            for number in range(begun, reader.line_num + 1):  # a quote that never closes takes all
                shown = f"{source.shown}:{number}"
                yield Bad(shown, f"its cells cannot be told apart: {error}")
            continue
        if cells is None:
            return
        if not cells:
            continue
        if not header:
            header = cells
            if len(set(header)) < len(header) or not all(header):
                raise DataError(f"{where}: the header has an empty name, or one twice")
        elif len(cells) != len(header):
            reason = f"it has {len(cells)} cells where the header has {len(header)}"
            yield Bad(where, reason, _printable(" | ".join(cells)[:200]))
        else:
            row = {name: cell for name, cell in zip(header, cells, strict=True) if cell != ""}
            yield _checked(row, where, " | ".join(cells)[:200])


def _whole(line: str | None, number: int, source: Source) -> str:
    if line is None:
        raise DataError(f"{source.shown}:{number}: the line {_too_long().removeprefix('it ')}")
    return line


def _parquet(source: Source) -> Iterator[Row | Bad]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(source.path) as file:
            for batch in file.iter_batches(256):
                for row in batch.to_pylist():
                    number += 1
                    where = f"{source.shown}:{number}"
                    try:
                        plain = {name: _plain(value) for name, value in row.items()}
                    except DataError as error:
                        yield Bad(where, error.message)
                        continue
                    kept = {name: value for name, value in plain.items() if value is not None}
                    yield _checked(kept, where, str(kept)[:200])
    except MemoryError:  # one of Arrow's is an ArrowException, too
        raise
    except pa.ArrowException as error:
        raise DataError(f"{source.shown} is not a Parquet file that can be read: {error}") from None


def _plain(value: Any) -> Any:
    """Return a Parquet value as JSON has it: dates and decimals as text. Raises DataError."""
    match value:
        case float() if not math.isfinite(value):
            return None
        case None | str() | bool() | int() | float():
            return value
        case datetime.date() | datetime.time():
            return value.isoformat()
        case decimal.Decimal():
            return str(value)
        case dict():
            return {str(name): _plain(one) for name, one in value.items()}
        case list() | tuple():
            return [_plain(one) for one in value]
    raise DataError(f"it has a value of type {type(value).__name__}, which JSON has no form for")

"""CSV, and tab-separated values, in which quotes mean nothing."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import Any, BinaryIO, TextIO

from llmos.data.datasets.readers import (
    EXCERPT_CHARS,
    MAX_RECORD_BYTES,
    Bad,
    Part,
    Source,
    checked,
    printable,
    too_long,
)
from llmos.data.formats.lines import (
    UNDECODABLE,
    Long,
    encoding_from,
    encoding_of,
    is_cuttable,
    numbered,
    opened,
)
from llmos.data.pipeline.record import Row
from llmos.errors import DataError

MAX_CELL_CHARS = 2**20
"""A quote that never closes takes all lines behind it, up to so many characters."""


def cells(source: Source) -> Iterator[Row | Bad]:
    """Yield rows under the names of the header, or of ``columns``; an empty cell is no value.

    Raises:
        DataError: the header cannot be used.
    """
    with opened(source) as lines:
        yield from _rows(source, lines)


def _rows(source: Source, lines: TextIO) -> Iterator[Row | Bad]:
    passed: dict[int, str] = {}
    reader = _reader(source, _fed(lines, source.before, passed))
    header = list(source.part.columns if source.part and source.part.columns else source.columns)
    while True:
        begun = source.before + reader.line_num + 1
        where = f"{source.shown}:{begun}"
        found: list[str] | csv.Error | None
        try:
            found = next(reader, None)
        except csv.Error as error:
            found = error
        numbers = range(begun, source.before + reader.line_num + 1)
        long = {number: passed.pop(number) for number in [*passed] if number in numbers}
        if long and not header:
            raise DataError(f"{where}: the header {too_long().removeprefix('it ')}")
        if isinstance(found, csv.Error):
            reason = f"its cells cannot be told apart: {found}"
            for number in numbers:  # a quote that never closes takes all
                told = too_long() if number in long else reason
                yield Bad(f"{source.shown}:{number}", told, long.get(number, ""))
        elif long:
            yield Bad(where, too_long(), next(iter(long.values())))
        elif found is None:
            return
        elif not header:
            header = _header(found, where)
        elif found:
            yield _row(header, found, where)


def _reader(source: Source, lines: Iterator[str]) -> Any:
    csv.field_size_limit(MAX_CELL_CHARS)
    style: dict[str, Any] = {}
    if source.format == "tsv":
        style = {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
    return csv.reader(lines, strict=True, **style)


def cell_parts(source: Source, num_bytes: int) -> list[Part]:
    """Return the parts of a file of cells. A quoted cell may hold line ends: where rows end, the
    same reader tells that reads them, up to the first line that is too long."""
    if not is_cuttable(source):
        return []
    size = source.path.stat().st_size
    parts: list[Part] = []
    header: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    begin = before = 0
    with source.path.open("rb") as file:
        lines = _Decoded(file, encoding_of(source))
        reader = _reader(source, lines)
        while size - begin > num_bytes and not lines.is_over:
            try:
                found: list[str] = next(reader, [])
            except csv.Error:
                found = []
            if not header and not source.columns:
                header = tuple(found)
            if lines.end - begin >= num_bytes and not lines.is_over:  # it may be within a row there
                parts.append(Part(begin, lines.end, before, columns))
                begin, before, columns = lines.end, reader.line_num, header
    return [*parts, Part(begin, size, before, columns)] if begin < size else parts


class _Decoded:
    """The lines of a file up to the first of MAX_RECORD_BYTES, and the byte where the last of them
    ended."""

    def __init__(self, file: BinaryIO, encoding: str) -> None:
        self._file = file
        self._encoding = encoding
        self.end = 0
        self.is_over = False

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._file.readline(MAX_RECORD_BYTES)
        if not line or len(line) == MAX_RECORD_BYTES:
            self.is_over = True
            raise StopIteration
        encoding = encoding_from(self._encoding, self.end)
        self.end += len(line)
        return line.decode(encoding, UNDECODABLE)


def _fed(lines: TextIO, before: int, passed: dict[int, str]) -> Iterator[str]:
    """Yield the lines; in place of one that is too long, which is noted, a quotation mark if it has
    an odd number of them: so the lines behind it are as quoted as they were."""
    for number, line in numbered(lines, before):
        if isinstance(line, Long):
            passed[number] = line.excerpt
            yield '"\n' if line.quotes % 2 else "\n"
        else:
            yield line


def _header(found: list[str], where: str) -> list[str]:
    if len(set(found)) < len(found) or not all(found):
        raise DataError(f"{where}: the header has an empty name, or one twice")
    return found


def _row(header: list[str], found: list[str], where: str) -> Row | Bad:
    excerpt = " | ".join(found)[:EXCERPT_CHARS]
    if len(found) != len(header):
        reason = f"it has {len(found)} cells where the header has {len(header)}"
        return Bad(where, reason, printable(excerpt))
    row = {name: cell for name, cell in zip(header, found, strict=True) if cell != ""}
    return checked(row, where, excerpt)

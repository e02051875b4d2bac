"""Files that are read line by line, packed or not, in whatever encoding; JSON lines.

A line is never held beyond MAX_RECORD_BYTES.
"""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, TextIO, cast

import msgspec

from llmos.data.datasets.encodings import SAMPLE_BYTES, detect
from llmos.data.datasets.readers import (
    EXCERPT_CHARS,
    MAX_RECORD_BYTES,
    Bad,
    Source,
    checked,
    printable,
    too_long,
    unstorable,
)
from llmos.data.formats.packed import Unpacked
from llmos.data.pipeline.record import Row
from llmos.errors import DataError

UNDECODABLE = "llmos.undecodable"
"""How decoding errors are handled: bytes that are no text become half a character, which no text
has, so that the row is told from others."""


@dataclass(frozen=True, slots=True)
class Long:
    """A line that is too long and was passed over: how it begins, and its quotation marks."""

    excerpt: str
    quotes: int


def _mark(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "\udcff", error.end


codecs.register_error(UNDECODABLE, _mark)


def encoding_of(source: Source) -> str:
    """Return the encoding of a file of lines: as given, else found out.

    Raises:
        DataError: it is binary, or in no encoding that is known.
    """
    if source.encoding is not None:
        return source.encoding
    with _unpacked(source) as raw:
        return detect(raw.read(SAMPLE_BYTES), source.shown)


@contextmanager
def opened(source: Source) -> Iterator[TextIO]:
    """Give a file's text, its line ends as they are.

    Raises:
        DataError: its encoding is not found, or what is packed is broken or a bomb.
    """
    encoding = encoding_of(source)
    with (
        _unpacked(source) as raw,
        io.TextIOWrapper(raw, encoding, UNDECODABLE, newline="\n") as lines,
    ):
        yield lines


@contextmanager
def _unpacked(source: Source) -> Iterator[BinaryIO]:
    with source.path.open("rb") as raw:
        if not source.is_gzipped:
            yield raw
            return
        packed = source.path.stat().st_size
        try:
            with gzip.GzipFile(fileobj=raw) as stream:
                bounded = Unpacked(cast(BinaryIO, stream), packed, source.shown)
                yield io.BufferedReader(bounded, 2**17)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise DataError(f"{source.shown} is no gzip that can be read: {error}") from None


def numbered(lines: TextIO) -> Iterator[tuple[int, str | Long]]:
    """Yield each line with its number, from 1."""
    number = 0
    while line := lines.readline(MAX_RECORD_BYTES):
        number += 1
        if line.endswith("\n") or len(line) < MAX_RECORD_BYTES:
            yield number, line
            continue
        excerpt, quotes = printable(line[:EXCERPT_CHARS]), line.count('"')
        while not line.endswith("\n") and (line := lines.readline(MAX_RECORD_BYTES)):
            quotes += line.count('"')
        yield number, Long(excerpt, quotes)


def json_lines(source: Source) -> Iterator[Row | Bad]:
    """Yield the objects of JSON lines; empty lines are passed over."""
    with opened(source) as lines:
        for number, line in numbered(lines):
            where = f"{source.shown}:{number}"
            if isinstance(line, Long):
                yield Bad(where, too_long(), line.excerpt)
            elif line.strip():
                yield json_row(line, where)


def json_row(line: str, where: str) -> Row | Bad:
    """Return the row that a JSON object is."""
    excerpt = printable(line[:EXCERPT_CHARS])
    if (reason := unstorable(line)) is not None:
        return Bad(where, reason, excerpt)
    try:
        row = msgspec.json.decode(line)
    except (ValueError, RecursionError) as error:
        return Bad(where, f"it is not JSON: {error}", excerpt)
    if not isinstance(row, dict):
        return Bad(where, "it is not a JSON object", excerpt)
    return checked(row, where, excerpt)

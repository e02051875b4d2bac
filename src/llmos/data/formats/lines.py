"""Files that are read line by line, packed or not, in whatever encoding; JSON lines.

A line is never held beyond MAX_RECORD_BYTES.
"""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, TextIO, cast

import msgspec

from llmos.data.datasets.encodings import SAMPLE_BYTES, detect
from llmos.data.datasets.readers import (
    EXCERPT_CHARS,
    MAX_RECORD_BYTES,
    Bad,
    Part,
    Source,
    checked,
    printable,
    too_long,
    unstorable,
)
from llmos.data.formats.packed import Unpacked
from llmos.data.pipeline.record import Row
from llmos.errors import CorruptBlobError, DataError

UNDECODABLE = "llmos.undecodable"
"""How decoding errors are handled: bytes that are no text become half a character, which no text
has, so that the row is told from others."""


CUT_ENCODINGS = frozenset(
    ("utf-8", "utf-8-sig", "ascii", "iso8859-1", "cp1252", "gb18030", "gbk", "gb2312", "big5")
)
"""In which a byte 10 ends a line whatever stands before it."""
CHUNK_BYTES = 2**20


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


def is_cuttable(source: Source) -> bool:
    """Whether bytes of a file tell where its lines end."""
    return not source.is_gzipped and codecs.lookup(encoding_of(source)).name in CUT_ENCODINGS


def encoding_from(encoding: str, begin: int) -> str:
    """Return the encoding of what a text has from a byte on: a mark stands at its beginning."""
    return "utf-8" if begin and encoding == "utf-8-sig" else encoding


@contextmanager
def opened(source: Source) -> Iterator[TextIO]:
    """Give a file's text, its line ends as they are.

    Raises:
        DataError: its encoding is not found, or what is packed is broken or a bomb.
    """
    part = source.part
    encoding = encoding_from(encoding_of(source), part.begin if part else 0)
    with (
        _unpacked(source) as raw,
        io.TextIOWrapper(
            _within(raw, part) if part else raw, encoding, UNDECODABLE, newline="\n"
        ) as lines,
    ):
        yield lines


def _within(raw: BinaryIO, part: Part) -> BinaryIO:
    raw.seek(part.begin)
    return cast(BinaryIO, io.BufferedReader(_First(raw, part.end - part.begin), CHUNK_BYTES))


class _First(io.RawIOBase):
    """The first ``left`` bytes of what a file has from here on.

    Raises:
        CorruptBlobError: it has fewer.
    """

    def __init__(self, raw: BinaryIO, left: int) -> None:
        self._raw = raw
        self._left = left

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self._raw.read(min(len(buffer), self._left))
        if self._left and not piece:
            raise CorruptBlobError("a file ends before it did when it was cut: add it again")
        buffer[: len(piece)] = piece
        self._left -= len(piece)
        return len(piece)


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


def numbered(lines: TextIO, before: int = 0) -> Iterator[tuple[int, str | Long]]:
    """Yield each line with its number, from 1, behind those ``before``."""
    number = before
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
        for number, line in numbered(lines, source.before):
            where = f"{source.shown}:{number}"
            if isinstance(line, Long):
                yield Bad(where, too_long(), line.excerpt)
            elif line.strip():
                yield json_row(line, where)


def line_parts(source: Source, num_bytes: int) -> list[Part]:
    """Return the parts of a file of which each line is by itself."""
    return parts_at(source, num_bytes, end_of_line)


def parts_at(source: Source, num_bytes: int, end_of: Callable[[BinaryIO, int], int]) -> list[Part]:
    """Return the parts of a file of lines, none where bytes do not tell its line ends.

    Args:
        end_of: says at which byte, from one on, it can be cut.
    """
    if not is_cuttable(source):
        return []
    size = source.path.stat().st_size
    parts: list[Part] = []
    begin = before = 0
    with source.path.open("rb") as file:
        while begin < size:
            end = end_of(file, begin + num_bytes) if begin + num_bytes < size else size
            parts.append(Part(begin, end, before))
            before += _num_lines(file, begin, end)
            begin = end
    return parts


def end_of_line(file: BinaryIO, at: int) -> int:
    """Return where the line ends that has the byte before ``at``."""
    file.seek(at - 1)
    while (piece := file.readline(CHUNK_BYTES)) and not piece.endswith(b"\n"):
        pass
    return file.tell()


def _num_lines(file: BinaryIO, begin: int, end: int) -> int:
    file.seek(begin)
    pieces = iter(lambda: file.read(min(CHUNK_BYTES, end - file.tell())), b"")
    return sum(piece.count(b"\n") for piece in pieces)


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

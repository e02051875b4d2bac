"""Plain text and Markdown: paragraphs, lines, or the file; Markdown's front matter as notes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import BinaryIO

import yaml

from llmos.data.datasets.readers import (
    EXCERPT_CHARS,
    MAX_RECORD_BYTES,
    Bad,
    Part,
    Source,
    checked,
    plain,
    printable,
    too_long,
)
from llmos.data.formats.lines import CHUNK_BYTES, Long, end_of_line, numbered, opened, parts_at
from llmos.data.pipeline.record import META, TEXT, Row
from llmos.errors import DataError

MAX_FRONT_LINES = 500
"""Of front matter; what goes on for longer is text."""
Lines = Iterator[tuple[int, str | Long]]


def text(source: Source) -> Iterator[Row | Bad]:
    """Yield the units of a plain text, paragraphs unless told; white space around each is left
    out."""
    with opened(source) as lines:
        yield from _units(source, numbered(lines, source.before), {})


def text_parts(source: Source, num_bytes: int) -> list[Part]:
    """Return the parts of a plain text, cut between its units."""
    match source.unit or "paragraph":
        case "line":
            return parts_at(source, num_bytes, end_of_line)
        case "paragraph":
            return parts_at(source, num_bytes, _end_of_paragraph)
    return []


def _end_of_paragraph(file: BinaryIO, at: int) -> int:
    """Return where an empty line ends behind the byte before ``at``, else the file."""
    file.seek(end_of_line(file, at))
    is_begun = False
    while line := file.readline(CHUNK_BYTES):
        if not is_begun and line.endswith(b"\n") and not line.strip(b" \t\r\n"):
            break
        is_begun = not line.endswith(b"\n")
    return file.tell()


def markdown(source: Source) -> Iterator[Row | Bad]:
    """Yield the units of a Markdown text as it is written, each with the values of its front matter
    (YAML between lines of ``---``) as its notes."""
    with opened(source) as lines:
        front, rest = _front(numbered(lines))
        meta: Row = {}
        if front is not None:
            try:
                meta = _values(front)
            except DataError as error:
                yield Bad(f"{source.shown}:1", f"its front matter {error.message}", front[:200])
        yield from _units(source, rest, meta)


def _front(lines: Lines) -> tuple[str | None, Lines]:
    """Return the front matter, None where there is none, and the lines behind it."""
    held: list[tuple[int, str | Long]] = []
    for number, line in lines:
        held.append((number, line))
        mark = "" if isinstance(line, Long) else line.rstrip()
        if len(held) == 1 and mark not in ("---", "\ufeff---"):
            break
        if len(held) > 1 and mark in ("---", "..."):
            inner = "".join(one for _, one in held[1:-1] if isinstance(one, str))
            return inner, lines
        if isinstance(line, Long) or len(held) > MAX_FRONT_LINES:
            break
    return None, chain(held, lines)


def _values(front: str) -> Row:
    """Return the values of front matter. Raises DataError."""
    try:
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(front)):
            raise DataError("has aliases, which are not followed")
        found = yaml.safe_load(front)
    except yaml.YAMLError as error:
        raise DataError(f"is not YAML: {printable(' '.join(str(error).split()))}") from None
    except (ValueError, RecursionError) as error:  # a date that there is not, brackets without end
        raise DataError(f"has what cannot be read: {error}") from None
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise DataError("is no mapping")
    values: Row = plain(found)
    return values


def _units(
    source: Source, lines: Iterable[tuple[int, str | Long]], meta: Row
) -> Iterator[Row | Bad]:
    unit = source.unit or "paragraph"
    if unit == "line":
        for number, line in lines:
            where = f"{source.shown}:{number}"
            if isinstance(line, Long):
                yield Bad(where, too_long(), line.excerpt)
            elif line.strip():
                yield _row(line.strip(), meta, where)
        return
    held: list[str] = []
    size = begun = 0
    for number, line in lines:
        if unit == "paragraph" and isinstance(line, str) and not line.strip():
            yield from _unit(f"{source.shown}:{begun}", held, size, meta)
            held, size, begun = [], 0, 0
            continue
        begun = begun or number
        size += MAX_RECORD_BYTES + 1 if isinstance(line, Long) else len(line)
        if isinstance(line, str) and size <= MAX_RECORD_BYTES:
            held.append(line)
    where = f"{source.shown}:{begun}" if unit == "paragraph" else source.shown
    yield from _unit(where, held, size, meta)


def _unit(where: str, held: list[str], size: int, meta: Row) -> Iterator[Row | Bad]:
    found = "".join(held).strip()
    if size > MAX_RECORD_BYTES:
        yield Bad(where, too_long(), printable(found[:EXCERPT_CHARS]))
    elif found:
        yield _row(found.replace("\r\n", "\n"), meta, where)


def _row(found: str, meta: Row, where: str) -> Row | Bad:
    row: Row = {TEXT: found, META: meta} if meta else {TEXT: found}
    return checked(row, where, found[:EXCERPT_CHARS])

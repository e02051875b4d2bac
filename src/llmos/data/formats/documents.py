"""From what a document's parser found to rows: a page, a paragraph, a line or the whole is one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from llmos.data.datasets.readers import (
    EXCERPT_CHARS,
    MAX_RECORD_BYTES,
    Bad,
    Source,
    Unit,
    checked,
    printable,
    too_long,
)
from llmos.data.pipeline.record import META, TEXT, Row
from llmos.errors import DataError

MAX_DOCUMENT_BYTES = 2**28
"""Of a file that is parsed as a whole."""
T = TypeVar("T")
_EMPTY_LINES = re.compile(r"\n[^\S\n]*\n\s*")


@dataclass(frozen=True, slots=True)
class Document:
    """What was found in a document.

    Attributes:
        where: how it is told from others; the id of its row where it is one.
        pages: the text of each page or chapter, in order; of others, the whole.
        is_paged: whether it has pages, which are numbered.
        has_lines: whether a paragraph is a line of its text; else empty lines stand between.
        nothing: what is said where it has no text.
        fields, meta: of each of its rows.
    """

    where: str
    pages: Iterable[str | Bad]
    is_paged: bool = False
    has_lines: bool = True
    nothing: str = "it has no text"
    fields: Row = field(default_factory=dict)
    meta: Row = field(default_factory=dict)


def check_size(source: Source) -> None:
    """Pass silently where a file may be parsed as a whole.

    Raises:
        DataError: it is too large.
    """
    if source.path.stat().st_size > MAX_DOCUMENT_BYTES:
        raise DataError(f"it is larger than a document may be, {MAX_DOCUMENT_BYTES // 2**20} MB")


def tried(parse: Callable[[], T], where: str) -> T | Bad:
    """Return what a library makes of a part of a document; broken ones have it raise anything."""
    try:
        return parse()
    except MemoryError:
        raise
    except DataError as error:
        return Bad(where, error.message)
    except Exception as error:  # another's parser is a boundary: what it raises is not foreseen
        return Bad(where, f"it cannot be read: {printable(f'{type(error).__name__}: {error}')}")


def rows_of(document: Document, unit: Unit) -> Iterator[Row | Bad]:
    """Yield a document's rows, of what has no text one that is bad."""
    made = _whole(document) if unit == "document" else _parts(document, unit)
    is_empty = True
    for one in made:
        is_empty = False
        yield one
    if is_empty:
        yield Bad(document.where, document.nothing)


def _whole(document: Document) -> Iterator[Row | Bad]:
    """Yield one row; where a page cannot be read, or they are too many, what is bad alone."""
    held: list[str] = []
    size = 0
    for text in document.pages:
        if isinstance(text, Bad):
            yield text
            return
        size += len(text)
        if size > MAX_RECORD_BYTES:
            yield Bad(document.where, too_long(), _excerpt(held[0] if held else text))
            return
        held.append(text.strip())
    if found := "\n\n".join(filter(None, held)):
        yield _row(document, found, document.where, {})


def _parts(document: Document, unit: Unit) -> Iterator[Row | Bad]:
    count = 0
    for page, text in enumerate(document.pages, 1):
        if isinstance(text, Bad):
            yield text
            continue
        meta: Row = {"page": page} if document.is_paged else {}
        for piece in _pieces(document, text, unit):
            count += 1
            number = page if unit == "page" else count
            is_whole = unit == "page" and not document.is_paged
            where = document.where if is_whole else f"{document.where}:{number}"
            if len(piece) > MAX_RECORD_BYTES:
                yield Bad(where, too_long(), _excerpt(piece))
            else:
                yield _row(document, piece, where, meta)


def _pieces(document: Document, text: str, unit: Unit) -> Iterator[str]:
    pieces = [text]
    if unit == "line" or (unit == "paragraph" and document.has_lines):
        pieces = text.split("\n")
    elif unit == "paragraph":
        pieces = _EMPTY_LINES.split(text)
    return filter(None, map(str.strip, pieces))


def _row(document: Document, text: str, where: str, meta: Row) -> Row | Bad:
    row: Row = {TEXT: text, **document.fields}
    if notes := document.meta | meta:
        row[META] = notes
    return checked(row, where, text[:EXCERPT_CHARS])


def _excerpt(text: str) -> str:
    return printable(text[:EXCERPT_CHARS])

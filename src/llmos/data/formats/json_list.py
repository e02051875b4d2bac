"""JSON that is one list of objects, as instruction data often is, element by element. One that does
not begin with a list is read as JSON lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TextIO

from llmos.data.datasets.readers import (
    EXCERPT_CHARS,
    MAX_RECORD_BYTES,
    Bad,
    Source,
    printable,
    too_long,
)
from llmos.data.formats.lines import Long, json_lines, json_row, opened
from llmos.data.pipeline.record import Row
from llmos.errors import DataError

PIECE_CHARS = 2**18
_INSIDE = re.compile(r'(?:[^"\\]|\\.)*', re.DOTALL)
"""What of a string is before its end, or before a backslash whose character is not read yet."""
_BETWEEN = re.compile(r'[^"\[\]{},]*')


def json_list(source: Source) -> Iterator[Row | Bad]:
    """Yield the objects of a list, each named after its place, from 1.

    Raises:
        DataError: it is neither a list nor JSON lines.
    """
    with opened(source) as text:
        begin = text.read(1)
        while begin.isspace():
            begin = text.read(1)
        if begin == "[":
            for number, element in enumerate(elements(text), 1):
                where = f"{source.shown}:{number}"
                if isinstance(element, Long):
                    yield Bad(where, too_long(), element.excerpt)
                else:
                    yield json_row(element, where)
            return
    if begin not in ("{", ""):
        raise DataError(f"{source.shown} is neither a JSON list of objects nor JSON lines")
    yield from json_lines(source)


def elements(text: TextIO) -> Iterator[str | Long]:
    """Yield the elements of a list whose "[" was read, as they are written; no more than a piece of
    one that is too long is held. Of a list that does not end, the last one is what is left.
    """
    held, begin, place, depth = "", 0, 0, 0
    is_inside, excerpt = False, ""
    while piece := text.read(PIECE_CHARS):
        if len(held) - begin > MAX_RECORD_BYTES:
            excerpt = excerpt or held[begin : begin + EXCERPT_CHARS]
            begin = place
        held, begin, place = held[begin:] + piece, 0, place - begin
        while True:
            found = (_INSIDE if is_inside else _BETWEEN).match(held, place)
            assert found is not None, "both match nothing, too"
            place = found.end()
            mark = held[place : place + 1]
            if not mark or mark == "\\":
                break
            place += 1
            if mark == '"':
                is_inside = not is_inside
            elif mark in "[{":
                depth += 1
            elif mark in "]}" and depth:
                depth -= 1
            elif not depth:  # a comma between elements, or the end
                if mark == "," or excerpt or held[begin : place - 1].strip():
                    yield _element(held[begin : place - 1], excerpt)
                if mark != ",":
                    return
                begin, excerpt = place, ""
    yield _element(held[begin:], excerpt)


def _element(written: str, excerpt: str) -> str | Long:
    if excerpt or len(written) > MAX_RECORD_BYTES:
        return Long(printable(excerpt or written[:EXCERPT_CHARS]), 0)
    return written.strip()

"""A text in pieces: words that may be changed, what stands between them, and spans that stay."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import regex

from llmos.data.operators.words import HAN
from llmos.data.segmentation import segmenter
from llmos.errors import DataError

Span = dict[str, Any]
"""``{"start", "end", …}``: characters of a text, the end exclusive."""
_RUNS = regex.compile(
    r"\p{Han}+|[[\p{L}\p{M}\p{N}]--\p{Han}]+(?:['’-][[\p{L}\p{M}\p{N}]--\p{Han}]+)*", regex.V1
)


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a text.

    Attributes:
        is_word: whether it is a word.
        start: where it was in the text; of what is new, 0.
        spans: places of the spans that lie in it; such a piece is to stay as it is.
    """

    text: str
    is_word: bool = False
    start: int = 0
    spans: tuple[int, ...] = ()


def check_spans(value: Any, name: str, text: str) -> list[Span]:
    """Return the spans of a text, none where ``value`` is None.

    Raises:
        DataError: it is no list of spans in the text.
    """
    spans = [] if value is None else value
    if not isinstance(spans, list) or not all(_is_span(span, len(text)) for span in spans):
        raise DataError(f"{name!r} must be a list of {{start, end}} within the text")
    return spans


def _is_span(span: Any, length: int) -> bool:
    if not isinstance(span, dict):
        return False
    start, end = span.get("start"), span.get("end")
    return type(start) is int and type(end) is int and 0 <= start < end <= length


def blocks(text: str, spans: Sequence[Span] = ()) -> list[Piece]:
    """Return the parts of a text that have spans, those that overlap together, and the others."""
    pieces: list[Piece] = []
    last = 0
    for start, end, places in _covered(spans):
        if last < start:
            pieces.append(Piece(text[last:start], start=last))
        pieces.append(Piece(text[start:end], start=start, spans=places))
        last = end
    if last < len(text):
        pieces.append(Piece(text[last:], start=last))
    return pieces


def cut(text: str, spans: Sequence[Span] = ()) -> list[Piece]:
    """Return a text as words, what stands between them, and parts that have spans.

    Chinese is cut by jieba.

    Raises:
        DataError: there is Chinese, and jieba is not installed.
    """
    return [part for one in blocks(text, spans) for part in ([one] if one.spans else _words(one))]


def joined(pieces: Iterable[Piece], spans: Sequence[Span] = ()) -> tuple[str, list[Span]]:
    """Return the text of pieces, and where its spans are now, in their order."""
    moved: dict[int, Span] = {}
    parts: list[str] = []
    length = 0
    for piece in pieces:
        for place in piece.spans:
            by = length - piece.start
            span = spans[place]
            moved[place] = {**span, "start": span["start"] + by, "end": span["end"] + by}
        parts.append(piece.text)
        length += len(piece.text)
    return "".join(parts), [moved[place] for place in sorted(moved)]


def _covered(spans: Sequence[Span]) -> list[tuple[int, int, tuple[int, ...]]]:
    """Return the parts of a text that spans cover: start, end, and the places of the spans."""
    found: list[tuple[int, int, tuple[int, ...]]] = []
    for place in sorted(range(len(spans)), key=lambda one: (spans[one]["start"], one)):
        start, end = spans[place]["start"], spans[place]["end"]
        if found and start < found[-1][1]:
            first, last, places = found[-1]
            found[-1] = (first, max(last, end), (*places, place))
        else:
            found.append((start, end, (place,)))
    return found


def _words(block: Piece) -> list[Piece]:
    pieces: list[Piece] = []
    last = 0
    for run in _RUNS.finditer(block.text):
        if last < run.start():
            pieces.append(Piece(block.text[last : run.start()], start=block.start + last))
        last = run.start()
        is_chinese = HAN.match(run[0]) is not None
        for word in segmenter().lcut(run[0]) if is_chinese else [run[0]]:
            pieces.append(Piece(word, is_word=True, start=block.start + last))
            last += len(word)
    if last < len(block.text):
        pieces.append(Piece(block.text[last:], start=block.start + last))
    return pieces

"""Texts in lines, sentences and paragraphs: where they begin and end, and texts without some."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection, Sequence
from typing import Literal

import regex

from llmos.data.sentences import Span, sentences

Unit = Literal["line", "sentence", "paragraph"]
_LINE = re.compile(r"[^\n\r]+")
_UNSEEN = regex.compile(r"[\s\p{P}\p{S}]+")


def lines(text: str) -> list[Span]:
    """Return the (start, end) of each line that is not blank, with what it is indented by."""
    return [line.span() for line in _LINE.finditer(text) if not line[0].isspace()]


def paragraphs(text: str) -> list[Span]:
    """Return the (start, end) of each paragraph: lines without a blank one between."""
    found: list[Span] = []
    for start, end in lines(text):
        if found and _breaks(text[found[-1][1] : start]) < 2:
            found[-1] = (found[-1][0], end)
        else:
            found.append((start, end))
    return found


PIECES: dict[Unit, Callable[[str], list[Span]]] = {
    "line": lines,
    "sentence": sentences,
    "paragraph": paragraphs,
}


def without(text: str, spans: Sequence[Span], gone: Collection[int]) -> str:
    """Return a text without some of its pieces.

    Of what stands between two that are left, the gap with most line breaks stays, so that none
    joins another line or paragraph.

    Args:
        spans: (start, end) of all pieces, in order.
        gone: places in ``spans`` of those to leave out.
    """
    parts: list[str] = []
    gaps: list[str] = []
    last = 0
    for place, (start, end) in enumerate(spans):
        if parts or not place:
            gaps.append(text[last:start])
        last = end
        if place not in gone:
            widest = max(gaps, key=lambda gap: (_breaks(gap), len(gap)), default="")
            parts += (widest, text[start:end])
            gaps = []
    return "".join(parts) + text[last:]


def loosened(text: str) -> str:
    """Return what of a text is neither case, width, space nor punctuation."""
    return str(_UNSEEN.sub("", unicodedata.normalize("NFKC", text).lower()))


def _breaks(text: str) -> int:
    return max(text.count("\n"), text.count("\r"))

"""A text that comes bit by bit, cut into pieces that are each looked at with what is around them.

Where it is cut depends on the text alone, never on the bits. Nothing here knows what is looked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

LONG = 4
"""A piece this many times the least ends at the next space, or Chinese character."""
MAX_UNBROKEN_CHARS = 4096
MAX_KEY_CHARS = 2**14
"""Of a private key, in lines between its two marks, which is not cut."""
_END = re.compile(r"\n|[。！？；…]|[.!?][\"')\]”’]*\s")
_GAP = re.compile(r"[\s\u3000-\u9fff\uff00-\uffef]")
_KEY_BEGINS = re.compile(r"-{3,5} ?BEGIN [A-Z0-9 ]{0,60}PRIVATE KEY")
_KEY_ENDS = re.compile(r"-{3,5} ?END [A-Z0-9 ]{0,60}PRIVATE KEY[A-Z ]{0,10}-{3,5}")
_KEY_MARK_CHARS = 80


@dataclass(frozen=True, slots=True)
class View:
    """``text[start:end]`` is a piece, the rest what is around it.

    Attributes:
        at: where ``text`` begins in the whole text.
    """

    text: str
    start: int
    end: int
    at: int


class Pieces:
    """Cuts a text at the ends of lines and sentences.

    Args:
        least_chars: of a piece. What is found across a cut must be no longer than that, to be
            found: each piece is seen with the one before it and the one after.
    """

    def __init__(self, least_chars: int) -> None:
        self._least_chars = least_chars
        self._text = ""
        self._at = 0
        self._cuts = [0, 0]
        """In ``_text``: where the piece before begins, the next one, and those known after it."""

    def push(self, text: str) -> Iterator[View]:
        """Yield the pieces that are complete, the one after them too."""
        self._text += text
        while (cut := self._cut(self._cuts[-1])) is not None:
            self._cuts.append(cut)
            if len(self._cuts) == 4:
                yield self._next()

    def end(self) -> Iterator[View]:
        """Yield what is left, once the text is complete."""
        if self._cuts[-1] < len(self._text):
            self._cuts.append(len(self._text))
        while len(self._cuts) > 2:
            yield self._next()

    def _next(self) -> View:
        _, start, end = self._cuts[:3]
        view = View(self._text[: self._cuts[-1]], start, end, self._at)
        self._text, self._at = self._text[start:], self._at + start
        self._cuts = [cut - start for cut in self._cuts[1:]]
        return view

    def _cut(self, start: int) -> int | None:
        """Return where the piece that begins at ``start`` ends, as soon as that is certain."""
        cut, limit = self._good_place(start, start + self._least_chars), start + MAX_KEY_CHARS
        while cut is not None and (begins := self._open_key(start, cut)) is not None:
            ends = _KEY_ENDS.search(self._text, begins, limit)
            if ends is None:
                return limit if len(self._text) >= limit else None
            if ends.end() <= cut:
                break
            cut = self._good_place(start, ends.end())
        return cut

    def _good_place(self, start: int, least: int) -> int | None:
        """Return the first place to cut at or after ``least``."""
        anywhere = least + (LONG - 1) * self._least_chars
        limit = anywhere + MAX_UNBROKEN_CHARS  # nothing behind it is looked at, however much is
        ends = (match.end() for match in _END.finditer(self._text, start, limit))
        gap = _GAP.search(self._text, anywhere, limit)
        found = [next((end for end in ends if end >= least), None), gap and gap.end()]
        if len(self._text) >= limit:
            found.append(limit)
        return min((place for place in found if place is not None), default=None)

    def _open_key(self, start: int, cut: int) -> int | None:
        """Return where a private key begins that may go on beyond a cut."""
        found = _KEY_BEGINS.finditer(self._text, max(0, start - _KEY_MARK_CHARS), cut)
        return max((match.start() for match in found), default=None)

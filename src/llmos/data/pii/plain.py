"""Text as the patterns read it: full-width and other digits plain, one kind of dash and space,
nothing that is not seen; and the way back to where it stood."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

_UNSEEN = re.compile(
    "[\u00ad\u034f\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufe0e\ufe0f\ufeff"
    "\u20e3]"
)
_DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63\uff0d"
_QUOTES = "\u2018\u2019\u02bc\uff07"
PLACEHOLDER = re.compile(r"\[[A-Z][A-Z_]{1,15}(?:_[0-9a-f]{6,32})?\]")
"""What stands where something was replaced: nothing is found in it or with its help."""
BLANK = "\ufffc"


class _Plain(dict[int, str]):
    """Character -> the one it is read as; worked out where it is first met."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        digit = unicodedata.decimal(char, None)
        composed = unicodedata.normalize("NFKC", char)
        if char in _DASHES:
            read = "-"
        elif char in _QUOTES:
            read = "'"
        elif digit is not None:
            read = str(digit)
        elif unicodedata.category(char) == "Zs":
            read = " "
        else:
            read = composed if len(composed) == 1 else char
        self[code] = read
        return read


_PLAIN = _Plain()


@dataclass(frozen=True, slots=True)
class PlainText:
    """A text as it is read. ``places``: where each of its characters stood, None where it has not
    moved."""

    text: str
    places: Sequence[int] | None

    def back(self, start: int, end: int) -> tuple[int, int]:
        """Return where ``text[start:end]``, of at least a character, stood."""
        if self.places is None:
            return start, end
        return self.places[start], self.places[end - 1] + 1


def plain(text: str) -> PlainText:
    """Return a text as the patterns read it; placeholders in it are blank."""
    places: list[int] | None = None
    if not text.isascii():
        if _UNSEEN.search(text):
            places = [place for place, char in enumerate(text) if not _UNSEEN.match(char)]
            text = _UNSEEN.sub("", text)
        text = text.translate(_PLAIN)
    if "[" in text:
        text = PLACEHOLDER.sub(lambda found: BLANK * len(found[0]), text)
    return PlainText(text, places)

"""Text as the patterns read it: full-width and other digits plain, one kind of dash and space,
nothing that is not seen, what JSON writes as ``\\u9648`` as what it stands for; and the way back to
where it stood."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_UNSEEN = re.compile(
    "[\u00ad\u034f\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufe0e\ufe0f\ufeff"
    "\u20e3]"
)
_ESCAPED = re.compile(r"\\u(?![dD][89a-fA-F])([0-9a-fA-F]{4})")
"""A character of one unit, as JSON may write it."""
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
    """A text as it is read. ``places``: where each of its characters began and ended, None where
    none has moved."""

    text: str
    places: Sequence[tuple[int, int]] | None

    def back(self, start: int, end: int) -> tuple[int, int]:
        """Return where ``text[start:end]``, of at least a character, stood."""
        if self.places is None:
            return start, end
        return self.places[start][0], self.places[end - 1][1]


def plain(text: str) -> PlainText:
    """Return a text as the patterns read it; placeholders in it are blank."""
    places: list[tuple[int, int]] | None = None
    if "\\u" in text and _ESCAPED.search(text):
        places = list(_units(text))
        text = _ESCAPED.sub(lambda found: chr(int(found[1], 16)), text)
    if not text.isascii():
        if _UNSEEN.search(text):
            places = places or [(place, place + 1) for place in range(len(text))]
            seen = zip(places, text, strict=True)
            places = [place for place, char in seen if not _UNSEEN.match(char)]
            text = _UNSEEN.sub("", text)
        text = text.translate(_PLAIN)
    if "[" in text:
        text = PLACEHOLDER.sub(lambda found: BLANK * len(found[0]), text)
    return PlainText(text, places)


def _units(text: str) -> Iterator[tuple[int, int]]:
    """Yield where each character of a text begins and ends, an escaped one counted as one."""
    done = 0
    for found in _ESCAPED.finditer(text):
        yield from ((place, place + 1) for place in range(done, found.start()))
        yield found.span()
        done = found.end()
    yield from ((place, place + 1) for place in range(done, len(text)))

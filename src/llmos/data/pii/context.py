"""What stands around a find: words that speak for it, or against it."""

from __future__ import annotations

import re

BEFORE_CHARS, AFTER_CHARS = 40, 16


def listed(text: str) -> frozenset[str]:
    """Return the words that spaces part."""
    return frozenset(text.split())


def words(*alternatives: str) -> re.Pattern[str]:
    """Return a pattern of any of these, whatever their case: English ones whole, Chinese ones
    anywhere."""
    english = [one for one in alternatives if one.isascii()]
    chinese = [one for one in alternatives if not one.isascii()]
    parts = [rf"(?<![A-Za-z])(?:{'|'.join(english)})(?![A-Za-z])"] if english else []
    return re.compile("|".join([*parts, *chinese]), re.IGNORECASE)


def is_before(pattern: re.Pattern[str], text: str, start: int, chars: int = BEFORE_CHARS) -> bool:
    """Whether a pattern is found close before a place."""
    return pattern.search(text[max(0, start - chars) : start]) is not None


def is_near(pattern: re.Pattern[str], text: str, start: int, end: int) -> bool:
    """Whether a pattern is found close before, or right after."""
    after = text[end : end + AFTER_CHARS]
    return is_before(pattern, text, start) or pattern.search(after) is not None


def last_before(
    pattern: re.Pattern[str], text: str, start: int, chars: int = BEFORE_CHARS
) -> int | None:
    """Return where the last match before a place ends, None where there is none close."""
    begin = max(0, start - chars)
    end = None
    for found in pattern.finditer(text, begin, start):
        end = found.end()
    return end

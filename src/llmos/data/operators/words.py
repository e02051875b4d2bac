"""Words as rules of quality count them: what spaces and punctuation part; Chinese characters."""

from __future__ import annotations

import regex

HAN = regex.compile(r"\p{Han}")
_LATIN = regex.compile(r"\p{Latin}")
_WORDS = regex.compile(
    r"\p{Han}|[[\p{L}\p{M}\p{N}]--\p{Han}]+(?:['’-][[\p{L}\p{M}\p{N}]--\p{Han}]+)*"
    r"|[^\s\p{L}\p{M}\p{N}]+",
    regex.V1,
)


def words_of(text: str) -> list[str]:
    """Return the words of a text, runs of punctuation and symbols among them."""
    return list(_WORDS.findall(text))


def is_symbols(word: str) -> bool:
    """Whether a word has no letter and no digit."""
    return not any(map(str.isalnum, word))


def is_chinese(text: str) -> bool:
    """Whether a text is written in Chinese characters more than in Latin letters."""
    if text.isascii():
        return False
    # A Chinese character says about as much as two or three Latin letters.
    return 3 * len(HAN.findall(text)) > len(_LATIN.findall(text))

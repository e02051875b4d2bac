"""Words as rules of quality count them: what spaces and punctuation part; Chinese characters."""

from __future__ import annotations

import re

import regex

HAN = regex.compile(r"\p{Han}")
_LATIN = regex.compile(r"\p{Latin}")
_WORDS = regex.compile(
    r"\p{Han}|[[\p{L}\p{M}\p{N}]--\p{Han}]+(?:['’-][[\p{L}\p{M}\p{N}]--\p{Han}]+)*"
    r"|[^\s\x1c-\x1f\p{L}\p{M}\p{N}]+",
    regex.V1,
)


_ASCII_WORDS = re.compile(r"[A-Za-z0-9]+(?:['-][A-Za-z0-9]+)*|[^\sA-Za-z0-9]+")
"""The same of ASCII, several times as fast."""


def words_of(text: str) -> list[str]:
    """Return the words of a text, runs of punctuation and symbols among them."""
    return (_ASCII_WORDS if text.isascii() else _WORDS).findall(text)


def is_symbols(word: str) -> bool:
    """Whether a word has no letter and no digit."""
    return not (word[0].isalnum() or any(map(str.isalnum, word)))


def is_chinese(text: str) -> bool:
    """Whether a text is written in Chinese characters more than in Latin letters."""
    if text.isascii():
        return False
    # A Chinese character says about as much as two or three Latin letters.
    return 3 * len(HAN.findall(text)) > len(_LATIN.findall(text))

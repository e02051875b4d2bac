"""Words as rules of quality count them: what spaces and punctuation part; Chinese characters."""

from __future__ import annotations

import re
import unicodedata

import regex

HAN = regex.compile(r"\p{Han}")
_LATIN = regex.compile(r"\p{Latin}+")
_WORD = r"\p{Han}|[[\p{L}\p{M}\p{N}]--\p{Han}]+(?:['’-][[\p{L}\p{M}\p{N}]--\p{Han}]+)*"
_SPOKEN = regex.compile(_WORD, regex.V1)
_WORDS = regex.compile(_WORD + r"|[^\s\x1c-\x1f\p{L}\p{M}\p{N}]+", regex.V1)


_ASCII_WORD = r"[A-Za-z0-9]+(?:['-][A-Za-z0-9]+)*"
"""The same of ASCII, several times as fast."""
_ASCII_SPOKEN = re.compile(_ASCII_WORD)
_ASCII_WORDS = re.compile(_ASCII_WORD + r"|[^\sA-Za-z0-9]+")


def words_of(text: str) -> list[str]:
    """Return the words of a text, runs of punctuation and symbols among them."""
    return (_ASCII_WORDS if text.isascii() else _WORDS).findall(text)


def spoken_words(text: str) -> list[str]:
    """Return the words of a text that have letters or digits."""
    return (_ASCII_SPOKEN if text.isascii() else _SPOKEN).findall(text)


def comparable_words(text: str, unit: str = "auto") -> list[str]:
    """Return what texts are compared by: words or characters of letters and digits, in lower case
    and plain width."""
    plain = (text if text.isascii() else unicodedata.normalize("NFKC", text)).lower()
    return [*filter(str.isalnum, plain)] if unit == "characters" else spoken_words(plain)


def is_symbols(word: str) -> bool:
    """Whether a word has no letter and no digit."""
    return not (word[0].isalnum() or any(map(str.isalnum, word)))


def is_chinese(text: str) -> bool:
    """Whether a text is written in Chinese characters more than in Latin letters."""
    if text.isascii():
        return False
    # A Chinese character says about as much as two or three Latin letters.
    han = len(HAN.findall(text))
    return han > 0 and 3 * han > sum(map(len, _LATIN.findall(text)))

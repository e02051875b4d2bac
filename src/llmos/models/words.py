"""What a parser is told of the words of a sentence. Torch-free.

A sentence is its words with a space between; features are texts such as ``suffix=ing``, of which a
model knows the hashes alone, so that there is no unknown word.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from zlib import crc32

from llmos.models.lexicon import Lexicon, jieba_lexicon
from llmos.models.units import KEPT_TEXTS, affixes, shape_of

UPOS = (
    *("ADJ", "ADP", "ADV", "AUX", "CCONJ", "DET", "INTJ", "NOUN", "NUM"),
    *("PART", "PRON", "PROPN", "PUNCT", "SCONJ", "SYM", "VERB", "X"),
)
"""The universal parts of speech: https://universaldependencies.org/u/pos/"""
PUNCTUATION = "PUNCT"
LONG_CHARS = 8
_WITHIN = "\u00a0"
"""Stands for a space within a word."""


def joined(words: Sequence[str]) -> str:
    """Return a sentence as it is read: a space between words, and none in one.

    Raises:
        ValueError: a word is empty, or white space.
    """
    plain = [_WITHIN.join(word.split()) for word in words]
    if not all(plain):
        raise ValueError(f"word {plain.index('') + 1} is empty")
    return " ".join(plain)


@lru_cache(maxsize=KEPT_TEXTS)
def features_of(
    data: bytes, num_buckets: int, dictionary: str | None
) -> tuple[tuple[int, ...], ...]:
    """Return the features of each word of a sentence in UTF-8.

    Args:
        num_buckets: features are numbers below it.
        dictionary: ``jieba``: have features tell of what kind its dictionary says a word is.

    Raises:
        ImportError: it is not installed.
    """
    text = data.decode("utf-8", "surrogateescape")
    lexicon = jieba_lexicon() if dictionary == "jieba" else None
    return tuple(
        tuple(
            crc32(told.encode("utf-8", "surrogateescape")) % num_buckets
            for told in _told_of(word, lexicon)
        )
        for word in text.split(" ")
        if word
    )


def _told_of(word: str, lexicon: Lexicon | None) -> Iterator[str]:
    lower = word.lower()
    yield from (f"word={word}", f"lower={lower}", f"shape={shape_of(word)}")
    yield f"length={min(len(word), LONG_CHARS)}"
    yield from affixes(lower)
    if not word.isascii():
        yield from (f"char={char}" for char in dict.fromkeys(word))
    if lexicon is not None:
        yield f"tag={lexicon.tag(word)}"
        yield f"begins={lexicon.tag(word[:-1])}"
        yield f"ends={lexicon.tag(word[1:])}"

"""Texts cut into words: of Chinese by jieba, of all else by what spaces and punctuation part."""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import TYPE_CHECKING

import regex

from llmos.data.operators.words import words_of
from llmos.storage.parquet import check_packages

if TYPE_CHECKING:
    from jieba import Tokenizer

JIEBA = {"jieba": "jieba"}
_RUNS = regex.compile(r"\p{Han}+|\P{Han}+")


def words_in(text: str) -> list[str]:
    """Return the words of a text, punctuation among them; what is between words is left out.

    Raises:
        DataError: the text has Chinese in it, and jieba is not installed.
    """
    found: list[str] = []
    for run in _RUNS.findall(text):
        is_chinese = regex.match(r"\p{Han}", run) is not None
        found += segmenter().lcut(run) if is_chinese else words_of(run)
    return found


@lru_cache(maxsize=1)
def segmenter() -> Tokenizer:
    """Return jieba, its dictionary read from its own file: by itself it would go by a cache in a
    folder that everybody may write to.

    Raises:
        DataError: it is not installed.
    """
    check_packages(JIEBA)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pythons newer than it
        import jieba

    found = jieba.Tokenizer()
    found.FREQ, found.total = found.gen_pfdict(found.get_dict_file())
    found.initialized = True
    return found

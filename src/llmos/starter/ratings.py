"""Rated reviews: texts of one to three remarks, and the stars they come to, from 1 to 5.

`text/ratings/*.tsv`: id, language, sentence. Each remark has a word of the lexicon's `rated`, whose
`stars` say how good it is; those of a review are their mean.
"""

from collections.abc import Iterator
from functools import cache
from random import Random
from typing import TypedDict

from llmos.starter.grammar import Sample, Split, Template, load_lexicon, read_tsv, samples
from llmos.starter.variants import informal, shares, take_turns

LANGUAGES = ("en", "zh")


class Record(TypedDict):
    """A review and its stars."""

    text: str
    score: float
    lang: str


@cache
def load_templates(language: str) -> tuple[Template, ...]:
    """The sentences of a language."""
    rows = (row for row in read_tsv("ratings") if row[1] == language)
    return tuple(Template.parse(name, {language: sentence}) for name, _, sentence in rows)


def records(split: Split, seed: int, rows: int) -> Iterator[Record]:
    """`rows` records {"text", "score", "lang"} of `split`, the languages in turn."""
    streams = [
        _stream(language, split, seed, share)
        for language, share in zip(LANGUAGES, shares(rows, len(LANGUAGES)), strict=True)
    ]
    return take_turns(streams)


def _stream(language: str, split: Split, seed: int, rows: int) -> Iterator[Record]:
    random = Random(f"ratings:{split}:{seed}:{language}")
    for sample in samples(load_templates(language), load_lexicon(), split, seed, rows):
        text = informal(sample.renderings[language].text, random)
        yield Record(text=text, score=_stars(sample), lang=language)


def _stars(sample: Sample) -> float:
    """The mean of what the words say."""
    found = [float(e.extra["stars"]) for e in sample.fillers.values() if "stars" in e.extra]
    return sum(found) / len(found)

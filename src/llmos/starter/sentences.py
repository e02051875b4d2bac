"""Sentences: those of the translation, sentiment and entity records, as plain text."""

from collections.abc import Iterator

from llmos.starter import entities, sentiment, translation
from llmos.starter.grammar import Split
from llmos.starter.variants import shares, take_turns


def records(split: Split, seed: int, rows: int) -> Iterator[dict[str, str]]:
    """`rows` records {"text"} of `split`, in English and Chinese; fewer where no more exist."""
    one, two, three = shares(rows, 3)
    streams = (
        (row["source"] for row in translation.records(split, seed, one)),
        (row["text"] for row in sentiment.records(split, seed, two)),
        (row["text"] for row in entities.records(split, seed, three)),
    )
    return ({"text": text} for text in take_turns(streams))

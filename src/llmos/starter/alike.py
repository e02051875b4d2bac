"""Texts that belong together: a sentence and its translation, English and Chinese."""

from collections.abc import Iterator

from llmos.starter import translation
from llmos.starter.grammar import Split


def records(split: Split, seed: int, rows: int) -> Iterator[dict[str, str]]:
    """`rows` records {"anchor", "positive"} of `split`, English and Chinese anchors in turn."""
    pairs = translation.records(split, seed, 2 * rows)
    for number, row in enumerate(pairs):
        if number % 4 in (0, 3):  # each sentence pair one way only
            yield {"anchor": row["source"], "positive": row["target"]}

"""Tagged records in English."""

from collections.abc import Iterator

from llmos.starter import tagged
from llmos.starter.grammar import Split


def records(split: Split, seed: int, rows: int) -> Iterator[tagged.Record]:
    """`rows` records of `split`."""
    return tagged.records("en", split, seed, rows)

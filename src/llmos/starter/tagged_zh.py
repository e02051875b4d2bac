"""Tagged records in Chinese."""

from collections.abc import Iterator

from llmos.starter import tagged
from llmos.starter.grammar import Split


def records(split: Split, seed: int, rows: int) -> Iterator[tagged.Record]:
    """`rows` records of `split`."""
    return tagged.records("zh", split, seed, rows)

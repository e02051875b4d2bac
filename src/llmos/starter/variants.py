"""How people really type: missing full stops, lower case, an exclamation mark.

Applied after a sentence is chosen, so that a split is decided by the sentence and not by its looks.
"""

from collections.abc import Iterable, Iterator
from random import Random
from typing import TypeVar

Row = TypeVar("Row")

ENDINGS = ".!?。！？"
EXCLAMATIONS = {".": "!", "。": "！"}


def informal(text: str, random: Random) -> str:
    """`text` as it is half of the time, otherwise typed more carelessly."""
    roll = random.random()
    if roll < 0.5:
        return text
    if roll < 0.65:
        return text.rstrip(ENDINGS)
    if roll < 0.75:
        return text[:-1] + EXCLAMATIONS.get(text[-1], text[-1])
    if roll < 0.85:
        return text[:1].lower() + text[1:]
    return text.rstrip(ENDINGS).lower()


def shares(rows: int, streams: int) -> list[int]:
    """`rows` cut into `streams` parts that differ by at most one."""
    return [rows * (i + 1) // streams - rows * i // streams for i in range(streams)]


def take_turns(streams: Iterable[Iterable[Row]]) -> Iterator[Row]:
    """One item of each stream in turn, until all are used up."""
    waiting = [iter(stream) for stream in streams]
    while waiting:
        still: list[Iterator[Row]] = []
        for stream in waiting:
            for row in stream:
                still.append(stream)
                yield row
                break
        waiting = still

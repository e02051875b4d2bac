"""How spans that are gone from a text are named in tokens: a sentinel in place of each. Torch-free.

A network that learned by span corruption (Raffel et al., 2020, arXiv:1910.10683, section 3.1.4)
reads the text with its sentinels and writes each of them with the span that it stands for behind
it, then one more. They have the names of T5's.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence

SENTINEL = re.compile(r"<extra_id_\d+>")


def sentinel(number: int) -> str:
    """Return the name of a sentinel, counted from 0."""
    return f"<extra_id_{number}>"


def sentinel_ids(token_id: Callable[[str], int | None]) -> tuple[int, ...]:
    """Return the ids of a vocabulary's sentinels, in order; ``token_id`` tells that of a token."""
    ids: list[int] = []
    while (found := token_id(sentinel(len(ids)))) is not None:
        ids.append(found)
    return tuple(ids)


def spans_in(written: Sequence[int], sentinels: Sequence[int], count: int) -> list[slice | None]:
    """Return where in what was written the spans of the first ``count`` sentinels are, each from
    behind its sentinel to the next one or the end; None for a sentinel that was not written."""
    named = set(sentinels)
    borders = [place for place, token in enumerate(written) if token in named]
    ends = dict(itertools.pairwise([*borders, len(written)]))
    first = {written[place]: place for place in reversed(borders)}
    places = [first.get(token) for token in sentinels[:count]]
    return [None if place is None else slice(place + 1, ends[place]) for place in places]

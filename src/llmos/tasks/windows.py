"""A question beside a context that may be longer than a model reads: windows that overlap.

Takes what a tokenizer made of the pair; shared by serving, training and evaluation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Encoding

STRIDE_SHARE = 3
"""Windows overlap by what they hold of the context, divided by this."""


@dataclass(frozen=True, slots=True)
class Window:
    """A question with a part of its context, as a model reads it.

    Attributes:
        type_ids: which of the texts each token is of, empty where all are 0.
        parts: 0 for tokens of the question, 1 for the context's, None for special ones.
        offsets: of each token in its text, in characters.
    """

    ids: tuple[int, ...]
    type_ids: tuple[int, ...]
    parts: tuple[int | None, ...]
    offsets: tuple[tuple[int, int], ...]


def num_windows(pair: Encoding, max_tokens: int) -> int:
    """Return how many windows an encoded pair takes; none where a context has no room."""
    size = pair.sequence_ids.count(1)
    room = max_tokens - (len(pair) - size)
    return 0 if room < 1 else 1 + max(0, -(-(size - room) // _step(room)))


def windows_of(pair: Encoding, max_tokens: int, max_windows: int) -> list[Window]:
    """Return the windows of an encoded pair, in order; none where a context has no room.

    Args:
        pair: question and context, with the special tokens the model expects around them.
        max_tokens: of a window in all.
        max_windows: what comes after so many is left out.
    """
    # each access to a field of an encoding copies all of it
    ids, types, parts, offsets = pair.ids, pair.type_ids, pair.sequence_ids, pair.offsets
    size = parts.count(1)
    room = max_tokens - (len(parts) - size)
    start = parts.index(1) if size else len(parts)
    end = start + size
    has_types = any(types)
    windows = []
    for number in range(min(num_windows(pair, max_tokens), max_windows)):
        begin = start + number * _step(room)
        held = slice(begin, min(begin + room, end))
        windows.append(
            Window(
                (*ids[:start], *ids[held], *ids[end:]),
                (*types[:start], *types[held], *types[end:]) if has_types else (),
                (*parts[:start], *parts[held], *parts[end:]),
                (*offsets[:start], *offsets[held], *offsets[end:]),
            )
        )
    return windows


def _step(room: int) -> int:
    """Return how many tokens of the context lie between the starts of two windows."""
    return max(1, room - room // STRIDE_SHARE)

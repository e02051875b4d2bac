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


def windows_of(pair: Encoding, max_tokens: int, max_windows: int) -> list[Window]:
    """Return the windows of an encoded pair, in order; none where a context has no room.

    Args:
        pair: question and context, with the special tokens the model expects around them.
        max_tokens: of a window in all.
        max_windows: what comes after so many is left out.
    """
    parts = pair.sequence_ids
    room = max_tokens - sum(part != 1 for part in parts)
    if room < 1:
        return []
    step = max(1, room - room // STRIDE_SHARE)
    first = parts.index(1) if 1 in parts else len(parts)
    num_windows = 1 + max(0, -(-(parts.count(1) - room) // step))
    windows = []
    for begin in range(first, first + step * min(num_windows, max_windows), step):
        kept = [i for i, part in enumerate(parts) if part != 1 or begin <= i < begin + room]
        windows.append(
            Window(
                tuple(pair.ids[i] for i in kept),
                tuple(pair.type_ids[i] for i in kept) if any(pair.type_ids) else (),
                tuple(parts[i] for i in kept),
                tuple(pair.offsets[i] for i in kept),
            )
        )
    return windows

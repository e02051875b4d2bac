"""Which queued rows share the next step of a model that answers in one go. No torch.

Rows of one class with the same options go together, those of like length first, so that little of
a batch is padding. `Pace` keeps a step short, whatever the model and the machine.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from llmos.types import PipelineWork

PADDING_SHARE = 0.25
PADDING_TOKENS = 64
"""A batch may have so many padding tokens for each real one, and so many besides."""


@dataclass(frozen=True, slots=True)
class Queued:
    """A work in the queue. ``deadline_at`` is of the same clock that the engine asks."""

    id: str
    work: PipelineWork
    arrival: int
    deadline_at: float = math.inf

    @property
    def num_tokens(self) -> int:
        return len(self.work.input_ids)

    @property
    def group(self) -> tuple[Any, ...]:
        """Equal for works that may share a batch."""
        return self.work.priority, self.work.kind, *sorted(self.work.options.items())


def take_batch(
    queue: Collection[Queued],
    max_rows: int,
    max_tokens: int,
    virtual_ms: Mapping[str, float] | None = None,
) -> list[Queued]:
    """Return the next micro-batch: the first work and those most like it, within the limits.

    The first is of the best class, of the tenant that had the least, the earliest; so nobody
    waits for ever. A beam counts as a row.

    Args:
        max_tokens: of the padded batch; a work alone may have more.
        virtual_ms: compute each tenant has had.
    """
    had = virtual_ms or {}

    def rank(queued: Queued) -> tuple[int, float, int]:
        work = queued.work
        return work.priority, had.get(work.tenant, 0.0), queued.arrival

    if not queue:
        return []
    first = min(queue, key=rank)
    mates = [queued for queued in queue if queued is not first and queued.group == first.group]
    mates.sort(key=lambda queued: (abs(queued.num_tokens - first.num_tokens), rank(queued)))
    most_rows = max(1, max_rows // first.work.options.get("num_beams", 1))
    batch, longest, real = [first], first.num_tokens, first.num_tokens
    for mate in mates:
        if len(batch) >= most_rows:
            break
        padded = max(longest, mate.num_tokens) * (len(batch) + 1)
        padding = padded - real - mate.num_tokens
        is_wasteful = padding > PADDING_TOKENS + PADDING_SHARE * (real + mate.num_tokens)
        if padded > max_tokens or is_wasteful:
            continue
        batch.append(mate)
        longest, real = max(longest, mate.num_tokens), real + mate.num_tokens
    return batch


class Pace:
    """How many padded tokens a step may have so that it takes about ``target_s``, as measured.

    A model on a small machine then takes many short steps, between which other models take theirs.

    Args:
        most_tokens: never more, whatever was measured; memory is bounded by it.
    """

    FIRST_TOKENS = 128
    FEWEST_TOKENS = 32
    SMOOTHING = 0.3

    def __init__(self, most_tokens: int, target_s: float = 0.2) -> None:
        self._most_tokens = most_tokens
        self._target_s = target_s
        self._tokens_per_s = self.FIRST_TOKENS / target_s

    def max_tokens(self, limit_s: float = math.inf) -> int:
        """Return how many padded tokens the next step may have, or the fewest where even those
        take longer than it should.

        Args:
            limit_s: what it should take at most, where that is less than usual.
        """
        wanted = round(self._tokens_per_s * min(self._target_s, limit_s))
        return min(self._most_tokens, max(self.FEWEST_TOKENS, wanted))

    def seconds(self, num_tokens: int) -> float:
        """Return what a step of so many padded tokens should take."""
        return num_tokens / self._tokens_per_s

    def note(self, num_tokens: int, seconds: float) -> None:
        """Take a step's padded tokens and duration into account."""
        measured = num_tokens / max(seconds, 1e-6)
        self._tokens_per_s += self.SMOOTHING * (measured - self._tokens_per_s)

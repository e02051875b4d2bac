"""Simulated time, and what is to happen in it.

Time is in whole picoseconds: sums of them are exact in any order, so a run of steps that is taken
at once ends at the very moment at which it would end step by step.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

PS_PER_S = 10**12

Action = Callable[[int], None]
"""What happens at a moment, which it is told (picoseconds)."""


def picoseconds(seconds: float) -> int:
    """Return seconds as the clock counts them."""
    return round(seconds * PS_PER_S)


def seconds(ps: int) -> float:
    """Return what the clock counted in seconds."""
    return ps / PS_PER_S


class Events:
    """Actions in the order of their time; at the same time by rank, then as they were added."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, int, Action]] = []
        self._num_added = 0

    def __len__(self) -> int:
        return len(self._heap)

    @property
    def next_at(self) -> int:
        """When the next action is due (picoseconds). There must be one."""
        return self._heap[0][0]

    def add(self, at_ps: int, rank: int, action: Action) -> None:
        """Have ``action`` happen at ``at_ps``."""
        self._num_added += 1
        heapq.heappush(self._heap, (at_ps, rank, self._num_added, action))

    def take(self) -> tuple[int, Action]:
        """Return the next action and its time, and forget it."""
        at_ps, _, _, action = heapq.heappop(self._heap)
        return at_ps, action

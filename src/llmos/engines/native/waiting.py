"""The sequences that wait for a place in the batch, in the orders in which they are looked for.

Thousands may wait while some dozens are computed: a step must cost the same however many they are.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection, Iterator, Mapping
from itertools import islice, takewhile
from typing import TYPE_CHECKING

from llmos.engines.ordered import Ordered

if TYPE_CHECKING:
    from llmos.engines.native.sequences import Sequence


class Waiting:
    """Sequences by class, tenant and arrival, by when they are due, and by their deadlines.

    What they are ordered by does not change while they wait, but for the tenants' virtual times:
    those order the tenants of a class, each time anew.

    Args:
        itl_target_s: see `Sequence.due`.
    """

    def __init__(self, itl_target_s: float) -> None:
        self._classes: dict[int, dict[str, Ordered[Sequence]]] = {}
        self._dues: Ordered[Sequence] = Ordered(lambda one: (one.due(itl_target_s), one.arrival))
        self._deadlines: Ordered[Sequence] = Ordered(lambda one: (one.deadline, one.arrival))
        self._itl_target_s = itl_target_s

    def __len__(self) -> int:
        return len(self._dues)

    def add(self, sequence: Sequence) -> None:
        """Take in a sequence that holds no blocks (any more)."""
        tenants = self._classes.setdefault(sequence.work.priority, {})
        tenants.setdefault(sequence.work.tenant, Ordered(_rank_of_own)).add(sequence)
        self._dues.add(sequence)
        if sequence.deadline < math.inf:
            self._deadlines.add(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Let a sequence go: it ends, or is to be computed."""
        tenants = self._classes[sequence.work.priority]
        queue = tenants[sequence.work.tenant]
        queue.remove(sequence)
        if not queue:
            del tenants[sequence.work.tenant]
        if not tenants:
            del self._classes[sequence.work.priority]
        self._dues.remove(sequence)
        if sequence.deadline < math.inf:
            self._deadlines.remove(sequence)

    def promote(self, sequence: Sequence) -> None:
        """Put a sequence before all others of its class."""
        self.remove(sequence)
        sequence.is_promoted = True
        self.add(sequence)

    def best(self, virtual_times: Mapping[str, float], max_per_class: int) -> Iterator[Sequence]:
        """Yield the first of each class by the batcher's rank."""

        def rank(sequence: Sequence) -> tuple[bool, float, int]:
            virtual_time = virtual_times.get(sequence.work.tenant, 0.0)
            return (not sequence.is_promoted, virtual_time, sequence.arrival)

        for tenants in self._classes.values():
            # A tenant's own are in this order already: they all have its virtual time.
            yield from islice(heapq.merge(*tenants.values(), key=rank), max_per_class)

    def expired(self, now: float) -> list[Sequence]:
        """Return those whose deadline has passed."""
        return list(takewhile(lambda one: one.deadline <= now, self._deadlines))

    @property
    def due(self) -> float:
        """When the first of them is due."""
        first = self._dues.first
        return math.inf if first is None else first.due(self._itl_target_s)

    def tenants(self, priority: int) -> Collection[str]:
        """Return whose they are in a class."""
        return self._classes.get(priority, {}).keys()

    def counts(self) -> dict[int, int]:
        """Return how many there are in each class that has any."""
        return {
            priority: sum(map(len, tenants.values())) for priority, tenants in self._classes.items()
        }


def _rank_of_own(sequence: Sequence) -> tuple[bool, int]:
    """Rank among those of one class and tenant."""
    return (not sequence.is_promoted, sequence.arrival)

"""Requests at a simulated model: how far each is, and who waits in which order."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterator, Mapping
from itertools import chain, islice
from typing import Any

from llmos.engines.ordered import Ordered
from llmos.simulate.traces import Request


class Sequence:
    """One request at one model. Times are picoseconds.

    Args:
        priority: the class it is served in, which a policy without classes makes one for all.
        tenant: likewise.
    """

    __slots__ = (
        "end_tokens",
        "first_block",
        "first_ps",
        "id",
        "is_promoted",
        "last_ps",
        "num_blocks",
        "num_cached",
        "num_tokens",
        "priority",
        "request",
        "tenant",
    )

    def __init__(self, request: Request, priority: int, tenant: str) -> None:
        self.request = request
        self.id = str(request.number)
        self.priority = priority
        self.tenant = tenant
        self.num_tokens = request.prompt_tokens
        self.end_tokens = request.prompt_tokens + request.output_tokens
        self.num_cached = 0
        self.num_blocks = 0
        self.first_block = request.number << 24  # nobody shares a block
        self.is_promoted = False
        self.first_ps = -1
        """When its first token came; -1: not yet."""
        self.last_ps = -1

    @property
    def rank(self) -> tuple[bool, int]:
        """Among those of one class and tenant: the promoted one, then as they came."""
        return (not self.is_promoted, self.request.number)


class Waiting:
    """Sequences that hold no blocks, by class and tenant in the order of their rank."""

    def __init__(self) -> None:
        self._classes: dict[int, dict[str, Ordered[Sequence]]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def classes(self) -> Collection[int]:
        return self._classes.keys()

    def add(self, sequence: Sequence) -> None:
        tenants = self._classes.setdefault(sequence.priority, {})
        if sequence.tenant not in tenants:
            tenants[sequence.tenant] = Ordered(_rank)
        tenants[sequence.tenant].add(sequence)
        self._count += 1

    def remove(self, sequence: Sequence) -> None:
        tenants = self._classes[sequence.priority]
        tenants[sequence.tenant].remove(sequence)
        if not tenants[sequence.tenant]:
            del tenants[sequence.tenant]
        if not tenants:
            del self._classes[sequence.priority]
        self._count -= 1

    def best(self, virtual_times: Mapping[str, float], most: int) -> Iterator[Sequence]:
        """Yield the first ``most`` of each class by the batcher's rank, in any order."""

        def rank(sequence: Sequence) -> Any:
            virtual_time = virtual_times.get(sequence.tenant, 0.0)
            return (not sequence.is_promoted, virtual_time, sequence.request.number)

        for tenants in self._classes.values():
            if sum(map(len, tenants.values())) <= most:
                yield from chain.from_iterable(tenants.values())
                continue
            yield from islice(heapq.merge(*tenants.values(), key=rank), most)


def _rank(sequence: Sequence) -> tuple[bool, int]:
    return sequence.rank

"""Which devices a job computes on, its memory reserved in the ledger of each."""

from __future__ import annotations

import math
from collections.abc import Mapping

from llmos.errors import OutOfMemoryError
from llmos.kernel.ledger import Ledger, job_key


class Placing:
    """Reserves the memory of jobs: on the first device, or a part of it on each of several.

    Args:
        ledgers: by the device's name, the first the one that jobs share with its models.
        on_cpu: the devices are parts of one processor, and share its memory: jobs have the first.
    """

    def __init__(self, ledgers: Mapping[str, Ledger], *, on_cpu: bool) -> None:
        self._ledgers = dict(ledgers)
        self._first = next(iter(ledgers))
        self._on_cpu = on_cpu
        self._several: dict[int, tuple[str, ...]] = {}
        """The devices of jobs that have more than one, for as long as they have a worker."""

    def reserve(self, job_id: int, num_bytes: int) -> None:
        """Set memory aside, a part on each device that the job's worker has.

        Raises:
            OutOfMemoryError: so much is not free; nothing was reserved.
        """
        names = self._several.get(job_id, (self._first,))
        part_bytes = math.ceil(num_bytes / len(names))
        try:
            for name in names:
                self._ledgers[name].reserve(job_key(job_id), part_bytes)
        except OutOfMemoryError:
            self.free(job_id)
            raise

    def spread(self, job_id: int, count: int) -> tuple[str, ...]:
        """Have a job whose memory is reserved on the first device compute on up to ``count``: that
        one and those with most that is free, if a part fits there, of as many as fit.

        Returns their names; none where it stays on the first alone.
        """
        ledger, key = self._ledgers[self._first], job_key(job_id)
        num_bytes = ledger.reserved(key)
        if self._on_cpu or num_bytes is None:
            return ()
        others = [name for name in self._ledgers if name != self._first]
        others.sort(key=lambda name: -self._ledgers[name].free_bytes)
        for size in range(min(count, len(self._ledgers)), 1, -1):
            part_bytes = math.ceil(num_bytes / size)
            chosen = others[: size - 1]
            if self._ledgers[chosen[-1]].free_bytes >= part_bytes:
                for name in chosen:
                    self._ledgers[name].reserve(key, part_bytes)
                ledger.correct(key, part_bytes)
                self._several[job_id] = (self._first, *chosen)
                return self._several[job_id]
        return ()

    def free(self, job_id: int) -> None:
        """Give a job's memory back everywhere; its worker keeps its devices."""
        for ledger in self._ledgers.values():
            ledger.release(job_key(job_id))

    def forget(self, job_id: int) -> None:
        """Give a job's memory and devices back: its worker is gone."""
        self.free(job_id)
        self._several.pop(job_id, None)

"""Does what `yielding` decides, and knows what that depends on: the interactive requests that are
under way, and what is owed to the jobs that were held for them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from llmos.kernel.jobs import Job
from llmos.kernel.workers import Workers
from llmos.kernel.yielding import owed_after


@dataclass(slots=True)
class _Debt:
    """What is owed to one job, as of ``at`` (monotonic seconds)."""

    bound_s: float
    at: float
    owed_s: float = 0.0
    is_held: bool = False
    has_turn: bool = False

    def settle(self, now: float) -> None:
        """Bring it up to date, as long as nothing changes."""
        seconds = max(now - self.at, 0.0)
        self.owed_s = owed_after(self.owed_s, seconds, self.bound_s, held=self.is_held)
        self.at = now


class Yielder:
    """Holds jobs for interactive requests and lets them go on. Belongs to one event loop.

    Args:
        monotonic: seconds; no wall clock that is put back may hold jobs for longer.
        ageing_s: see `State`.
    """

    def __init__(self, workers: Workers, monotonic: Callable[[], float], ageing_s: float) -> None:
        self._workers = workers
        self._monotonic = monotonic
        self._ageing_s = ageing_s
        self._num_requests = 0
        self._last_at = -math.inf
        self._debts: dict[int, _Debt] = {}

    def request_began(self) -> None:
        """An interactive request came."""
        self._num_requests += 1

    def request_ended(self) -> None:
        """One that came has ended, whichever way."""
        self._num_requests -= 1
        self._last_at = self._monotonic()

    @property
    def is_waiting(self) -> bool:
        """Whether jobs are held though no request is under way any more."""
        return not self._num_requests and any(debt.is_held for debt in self._debts.values())

    def interactive_at(self, now: float) -> float:
        """Return when the last interactive request ended, on the clock on which it is ``now``;
        infinity while one is under way."""
        return math.inf if self._num_requests else now - (self._monotonic() - self._last_at)

    def owed(self, job: Job) -> tuple[float, bool]:
        """Return what is owed to a job that has a worker, and whether it has a turn."""
        now = self._monotonic()
        if (debt := self._debts.get(job.id)) is None:
            debt = self._debts[job.id] = _Debt(int(job.priority) * self._ageing_s, now)
        debt.settle(now)
        return debt.owed_s, debt.has_turn

    def pause(self, job_id: int) -> None:
        """Hold a job for interactive requests."""
        if debt := self._debts.get(job_id):
            debt.settle(self._monotonic())
            debt.is_held, debt.has_turn = True, False
            self._workers.hold(job_id, "interactive")

    def let_go_on(self, job_id: int, *, has_turn: bool) -> None:
        """Let a job go on that was held."""
        if debt := self._debts.get(job_id):
            debt.settle(self._monotonic())
            debt.is_held, debt.has_turn = False, has_turn
            self._workers.release(job_id, "interactive")

    def forget(self, job_id: int) -> None:
        """A job's worker is gone."""
        self._debts.pop(job_id, None)

"""Puts together what the scheduler looks at, from the parts of the kernel that know it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from llmos.kernel.accounts import Accounts
from llmos.kernel.fleet import Device
from llmos.kernel.jobs import Job, JobKind, JobState
from llmos.kernel.ledger import Ledger, job_key
from llmos.kernel.memory import MemoryWatch
from llmos.kernel.queue import JobQueue
from llmos.kernel.residency import Residency
from llmos.kernel.state import ActiveJob, ReadyJob, State
from llmos.kernel.usage import Usage
from llmos.kernel.view import QueuedJob, QueueView
from llmos.kernel.workers import Workers
from llmos.kernel.yielder import Yielder
from llmos.settings import Settings

AGEING_S = 300.0
LEAST_LIGHT = 4
"""Light jobs that may run at a time: a batch file of a day must not keep a pull of a minute."""


@dataclass(frozen=True, slots=True)
class Observer:
    """Sees everything `decide` needs to know.

    Args:
        clock: Unix seconds.
    """

    settings: Settings
    clock: Callable[[], float]
    ledger: Ledger
    jobs: JobQueue
    residency: Residency
    workers: Workers
    memory: MemoryWatch
    accounts: Accounts
    usage: Usage
    yielder: Yielder
    _preempted_at: dict[int, float] = field(default_factory=dict)
    """When jobs gave their place up for others, until they have one again (Unix seconds)."""
    _num_preempted: Counter[int] = field(default_factory=Counter)

    def state(self, view: QueueView) -> State:
        """Return the state of it all, given that of the queue."""
        now, max_workers = self.clock(), self.settings.max_workers
        parked = [job for job in view.active if self._is_parked(job)]
        resumable = (job for job in parked if job.state is not JobState.PAUSED)
        waiting: list[Job | QueuedJob] = [*view.ready, *resumable]
        active_ids = {job.id for job in view.active}
        ended = (job.id for job, _ in self.workers.running() if job.id not in active_ids)
        return State(
            now=now,
            free_bytes=self.ledger.free_bytes,
            capacity_bytes=self.ledger.capacity_bytes,
            max_workers=max_workers,
            max_light=max(max_workers, LEAST_LIGHT) if max_workers else 0,
            idle_s=self.settings.idle_s,
            ageing_s=AGEING_S,
            ready=tuple(
                self._ready(job, now)
                for job in waiting
                # Else its last worker is still on its way out.
                if (self.workers.pid(job.id) is None or job in parked)
                and self.accounts.may_compute(job.owner)
            ),
            active=tuple(self._active(job, now) for job in view.active if job not in parked),
            models=self.residency.resident(),
            wanted=self.residency.wanted(),
            leaving_bytes=sum(self.ledger.reserved(job_key(job_id)) or 0 for job_id in ended),
            interactive_at=self.yielder.interactive_at(now),
            yield_s=self.settings.yield_s,
            usage_s=self.usage.with_running(
                (job.owner, ran_s) for job, ran_s in self.workers.running()
            ),
        )

    def room_bytes(self) -> int:
        """Return what a job could take that is free, or held by models that nobody uses."""
        idle = (model for model in self.residency.resident() if model.num_users == 0)
        return self.ledger.free_bytes + sum(model.num_bytes for model in idle)

    def apart(self, device: Device) -> State:
        """Return the state of a device that has no part in the jobs."""
        return State(
            now=self.clock(),
            free_bytes=device.ledger.free_bytes,
            capacity_bytes=device.ledger.capacity_bytes,
            max_workers=0,
            idle_s=self.settings.idle_s,
            ageing_s=AGEING_S,
            models=device.residency.resident(),
            wanted=device.residency.wanted(),
        )

    def pressing(self) -> State:
        """Return the part of the state that decides which jobs give way now: what can be known
        without the database."""
        now = self.clock()
        return State(
            now=now,
            free_bytes=0,
            capacity_bytes=0,
            max_workers=0,
            idle_s=math.inf,
            ageing_s=AGEING_S,
            active=tuple(self._active(job, now) for job, _ in self.workers.running()),
            interactive_at=self.yielder.interactive_at(now),
            yield_s=self.settings.yield_s,
        )

    def preempted(self, job_id: int) -> None:
        """A job is to give its place up: it waits anew."""
        self._preempted_at[job_id] = self.clock()
        self._num_preempted[job_id] += 1

    def started(self, job_id: int) -> None:
        """A job has a place."""
        self._preempted_at.pop(job_id, None)

    def ended(self, job_id: int) -> None:
        """A job needs none any more."""
        self.started(job_id)
        del self._num_preempted[job_id]

    def is_light(self, job: Job | QueuedJob) -> bool:
        """Whether a job takes one of the workers for light ones."""
        kind = self._kind(job)
        return kind is not None and kind.light

    def _is_parked(self, job: Job) -> bool:
        """Whether a job waits for memory as a queued one does, though it has a worker."""
        standing = self.workers.standing(job.id)
        return standing is not None and standing.is_parked and not job.cancel_requested

    def _kind(self, job: Job | QueuedJob) -> JobKind | None:
        return self.jobs.kinds.get(job.kind)

    def _ready(self, job: Job | QueuedJob, now: float) -> ReadyJob:
        preempted_at, queued_at = self._preempted_at.get(job.id), job.queued_at or now
        return ReadyJob(
            job.id,
            job.owner,
            job.priority,
            queued_at if preempted_at is None else max(preempted_at, queued_at),
            job.reserved_bytes,
            self.is_light(job),
            was_preempted=preempted_at is not None,
        )

    def _active(self, job: Job, now: float) -> ActiveJob:
        reserved_bytes = self.ledger.reserved(job_key(job.id))
        seen = ActiveJob(
            job.id,
            job.fence,
            job.owner,
            job.lease_expires_at or 0.0,
            job.reserved_bytes if reserved_bytes is None else reserved_bytes,
            job.cancel_requested,
            self.is_light(job),
            job.priority,
            job.threads,
        )
        standing, kind = self.workers.standing(job.id), self._kind(job)
        if standing is None or kind is None:
            return seen
        owed_s, has_turn = self.yielder.owed(job)
        return replace(
            seen,
            lease_expires_at=now + standing.lease_left_s,
            gives_way=kind.gives_way and not kind.light,
            resumes=kind.resumes,
            is_leaving=standing.is_leaving,
            ran_s=standing.ran_s,
            num_preempted=self._num_preempted[job.id],
            held=standing.held,
            more_bytes=self.memory.wanted_bytes(job.id),
            owed_s=owed_s,
            has_turn=has_turn,
        )

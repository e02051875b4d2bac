"""What the kernel does with attempts at jobs: take them, keep what they say, settle how they end.

Every change is one fenced transaction, after which whoever follows the jobs is told. Attempts
happen at least once, commits exactly once. Submitting and asking for jobs is the queue's.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from sqlalchemy import Connection

from llmos.errors import LlmosError
from llmos.kernel.events import EVERYONES_JOBS, EventBus, owners_topic, topic
from llmos.kernel.job_rows import ACTIVE, find_jobs
from llmos.kernel.jobs import BACKOFF_LIMIT_S, Job, JobEvent, JobState
from llmos.kernel.transitions import Audit, JobChange, Outbox
from llmos.storage.database import Database
from llmos.storage.schema import jobs
from llmos.types import JobResult

T = TypeVar("T")

Commit = Callable[[Connection, Job, JobResult], Sequence[str] | None]
"""Stores a job's artifacts inside the transaction that ends it; may return their refs."""

Listener = Callable[[Job], Awaitable[None]]
"""Told of a job that has ended, once that is durable."""

BACKOFF_BASE_S = 1.0

log = logging.getLogger(__name__)


class Attempts:
    """Takes queued jobs for attempts and settles those.

    Args:
        clock: Unix seconds.
        rng: draws the delays of retries.
        bus: where events are published.
        audit: called in the transaction of each change, see `transitions.Audit`.
        outbox: takes the events that others asked to be sent.
    """

    def __init__(
        self,
        db: Database,
        clock: Callable[[], float],
        *,
        rng: random.Random,
        bus: EventBus | None = None,
        audit: Audit | None = None,
        outbox: Outbox | None = None,
    ) -> None:
        self._db = db
        self._clock = clock
        self._rng = rng
        self._bus = bus or EventBus()
        self._audit = audit
        self._outbox = outbox
        self._listeners: list[Listener] = []
        self.changed: Callable[[], None] = lambda: None
        """Called after every change; the kernel puts its own function here."""

    def on_end(self, listener: Listener) -> None:
        """Let ``listener`` be called with every job that ends, after the commit that ended it.

        Listeners are called in the order they came, before the change returns. What one raises is
        logged and breaks nothing. After a crash nobody is told of the jobs that had just ended.
        """
        self._listeners.append(listener)

    async def claim(
        self, job_id: int, lease_s: float, threads: int, *, at_once: bool = False
    ) -> Job | None:
        """Take a queued job for a new attempt; None when it is not to be had any more.

        Args:
            threads: recorded at the first start; later attempts keep that number.
            at_once: take also one that waits out a failure, or that was paused and has no attempt.
        """

        def change(change: JobChange) -> Job | None:
            return change.start(job_id, lease_s, threads, at_once=at_once)

        return await self._change(change)

    async def report(
        self,
        job_id: int,
        fence: int,
        lease_s: float,
        *,
        progress: dict[str, Any] | None = None,
        events: Sequence[tuple[str, dict[str, Any]]] = (),
        compute_s: float = 0.0,
    ) -> None:
        """Keep what a worker said, which also extends its lease.

        Args:
            events: (type, data) of log lines and metrics, in order.
            compute_s: seconds that it ran since the last time.

        Raises:
            FencedError: the attempt no longer holds the job; nothing was kept.
        """

        def change(change: JobChange) -> None:
            job = change.get_active(job_id, fence)
            seen: dict[str, Any] = {} if progress is None else {"progress": progress}
            seen["compute_s"] = job.compute_s + compute_s
            change.update(job, lease_expires_at=change.now + lease_s, **seen)
            for type, data in events:
                change.record(job, "metric" if type == "metric" else "log", data)
            if progress is not None:
                event = JobEvent(0, job_id, "progress", progress, change.now, job.owner)
                change.events.append(event)

        await self._change(change, wake=False)

    async def complete(self, job_id: int, fence: int, result: JobResult, commit: Commit) -> Job:
        """End an attempt with success: artifacts, result, state, dependants and the job that goes
        on from there in one transaction.

        Raises:
            FencedError: the attempt no longer holds the job; nothing was kept.
            LlmosError: what ``commit`` raised; nothing was kept.
        """

        def change(change: JobChange) -> Job:
            job = change.get_active(job_id, fence)
            refs = commit(change.connection, job, result) or ()
            kept = {**result.summary, "artifacts": list(refs)}
            if (following := self._queue_next(change, job, result, refs)) is not None:
                kept["next_job"] = following.id
            return change.finish(job, JobState.SUCCEEDED, result=kept)

        return await self._change(change)

    async def fail(self, job_id: int, fence: int, error: LlmosError, *, retryable: bool) -> Job:
        """End an attempt with an error: the job is queued again after a while, or fails for good.

        A job whose cancellation was asked for is cancelled instead. The delay has full jitter:
        uniform between 0 and 1, 2, 4, … up to 60 seconds.

        Raises:
            FencedError: the attempt no longer holds the job.
        """
        kept = {"code": error.code, "message": error.message}

        def change(change: JobChange) -> Job:
            job = change.get_active(job_id, fence)
            if job.cancel_requested:
                return change.finish(job, JobState.CANCELLED)
            failures = job.failures + 1
            if retryable and failures < job.max_attempts:
                not_before = change.now + jittered_s(self._rng, failures)
                return change.queue(job, not_before=not_before, failures=failures, error=kept)
            return change.finish(change.update(job, failures=failures), JobState.FAILED, error=kept)

        return await self._change(change)

    async def cancelled(self, job_id: int, fence: int) -> Job:
        """End an attempt whose handler gave up because of a cancellation. Raises FencedError."""

        def change(change: JobChange) -> Job:
            return change.finish(change.get_active(job_id, fence), JobState.CANCELLED)

        return await self._change(change)

    async def refuse(self, job_id: int, error: LlmosError) -> None:
        """Fail a job that was never started and cannot be; no-op if it is queued no longer."""

        def change(change: JobChange) -> None:
            job = change.get(job_id)
            if job.state is JobState.QUEUED:
                kept = {"code": error.code, "message": error.message}
                change.finish(job, JobState.FAILED, error=kept)

        await self._change(change)

    async def requeue(self, job_id: int, fence: int) -> Job:
        """Take an attempt's job back through no fault of its own; it may start at once, unless it
        is paused.

        Raises:
            FencedError: the attempt no longer holds the job.
        """

        return await self._change(lambda change: change.take_back(change.get_active(job_id, fence)))

    async def requeue_all(self) -> list[int]:
        """Take back every job that was running when the last server ended; return their ids."""

        def change(change: JobChange) -> list[int]:
            found = find_jobs(change.connection, ACTIVE.order_by(jobs.c.id))
            for job in found:
                change.take_back(job)
            return [job.id for job in found]

        return await self._change(change)

    # -- inside ----------------------------------------------------------------------------------

    def _queue_next(
        self, change: JobChange, job: Job, result: JobResult, refs: Sequence[str]
    ) -> Job | None:
        """Queue the job that goes on from one that succeeds, if there is to be one; return it."""
        return None

    async def _change(self, make: Callable[[JobChange], T], *, wake: bool = True) -> T:
        """Run ``make`` in a transaction, then tell of what it did."""

        def write(connection: Connection) -> tuple[T, JobChange]:
            change = JobChange(connection, self._clock(), self._audit, self._outbox)
            return make(change), change

        value, change = await self._db.write(write)
        for event in change.events:
            for name in (topic(event.job_id), owners_topic(event.owner), EVERYONES_JOBS):
                self._bus.publish(name, event)
        if change.has_mail and self._outbox is not None:
            self._outbox.wake()
        if wake:
            self.changed()
        for job in change.ended.values():
            await self._tell_ended(job)
        return value

    async def _tell_ended(self, job: Job) -> None:
        for listener in self._listeners:
            try:
                await listener(job)
            except Exception:  # a listener's top: the job has ended, whatever is made of it
                log.exception("what follows from the end of job %d failed", job.id)


def jittered_s(rng: random.Random, failures: int) -> float:
    """Return how long to wait after so many failures: full jitter, its limit doubling each time."""
    limit_s = min(BACKOFF_LIMIT_S, BACKOFF_BASE_S * 2 ** (failures - 1))
    return rng.uniform(0.0, limit_s)

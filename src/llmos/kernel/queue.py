"""The durable queue: jobs are rows, every change of one is a single fenced transaction.

Attempts happen at least once, commits exactly once. It starts nothing; the kernel does.
"""

from __future__ import annotations

import builtins
import difflib
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import Connection, case, func, select, update

from llmos.errors import ConflictError, InvalidRequestError, LlmosError, OutOfMemoryError
from llmos.kernel.events import EventBus
from llmos.kernel.jobs import ACTIVE_STATES, Job, JobEvent, JobKind, JobState, check_sendable
from llmos.kernel.ledger import format_bytes
from llmos.kernel.transitions import MAX_ID, Audit, JobChange, find_jobs, get_job
from llmos.kernel.view import QueueView, read_view
from llmos.storage.database import Database
from llmos.storage.schema import job_events, jobs
from llmos.types import JobResult, Priority

T = TypeVar("T")

Commit = Callable[[Connection, Job, JobResult], Sequence[str] | None]
"""Stores a job's artifacts inside the transaction that ends it; may return their refs."""

BACKOFF_BASE_S = 1.0
BACKOFF_LIMIT_S = 60.0


async def _keep_nothing(job_id: int) -> None:
    """There is nothing to clear away after a job."""


def topic(job_id: int) -> str:
    """Return the bus topic on which a job's events are published."""
    return f"job:{job_id}"


class JobQueue:
    """Submit, follow and cancel jobs; and, for the kernel, take and settle attempts.

    Args:
        kinds: every job kind by name.
        clock: Unix seconds.
        rng: draws the delays of retries.
        audit: called in the transaction of each change, see `transitions.Audit`.
        capacity_bytes: jobs that need more memory than this are refused; None: no such limit.
    """

    def __init__(
        self,
        db: Database,
        kinds: Mapping[str, JobKind],
        clock: Callable[[], float],
        *,
        rng: random.Random,
        bus: EventBus | None = None,
        audit: Audit | None = None,
        capacity_bytes: int | None = None,
    ) -> None:
        self._db = db
        self.kinds = kinds
        self._clock = clock
        self._rng = rng
        self._bus = bus or EventBus()
        self._audit = audit
        self._capacity_bytes = capacity_bytes
        self.changed: Callable[[], None] = lambda: None
        """Called after every change; the kernel puts its own function here."""
        self.ended: Callable[[int], Awaitable[None]] = _keep_nothing
        """Called with each job that became final; the kernel puts its own function here."""

    # -- for whoever asks for work ---------------------------------------------------------------

    async def submit(
        self,
        kind: str,
        params: dict[str, Any],
        *,
        owner: str,
        name: str = "",
        priority: Priority = Priority.STANDARD,
        after: Iterable[int] = (),
        actor: str | None = None,
    ) -> Job:
        """Write a job down, once its params are known to be good.

        Args:
            name: for people; the kind where it is empty.
            after: jobs of the same owner that must succeed first.
            actor: who asks, for the audit trail; the owner if not given.

        Raises:
            InvalidRequestError: there is no such kind, its schema refuses the params, or no worker
                could be told them (a number beyond 64 bits).
            JobNotFoundError: a job in ``after`` does not exist.
            ConflictError: a job in ``after`` failed or was cancelled.
            OutOfMemoryError: it needs more memory than there is.
        """
        job_kind = self.kind(kind)
        params = job_kind.schema(params)
        check_sendable(name, params)
        reserved_bytes = self._estimate(job_kind, params)
        row = {
            "kind": kind,
            "name": name or kind,
            "params": params,
            "priority": int(priority),
            "owner": owner,
            "max_attempts": job_kind.max_attempts,
            "reserved_bytes": reserved_bytes,
        }
        after_ids = sorted(set(after))
        return await self._change(lambda change: change.insert(row, after_ids, actor or owner))

    async def get(self, job_id: int) -> Job:
        """Return the job. Raises JobNotFoundError."""
        return await self._db.read(lambda connection: get_job(connection, job_id))

    async def list(
        self,
        *,
        owner: str | None = None,
        states: Iterable[JobState] | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> builtins.list[Job]:
        """Return jobs, the newest first: of one owner or all, with ids below ``before``."""
        query = select(jobs).order_by(jobs.c.id.desc()).limit(limit)
        if owner is not None:
            query = query.where(jobs.c.owner == owner)
        if states is not None:
            query = query.where(jobs.c.state.in_(list(states)))
        if before is not None:
            query = query.where(jobs.c.id < before)
        return await self._db.read(lambda connection: find_jobs(connection, query))

    async def events(
        self, job_id: int, after_event_id: int = 0, limit: int = 1000
    ) -> builtins.list[JobEvent]:
        """Return stored events of a job, oldest first. Raises JobNotFoundError."""
        query = (
            select(job_events)
            .where(job_events.c.job_id == job_id, job_events.c.id > min(after_event_id, MAX_ID))
            .order_by(job_events.c.id)
            .limit(limit)
        )

        def read(connection: Connection) -> builtins.list[JobEvent]:
            get_job(connection, job_id)
            rows = connection.execute(query)
            return [JobEvent(row.id, row.job_id, row.type, row.data, row.at) for row in rows]

        return await self._db.read(read)

    async def cancel(self, job_id: int, actor: str) -> Job:
        """End a job: at once if it is not running, else as soon as its worker is stopped.

        Raises:
            JobNotFoundError: there is no such job.
            ConflictError: it has succeeded or failed.
        """

        def change(change: JobChange) -> Job:
            job = change.get(job_id)
            if job.state in (JobState.SUCCEEDED, JobState.FAILED):
                raise ConflictError(f"Job {job_id} has {job.state} already.")
            if job.state is JobState.CANCELLED or job.cancel_requested:
                return job
            change.audited(actor, "job.cancel", job, {})
            if job.state in ACTIVE_STATES:
                change.update(job, cancel_requested=True)
                data = {"state": str(job.state), "attempt": job.attempt, "cancel_requested": True}
                change.record(job, "state", data)
            else:
                change.finish(job, JobState.CANCELLED, actor=actor)
            return change.get(job_id)

        return await self._change(change)

    async def set_paused(self, job_id: int, paused: bool, actor: str) -> Job:
        """Pause a running job, or let it go on; its handler gives way at its next step.

        Raises:
            JobNotFoundError: there is no such job.
            ConflictError: it is neither running nor paused.
        """
        state = JobState.PAUSED if paused else JobState.RUNNING

        def change(change: JobChange) -> Job:
            job = change.get(job_id)
            if job.state not in ACTIVE_STATES:
                raise ConflictError(f"Job {job_id} is {job.state}, not running.")
            if job.state is not state:
                change.audited(actor, "job.pause" if paused else "job.resume", job, {})
                change.update(job, state=state)
                change.record(job, "state", {"state": str(state), "attempt": job.attempt})
            return change.get(job_id)

        return await self._change(change)

    # -- for the kernel --------------------------------------------------------------------------

    def kind(self, name: str) -> JobKind:
        """Return a job kind. Raises InvalidRequestError when there is none, with the nearest."""
        if name not in self.kinds:
            near = difflib.get_close_matches(name, self.kinds, n=1, cutoff=0.0)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise InvalidRequestError(f"There is no job kind {name!r}.{hint}", param="kind")
        return self.kinds[name]

    async def view(self) -> QueueView:
        """Return what can run and what runs, for the scheduler."""
        now = self._clock()
        light = [name for name, kind in self.kinds.items() if kind.light]
        return await self._db.read(lambda connection: read_view(connection, now, light))

    async def claim(self, job_id: int, lease_s: float, threads: int) -> Job | None:
        """Take a queued job for a new attempt; None when it is not to be had any more.

        Args:
            threads: recorded at the first start; later attempts keep that number.
        """

        def change(change: JobChange) -> Job | None:
            done = change.connection.execute(
                update(jobs)
                .where(
                    jobs.c.id == job_id,
                    jobs.c.state == JobState.QUEUED,
                    jobs.c.not_before <= change.now,
                )
                .values(
                    state=JobState.RUNNING,
                    fence=jobs.c.fence + 1,
                    attempt=jobs.c.attempt + 1,
                    lease_expires_at=change.now + lease_s,
                    started_at=func.coalesce(jobs.c.started_at, change.now),
                    threads=case((jobs.c.threads == 0, threads), else_=jobs.c.threads),
                )
            )
            if done.rowcount == 0:
                return None
            job = change.get(job_id)
            change.record(job, "state", {"state": "running", "attempt": job.attempt})
            return job

        return await self._change(change)

    async def report(
        self,
        job_id: int,
        fence: int,
        lease_s: float,
        *,
        progress: dict[str, Any] | None = None,
        events: Sequence[tuple[str, dict[str, Any]]] = (),
    ) -> None:
        """Keep what a worker said, which also extends its lease.

        Args:
            events: (type, data) of log lines and metrics, in order.

        Raises:
            FencedError: the attempt no longer holds the job; nothing was kept.
        """

        def change(change: JobChange) -> None:
            job = change.get_active(job_id, fence)
            seen = {} if progress is None else {"progress": progress}
            change.update(job, lease_expires_at=change.now + lease_s, **seen)
            for type, data in events:
                change.record(job, "metric" if type == "metric" else "log", data)
            if progress is not None:
                change.events.append(JobEvent(0, job_id, "progress", progress, change.now))

        await self._change(change, wake=False)

    async def complete(self, job_id: int, fence: int, result: JobResult, commit: Commit) -> Job:
        """End an attempt with success: artifacts, result, state and dependants in one transaction.

        Raises:
            FencedError: the attempt no longer holds the job; nothing was kept.
            LlmosError: what ``commit`` raised; nothing was kept.
        """

        def change(change: JobChange) -> Job:
            job = change.get_active(job_id, fence)
            refs = commit(change.connection, job, result) or ()
            kept = {**result.summary, "artifacts": list(refs)}
            change.finish(job, JobState.SUCCEEDED, result=kept)
            return change.get(job_id)

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
            failures = job.failures + 1
            if job.cancel_requested:
                change.finish(job, JobState.CANCELLED)
            elif retryable and failures < job.max_attempts:
                limit_s = min(BACKOFF_LIMIT_S, BACKOFF_BASE_S * 2 ** (failures - 1))
                not_before = change.now + self._rng.uniform(0.0, limit_s)
                change.queue(job, not_before=not_before, failures=failures, error=kept)
            else:
                change.update(job, failures=failures)
                change.finish(job, JobState.FAILED, error=kept)
            return change.get(job_id)

        return await self._change(change)

    async def cancelled(self, job_id: int, fence: int) -> Job:
        """End an attempt whose handler gave up because of a cancellation. Raises FencedError."""

        def change(change: JobChange) -> Job:
            change.finish(change.get_active(job_id, fence), JobState.CANCELLED)
            return change.get(job_id)

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
        """Take an attempt's job back through no fault of its own; it may start at once.

        Raises:
            FencedError: the attempt no longer holds the job.
        """

        def change(change: JobChange) -> Job:
            change.take_back(change.get_active(job_id, fence))
            return change.get(job_id)

        return await self._change(change)

    async def requeue_all(self) -> builtins.list[int]:
        """Take back every job that was running when the last server ended; return their ids."""

        def change(change: JobChange) -> builtins.list[int]:
            query = select(jobs).where(jobs.c.state.in_(ACTIVE_STATES)).order_by(jobs.c.id)
            found = find_jobs(change.connection, query)
            for job in found:
                change.take_back(job)
            return [job.id for job in found]

        return await self._change(change)

    # -- inside ----------------------------------------------------------------------------------

    async def _change(self, make: Callable[[JobChange], T], *, wake: bool = True) -> T:
        """Run ``make`` in a transaction, then publish its events."""

        def write(connection: Connection) -> tuple[T, JobChange]:
            change = JobChange(connection, self._clock(), self._audit)
            return make(change), change

        value, change = await self._db.write(write)
        for event in change.events:
            self._bus.publish(topic(event.job_id), event)
        if wake:
            self.changed()
        for job_id in change.ended:
            await self.ended(job_id)
        return value

    def _estimate(self, kind: JobKind, params: dict[str, Any]) -> int:
        num_bytes = kind.estimate(params)
        if self._capacity_bytes is not None and num_bytes > self._capacity_bytes:
            raise OutOfMemoryError(
                f"This job needs about {format_bytes(num_bytes)} of memory and llmos may use "
                f"{format_bytes(self._capacity_bytes)}: make it smaller or raise memory_bytes."
            )
        return num_bytes

"""The durable queue: jobs are rows, every change of one is a single fenced transaction.

Here work is asked for, followed and called off; what becomes of attempts is in `attempts`. It
starts nothing; the kernel does.
"""

from __future__ import annotations

import asyncio
import builtins
import difflib
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import ColumnElement, Connection, func, select, true

from llmos.errors import ConflictError, InvalidRequestError, OutOfMemoryError
from llmos.kernel.attempts import Attempts
from llmos.kernel.events import EventBus
from llmos.kernel.idempotency import Idempotency
from llmos.kernel.job_rows import MAX_ID, find_jobs, get_job
from llmos.kernel.jobs import ACTIVE_STATES, Job, JobEvent, JobKind, JobState, check_sendable
from llmos.kernel.ledger import format_bytes
from llmos.kernel.transitions import KERNEL_ACTOR, LOST_STATES, Audit, JobChange, Outbox
from llmos.kernel.view import QueueView, read_view
from llmos.storage.database import Database
from llmos.storage.schema import job_events, jobs
from llmos.types import JobResult, Priority

Predict = Callable[[JobKind, dict[str, Any], int], int]
"""Takes a job's kind, its checked params and the bytes that its kind declares; returns those to
reserve."""


Admit = Callable[[Connection, str], None]
"""Takes the owner of a job to be queued; raises QuotaExceededError when it may queue no more."""

HasRoom = Callable[[str], Awaitable[None]]
"""Takes the owner of a job to be queued; raises QuotaExceededError when it may store no more."""

NextJob = Callable[[Job, JobResult, Sequence[str]], tuple[str, dict[str, Any]] | None]
"""Takes a job that succeeds, its result and the refs of what it made; returns kind and params of
the job that goes on from there, in its name and class; None: there is none."""


class JobQueue(Attempts):
    """Submit, follow, cancel and retry jobs; and, for the kernel, what `Attempts` does.

    Args:
        kinds: every job kind by name.
        clock: Unix seconds.
        rng, bus, audit, outbox: see `Attempts`.
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
        outbox: Outbox | None = None,
        capacity_bytes: int | None = None,
    ) -> None:
        super().__init__(db, clock, rng=rng, bus=bus, audit=audit, outbox=outbox)
        self.kinds = kinds
        self._capacity_bytes = capacity_bytes
        self.predict: Predict = _as_declared
        """Says how much a job is to reserve; the kernel puts its own function here."""
        self.admit: Admit = _admit_all
        """Called before a job is queued, in the same transaction; the kernel puts its own here."""
        self.check_room: HasRoom = _has_room
        """Called before that transaction, which must not wait for it; the kernel's likewise."""
        self.next_job: NextJob = _no_next
        """Says what follows from a job; who knows the kinds puts its own function here."""

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
        run_id: int | None = None,
        idempotency: Idempotency | None = None,
        asker: dict[str, Any] | None = None,
        also: Callable[[Connection, Job], object] | None = None,
    ) -> Job:
        """Write a job down, once its params are known to be good.

        Args:
            name: for people; the kind where it is empty.
            after: jobs of the same owner that must succeed first. As they exist already, no jobs
                can wait for each other in a circle.
            actor: who asks, for the audit trail; the owner if not given.
            run_id: the pipeline run it is a step of.
            idempotency: of the request; the job that it made before is returned, whatever became
                of that.
            asker: on whose terms it may ask the server, see `JobContext.ask`; None: it may not.
            also: writes what belongs to the new job, in the same transaction.

        Raises:
            InvalidRequestError: there is no such kind, its schema refuses the params, or no worker
                could be told them (a number beyond 64 bits).
            JobNotFoundError: a job in ``after`` does not exist.
            ConflictError: a job in ``after`` failed or was cancelled; or another request came with
                the same idempotency key.
            OutOfMemoryError: it needs more memory than there is.
            QuotaExceededError: its owner may queue, or store, no more.
        """
        job_kind = self.kind(kind)
        params = await asyncio.to_thread(job_kind.schema, params)
        check_sendable(name, params)
        row: dict[str, Any] = {
            "kind": kind,
            "name": name or kind,
            "params": params,
            "priority": int(priority),
            "owner": owner,
            "max_attempts": job_kind.max_attempts,
            "reserved_bytes": self.estimate(job_kind, params),
            "run_id": run_id,
            "asker": asker,
        }
        after_ids, by = sorted(set(after)), actor or owner
        if idempotency is not None:
            row |= {"idempotency_key": idempotency.key, "request_digest": idempotency.digest}

        def insert(change: JobChange) -> Job:
            if idempotency is not None:
                made_before = idempotency.find(change.connection, owner)
                if made_before is not None:
                    return made_before
            job = self._insert(change, row, after_ids, by)
            if also is not None:
                also(change.connection, job)
            return job

        await self.check_room(owner)
        return await self._change(insert)

    async def submitted(self, owner: str, idempotency: Idempotency) -> Job | None:
        """Return the job that this request of ``owner`` made before; None when there is none.

        Raises:
            ConflictError: the key came with another request.
        """
        return await self._db.read(lambda connection: idempotency.find(connection, owner))

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

        def read(connection: Connection) -> builtins.list[JobEvent]:
            get_job(connection, job_id)
            return _events(connection, job_events.c.job_id == job_id, after_event_id, limit)

        return await self._db.read(read)

    async def events_of(
        self, owner: str | None, after_event_id: int, limit: int = 1000
    ) -> builtins.list[JobEvent]:
        """Return stored events of all jobs of one owner, or of everyone, oldest first."""
        whose = true() if owner is None else job_events.c.owner == owner
        return await self._db.read(
            lambda connection: _events(connection, whose, after_event_id, limit)
        )

    async def newest_event_id(self) -> int:
        """Return the id of the last event that was stored; 0 when there is none."""
        newest = select(func.max(job_events.c.id))
        return await self._db.read(lambda connection: connection.scalar(newest) or 0)

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
            if job.is_active:
                change.update(job, cancel_requested=True)
                data = {"state": str(job.state), "attempt": job.attempt, "cancel_requested": True}
                change.record(job, "state", data)
            else:
                change.finish(job, JobState.CANCELLED, actor=actor)
            return change.get(job_id)

        return await self._change(change)

    async def retry(self, job_id: int, actor: str) -> Job:
        """Queue a job that failed or was cancelled again, with all its attempts before it.

        Its history stays and its fence rises. Jobs that failed only because it did come back with
        it and wait for it once more; those that were cancelled stay so.

        Raises:
            JobNotFoundError: there is no such job.
            ConflictError: it has neither failed nor been cancelled, or what it waits for has.
            QuotaExceededError: its owner may queue, or store, no more.
        """

        await self.check_room((await self.get(job_id)).owner)

        def change(change: JobChange) -> Job:
            job = change.get(job_id)
            if job.state not in LOST_STATES:
                raise ConflictError(
                    f"Job {job_id} is {job.state}: a job that failed or was cancelled is retried."
                )
            if lost := change.lost_before(job):
                raise ConflictError(
                    f"Job {job_id} waits for job {lost[0]}, which did not succeed: retry that one."
                )
            self.admit(change.connection, job.owner)
            change.audited(actor, "job.retry", job, {})
            return change.revive(job)

        return await self._change(change)

    async def set_paused(self, job_id: int, paused: bool, actor: str) -> Job:
        """Pause a running job, or let it go on; its handler gives way at its next step. One whose
        attempt has ended meanwhile is queued again when it may go on.

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
                if job.is_active:
                    change.update(job, state=state)
                    change.record(job, "state", {"state": str(state), "attempt": job.attempt})
                else:
                    resumed = replace(job, state=state, queued_at=None)  # it waits from now on
                    change.queue(resumed, not_before=job.not_before)
            return change.get(job_id)

        return await self._change(change)

    def kind(self, name: str) -> JobKind:
        """Return a job kind. Raises InvalidRequestError when there is none, with the nearest."""
        if name not in self.kinds:
            near = difflib.get_close_matches(name, self.kinds, n=1, cutoff=0.0)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise InvalidRequestError(f"There is no job kind {name!r}.{hint}", param="kind")
        return self.kinds[name]

    async def view(self, room_bytes: int = 0) -> QueueView:
        """Return what can run and what runs, for the scheduler.

        Args:
            room_bytes: what a job may take without anyone having to give way.
        """
        now = self._clock()
        return await self._db.read(lambda connection: read_view(connection, now, room_bytes))

    def _insert(
        self, change: JobChange, row: dict[str, Any], after_ids: builtins.list[int], actor: str
    ) -> Job:
        self.admit(change.connection, row["owner"])
        return change.insert(row, after_ids, actor)

    def _queue_next(
        self, change: JobChange, job: Job, result: JobResult, refs: Sequence[str]
    ) -> Job | None:
        wanted = self.next_job(job, result, refs)
        if wanted is None:
            return None
        kind, params = self.kind(wanted[0]), self.kind(wanted[0]).schema(wanted[1])
        row: dict[str, Any] = {
            "kind": kind.name,
            "name": job.name,
            "params": params,
            "priority": int(job.priority),
            "owner": job.owner,
            "max_attempts": kind.max_attempts,
            "reserved_bytes": self.predict(kind, params, kind.estimate(params)),
        }
        return change.insert(row, [], KERNEL_ACTOR)

    def estimate(self, kind: JobKind, params: dict[str, Any]) -> int:
        """Return how much memory a job with these complete params is to reserve, in bytes.

        Raises:
            OutOfMemoryError: it needs more than there is.
        """
        num_bytes = kind.estimate(params)
        if self._capacity_bytes is not None and num_bytes > self._capacity_bytes:
            raise OutOfMemoryError(
                f"This job needs about {format_bytes(num_bytes)} of memory and llmos may use "
                f"{format_bytes(self._capacity_bytes)}: make it smaller or raise memory_bytes."
            )
        return self.predict(kind, params, num_bytes)


def _as_declared(kind: JobKind, params: dict[str, Any], declared_bytes: int) -> int:
    return declared_bytes


async def _has_room(owner: str) -> None:
    pass


def _no_next(job: Job, result: JobResult, refs: Sequence[str]) -> None:
    """Let nothing follow."""


def _admit_all(connection: Connection, owner: str) -> None:
    """Let everybody queue as much as they like."""


def _events(
    connection: Connection, whose: ColumnElement[bool], after_event_id: int, limit: int
) -> list[JobEvent]:
    query = (
        select(job_events)
        .where(whose, job_events.c.id > min(after_event_id, MAX_ID))
        .order_by(job_events.c.id)
        .limit(limit)
    )
    return [
        JobEvent(row.id, row.job_id, row.type, row.data, row.at, row.owner)
        for row in connection.execute(query)
    ]

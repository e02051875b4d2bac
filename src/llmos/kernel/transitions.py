"""Changes of a job's state inside one open transaction, with the events and audit they leave.

Not a place for decisions: the queue says what happens, this makes it consistent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from sqlalchemy import Connection, insert, select

from llmos.errors import ConflictError, DependencyFailedError, FencedError
from llmos.kernel.job_rows import (
    dependants,
    get_job,
    insert_job,
    not_found,
    start_job,
    update_job,
)
from llmos.kernel.jobs import Job, JobEvent, JobState
from llmos.storage.schema import job_after, job_events, jobs
from llmos.storage.statements import Statement

Audit = Callable[[Connection, str, str, str, dict[str, Any], float], object]
"""``audit(connection, actor, action, object, detail, at)``"""

KERNEL_ACTOR = "kernel"
LOST_STATES = (JobState.FAILED, JobState.CANCELLED)
"""Final states after which nothing that waits for the job can run."""

_INSERT_EVENT = Statement(
    insert(job_events).returning(job_events.c.id), sets=("job_id", "type", "data", "at", "owner")
)


class Outbox(Protocol):
    """Where events are put that are to be sent to whoever asked for them, see `webhooks`."""

    def wants(self, owner: str) -> bool:
        """Whether events of this owner may be wanted."""

    def put(
        self, connection: Connection, owner: str, event: str, data: dict[str, Any], at: float
    ) -> None:
        """Write an event down in the transaction of the change that it is about."""

    def wake(self) -> None:
        """Send what was put; called once that is durable."""


@dataclass(slots=True)
class JobChange:
    """One transaction on jobs: its connection, its time, and what to tell once it is durable."""

    connection: Connection
    now: float
    audit: Audit | None
    outbox: Outbox | None = None
    events: list[JobEvent] = field(default_factory=list)
    ended: dict[int, Job] = field(default_factory=dict)
    """The jobs that became final, by id."""
    has_mail: bool = False
    """Something was put into the outbox."""

    # -- reading ---------------------------------------------------------------------------------

    def get(self, job_id: int) -> Job:
        """Return the job. Raises JobNotFoundError."""
        return get_job(self.connection, job_id)

    def get_active(self, job_id: int, fence: int) -> Job:
        """Return the job if the attempt with ``fence`` still holds it. Raises FencedError."""
        job = self.get(job_id)
        if job.fence != fence or not job.is_active:
            raise fenced(job_id, fence)
        return job

    # -- writing ---------------------------------------------------------------------------------

    def insert(self, row: dict[str, Any], after_ids: list[int], actor: str) -> Job:
        """Add a job that waits for ``after_ids``. Raises JobNotFoundError, ConflictError."""
        states = [self._dependency(after_id, row["owner"]) for after_id in after_ids]
        is_ready = all(state is JobState.SUCCEEDED for state in states)
        begun = {"state": JobState.QUEUED, "queued_at": self.now} if is_ready else {}
        values = {"state": JobState.WAITING, "created_at": self.now, **row, **begun}
        job = insert_job(self.connection, values, tuple(after_ids))
        links = [{"job_id": job.id, "after_id": id, "owner": job.owner} for id in after_ids]
        if links:
            self.connection.execute(insert(job_after), links)
        self.audited(actor, "job.submit", job, {"kind": job.kind, "name": job.name})
        self.record(job, "state", _state_data(job))
        if is_ready:
            self.tell(job)
        return job

    def update(self, job: Job, **values: Any) -> Job:
        """Write columns of ``job``; return it as it is then.

        Raises:
            FencedError: another attempt holds it by now.
        """
        updated = update_job(self.connection, job, values)
        if updated is None:
            raise fenced(job.id, job.fence)
        return updated

    def start(
        self, job_id: int, lease_s: float, threads: int, *, at_once: bool = False
    ) -> Job | None:
        """Take a queued job for a new attempt; None when it is not to be had any more. With
        ``at_once`` also one that waits out a failure, or that was paused and has no attempt."""
        lease_until = self.now + lease_s
        job = start_job(self.connection, job_id, self.now, lease_until, threads, at_once)
        if job is None:
            return None
        self.record(job, "state", _state_data(job))
        self.tell(job)
        return job

    def record(
        self, job: Job, type: Literal["state", "log", "metric"], data: dict[str, Any]
    ) -> None:
        """Add an event to the job's history."""
        row = {"job_id": job.id, "type": type, "data": data, "at": self.now, "owner": job.owner}
        (made,) = _INSERT_EVENT.run(self.connection, row)
        self.events.append(JobEvent(made["id"], job.id, type, data, self.now, job.owner))

    def tell(self, job: Job) -> None:
        """Put the state that ``job`` has come to into the outbox, if anyone wants it."""
        if self.outbox is not None and self.outbox.wants(job.owner):
            verb = "started" if job.state is JobState.RUNNING else str(job.state)
            self.outbox.put(self.connection, job.owner, f"job.{verb}", job.summary(), self.now)
            self.has_mail = True

    def audited(self, actor: str, action: str, job: Job, detail: dict[str, Any]) -> None:
        """Leave an audit event, if anyone keeps them."""
        if self.audit is not None:
            self.audit(self.connection, actor, action, f"job:{job.id}", detail, self.now)

    def finish(
        self,
        job: Job,
        state: JobState,
        *,
        error: dict[str, str] | None = None,
        result: dict[str, Any] | None = None,
        actor: str = KERNEL_ACTOR,
    ) -> Job:
        """Bring ``job`` to a final state; jobs that wait for it are queued, or fail with it."""
        wanted = [(job, state, error, result)]
        while wanted:
            each, state, error, result = wanted.pop()
            if each.id in self.ended:
                continue
            ended = self.update(
                each,
                state=state,
                finished_at=self.now,
                lease_expires_at=None,
                error=None if state is JobState.SUCCEEDED else error or each.error,
                result=result,
            )
            self.ended[each.id] = ended
            self.record(ended, "state", _state_data(ended, error))
            self.audited(actor, "job.finish", ended, {"state": str(state)})
            self.tell(ended)
            for dependant in self._dependants(ended, JobState.WAITING):
                if state is not JobState.SUCCEEDED:
                    wanted.append((dependant, JobState.FAILED, _dependency_error(ended), None))
                elif not self._unfinished_before(dependant):
                    self.queue(dependant)
        return self.ended[job.id]

    def queue(self, job: Job, *, not_before: float = 0.0, **values: Any) -> Job:
        """Make ``job`` ready to be started, its fence raised so that no old attempt may commit.
        A paused one stays so, and is ready once it is resumed."""
        is_paused = job.state is JobState.PAUSED
        queued = self.update(
            job,
            state=JobState.PAUSED if is_paused else JobState.QUEUED,
            fence=job.fence + 1,
            queued_at=self.now if job.queued_at is None else job.queued_at,
            lease_expires_at=None,
            not_before=not_before,
            **values,
        )
        self.record(queued, "state", _state_data(queued, values.get("error")))
        if not is_paused:
            self.tell(queued)
        return queued

    def take_back(self, job: Job) -> Job:
        """Queue an attempt's job again at no cost to it, or end it if that was asked for."""
        if job.cancel_requested:
            return self.finish(job, JobState.CANCELLED)
        return self.queue(job)

    def revive(self, job: Job) -> Job:
        """Let a job that failed or was cancelled run again, and those that failed only with it."""
        revived = self._revive(job)
        unseen = [revived]
        while unseen:
            for dependant in self._dependants(unseen.pop(), JobState.FAILED):
                failed_with_another = (dependant.error or {}).get(
                    "code"
                ) == DependencyFailedError.code
                if failed_with_another and not self.lost_before(dependant):
                    unseen.append(self._revive(dependant))
        return revived

    def lost_before(self, job: Job) -> list[int]:
        """Return the jobs that ``job`` waits for in vain: they failed or were cancelled."""
        query = (
            select(jobs.c.id)
            .join(job_after, job_after.c.after_id == jobs.c.id)
            .where(job_after.c.job_id == job.id, jobs.c.state.in_(LOST_STATES))
            .order_by(jobs.c.id)
        )
        return list(self.connection.scalars(query))

    # -- inside ----------------------------------------------------------------------------------

    def _revive(self, job: Job) -> Job:
        anew: dict[str, Any] = {"failures": 0, "cancel_requested": False}
        anew |= {"finished_at": None, "progress": None}
        if not self._unfinished_before(job):
            return self.queue(replace(job, queued_at=None), **anew)
        anew |= {"state": JobState.WAITING, "fence": job.fence + 1, "queued_at": None}
        waiting = self.update(job, **anew)
        self.record(waiting, "state", _state_data(waiting))
        return waiting

    def _dependency(self, job_id: int, owner: str) -> JobState:
        """Return the state of a job to wait for; another owner's does not exist for this one."""
        job = self.get(job_id)
        if job.owner != owner:
            raise not_found(job_id)
        if job.state in LOST_STATES:
            raise ConflictError(f"Job {job_id} is {job.state}, so nothing can run after it.")
        return job.state

    def _dependants(self, job: Job, state: JobState) -> list[Job]:
        """Return the jobs in ``state`` that come after ``job``, the newest first."""
        return dependants(self.connection, job.id, state)

    def _unfinished_before(self, job: Job) -> bool:
        query = (
            select(jobs.c.id)
            .join(job_after, job_after.c.after_id == jobs.c.id)
            .where(job_after.c.job_id == job.id, jobs.c.state != JobState.SUCCEEDED)
        )
        return self.connection.execute(query.limit(1)).first() is not None


def fenced(job_id: int, fence: int) -> FencedError:
    """Return the error for an attempt that lost its job."""
    return FencedError(f"Attempt with fence {fence} no longer holds job {job_id}.")


def _state_data(job: Job, error: dict[str, str] | None = None) -> dict[str, Any]:
    data: dict[str, Any] = {"state": str(job.state), "attempt": job.attempt}
    return data | {"error": error} if error else data


def _dependency_error(job: Job) -> dict[str, str]:
    how = "was cancelled" if job.state is JobState.CANCELLED else "failed"
    message = f"Job {job.id} ({job.name}), which this one waited for, {how}."
    return {"code": DependencyFailedError.code, "message": message}

"""Changes of a job's state inside one open transaction, with the events and audit they leave.

Not a place for decisions: the queue says what happens, this makes it consistent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from sqlalchemy import Connection, RowMapping, Select, insert, select, update

from llmos.errors import ConflictError, FencedError, JobFailedError, JobNotFoundError
from llmos.kernel.jobs import ACTIVE_STATES, Job, JobEvent, JobState
from llmos.storage.schema import job_after, job_events, jobs
from llmos.types import Priority

Audit = Callable[[Connection, str, str, str, dict[str, Any], float], object]
"""``audit(connection, actor, action, object, detail, at)``"""

KERNEL_ACTOR = "kernel"
MAX_ID = 2**63 - 1


@dataclass(slots=True)
class JobChange:
    """One transaction on jobs: its connection, its time, and what to tell once it is durable."""

    connection: Connection
    now: float
    audit: Audit | None
    events: list[JobEvent] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)
    """Ids of the jobs that became final."""

    # -- reading ---------------------------------------------------------------------------------

    def get(self, job_id: int) -> Job:
        """Return the job. Raises JobNotFoundError."""
        return get_job(self.connection, job_id)

    def get_active(self, job_id: int, fence: int) -> Job:
        """Return the job if the attempt with ``fence`` still holds it. Raises FencedError."""
        job = self.get(job_id)
        if job.fence != fence or job.state not in ACTIVE_STATES:
            raise fenced(job_id, fence)
        return job

    # -- writing ---------------------------------------------------------------------------------

    def insert(self, row: dict[str, Any], after_ids: list[int], actor: str) -> Job:
        """Add a job that waits for ``after_ids``. Raises JobNotFoundError, ConflictError."""
        states = [self._dependency(after_id, row["owner"]) for after_id in after_ids]
        created = insert(jobs).values(row | {"state": JobState.WAITING, "created_at": self.now})
        key = self.connection.execute(created).inserted_primary_key
        assert key is not None
        links = [{"job_id": key[0], "after_id": id, "owner": row["owner"]} for id in after_ids]
        if links:
            self.connection.execute(insert(job_after), links)
        job = self.get(key[0])
        self.audited(actor, "job.submit", job, {"kind": job.kind, "name": job.name})
        if all(state is JobState.SUCCEEDED for state in states):
            self.queue(job)
        else:
            self.record(job, "state", _state_data(job.state, job.attempt, None))
        return self.get(job.id)

    def update(self, job: Job, **values: Any) -> None:
        """Write columns of ``job``. Raises FencedError when another attempt holds it by now."""
        done = self.connection.execute(
            update(jobs).where(jobs.c.id == job.id, jobs.c.fence == job.fence).values(values)
        )
        if done.rowcount != 1:
            raise fenced(job.id, job.fence)

    def record(
        self, job: Job, type: Literal["state", "log", "metric"], data: dict[str, Any]
    ) -> None:
        """Add an event to the job's history."""
        row = {"job_id": job.id, "type": type, "data": data, "at": self.now, "owner": job.owner}
        event_id = self.connection.execute(insert(job_events).values(row)).inserted_primary_key
        assert event_id is not None
        self.events.append(JobEvent(event_id[0], job.id, type, data, self.now))

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
    ) -> None:
        """Bring ``job`` to a final state; jobs that wait for it are queued, or fail with it."""
        ended = [(job, state, error)]
        while ended:
            job, state, error = ended.pop()
            if self.get(job.id).state.is_final:
                continue
            self.update(
                job,
                state=state,
                finished_at=self.now,
                lease_expires_at=None,
                error=None if state is JobState.SUCCEEDED else error or job.error,
                result=result,
            )
            self.record(job, "state", _state_data(state, job.attempt, error))
            self.audited(actor, "job.finish", job, {"state": str(state)})
            self.ended.append(job.id)
            for dependant in self._waiting_for(job):
                if state is not JobState.SUCCEEDED:
                    ended.append((dependant, JobState.FAILED, _dependency_error(job, state)))
                elif not self._unfinished_before(dependant):
                    self.queue(dependant)
            result = None

    def queue(self, job: Job, *, not_before: float = 0.0, **values: Any) -> None:
        """Make ``job`` ready to be started, its fence raised so that no old attempt may commit."""
        self.update(
            job,
            state=JobState.QUEUED,
            fence=job.fence + 1,
            queued_at=self.now if job.queued_at is None else job.queued_at,
            lease_expires_at=None,
            not_before=not_before,
            **values,
        )
        self.record(job, "state", _state_data(JobState.QUEUED, job.attempt, values.get("error")))

    def take_back(self, job: Job) -> None:
        """Queue an attempt's job again at no cost to it, or end it if that was asked for."""
        if job.cancel_requested:
            self.finish(job, JobState.CANCELLED)
        else:
            self.queue(job)

    def _dependency(self, job_id: int, owner: str) -> JobState:
        """Return the state of a job to wait for; another owner's does not exist for this one."""
        job = self.get(job_id)
        if job.owner != owner:
            raise not_found(job_id)
        if job.state in (JobState.FAILED, JobState.CANCELLED):
            raise ConflictError(f"Job {job_id} is {job.state}, so nothing can run after it.")
        return job.state

    def _waiting_for(self, job: Job) -> list[Job]:
        return find_jobs(
            self.connection,
            select(jobs)
            .join(job_after, job_after.c.job_id == jobs.c.id)
            .where(job_after.c.after_id == job.id, jobs.c.state == JobState.WAITING)
            .order_by(jobs.c.id.desc()),
        )

    def _unfinished_before(self, job: Job) -> bool:
        query = (
            select(jobs.c.id)
            .join(job_after, job_after.c.after_id == jobs.c.id)
            .where(job_after.c.job_id == job.id, jobs.c.state != JobState.SUCCEEDED)
        )
        return self.connection.execute(query.limit(1)).first() is not None


def get_job(connection: Connection, job_id: int) -> Job:
    """Return the job. Raises JobNotFoundError."""
    if not 0 < job_id <= MAX_ID:
        raise not_found(job_id)
    found = find_jobs(connection, select(jobs).where(jobs.c.id == job_id))
    if not found:
        raise not_found(job_id)
    return found[0]


def find_jobs(connection: Connection, query: Select[Any]) -> list[Job]:
    """Run a query for whole rows of the jobs table and return them as values."""
    rows = connection.execute(query).mappings().all()
    after: dict[int, list[int]] = {row["id"]: [] for row in rows}
    links = select(job_after.c.job_id, job_after.c.after_id).where(job_after.c.job_id.in_(after))
    for job_id, after_id in connection.execute(links.order_by(job_after.c.after_id)):
        after[job_id].append(after_id)
    return [_job(row, tuple(after[row["id"]])) for row in rows]


def not_found(job_id: int) -> JobNotFoundError:
    """Return the error for a job that is not there."""
    return JobNotFoundError(f"There is no job {job_id}: `llmos jobs` shows those there are.")


def fenced(job_id: int, fence: int) -> FencedError:
    """Return the error for an attempt that lost its job."""
    return FencedError(f"Attempt with fence {fence} no longer holds job {job_id}.")


def _job(row: RowMapping, after: tuple[int, ...]) -> Job:
    values = dict(row)
    values["state"] = JobState(values["state"])
    values["priority"] = Priority(values["priority"])
    return Job(**values, after=after)


def _state_data(state: JobState, attempt: int, error: dict[str, str] | None) -> dict[str, Any]:
    data: dict[str, Any] = {"state": str(state), "attempt": attempt}
    return data | {"error": error} if error else data


def _dependency_error(job: Job, state: JobState) -> dict[str, str]:
    how = "was cancelled" if state is JobState.CANCELLED else "failed"
    return {
        "code": JobFailedError.code,
        "message": f"Job {job.id} ({job.name}), which this one waited for, {how}.",
    }

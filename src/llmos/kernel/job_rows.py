"""The rows of the jobs table as values: how one is found, added, started and changed.

What every job goes through runs as statements compiled once; what they may change is not decided
here.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Connection,
    Float,
    Select,
    bindparam,
    case,
    func,
    insert,
    or_,
    select,
    update,
)

from llmos.errors import JobNotFoundError
from llmos.kernel.jobs import ACTIVE_STATES, BACKOFF_LIMIT_S, Job, JobState
from llmos.storage.schema import job_after, jobs
from llmos.storage.statements import Statement
from llmos.types import Priority

MAX_ID = 2**63 - 1


def is_due(not_before: ColumnElement[float]) -> ColumnElement[bool]:
    """Return the condition that a job need not wait at ``now``, a parameter.

    Where it would have to for longer than jobs do, the clock ran ahead when that was written down.
    """
    now = bindparam("now", type_=Float)
    return or_(not_before <= now, not_before > now + BACKOFF_LIMIT_S)


_THIS_ID: BindParameter[int] = bindparam("this_id")
_JOB = Statement(select(jobs).where(jobs.c.id == _THIS_ID))


def _start(*conditions: ColumnElement[bool]) -> Statement:
    """Return what gives a job that fits ``conditions`` to a new attempt."""
    return Statement(
        update(jobs)
        .where(jobs.c.id == _THIS_ID, *conditions)
        .values(
            state=JobState.RUNNING,
            fence=jobs.c.fence + 1,
            attempt=jobs.c.attempt + 1,
            lease_expires_at=bindparam("lease_until"),
            started_at=func.coalesce(jobs.c.started_at, bindparam("now")),
            threads=case((jobs.c.threads == 0, bindparam("num_threads")), else_=jobs.c.threads),
        )
        .returning(jobs)
    )


_START_JOB = _start(jobs.c.state == JobState.QUEUED, is_due(jobs.c.not_before))
_START_WAITING = _start(
    or_(jobs.c.state == JobState.QUEUED, jobs.c.state == JobState.PAUSED),
    jobs.c.lease_expires_at.is_(None),
)
ACTIVE = select(jobs).where(jobs.c.state.in_(ACTIVE_STATES), jobs.c.lease_expires_at.is_not(None))
"""The jobs that an attempt holds."""
_DEPENDANTS = Statement(
    select(jobs)
    .join(job_after, job_after.c.job_id == jobs.c.id)
    .where(job_after.c.after_id == _THIS_ID, jobs.c.state == bindparam("in_state"))
    .order_by(jobs.c.id.desc())
)
_AFTER = Statement(
    select(job_after.c.after_id)
    .where(job_after.c.job_id == _THIS_ID)
    .order_by(job_after.c.after_id)
)
_LINKS = (
    select(job_after.c.job_id, job_after.c.after_id)
    .where(job_after.c.job_id.in_(bindparam("job_ids", expanding=True)))
    .order_by(job_after.c.after_id)
)
_DEFAULTS = {
    column.name: column.default.arg  # type: ignore[attr-defined]  # all are plain values
    for column in jobs.c
    if column.default is not None
}


def get_job(connection: Connection, job_id: int) -> Job:
    """Return the job. Raises JobNotFoundError."""
    if not 0 < job_id <= MAX_ID:
        raise not_found(job_id)
    rows = _JOB.run(connection, {"this_id": job_id})
    if not rows:
        raise not_found(job_id)
    return _job_of(rows[0], _after(connection, job_id))


def find_jobs(connection: Connection, query: Select[Any]) -> list[Job]:
    """Run a query for whole rows of the jobs table and return them as values."""
    rows = connection.execute(query).mappings().all()
    if not rows:
        return []
    after: dict[int, tuple[int, ...]] = {row["id"]: () for row in rows}
    for job_id, after_id in connection.execute(_LINKS, {"job_ids": list(after)}):
        after[job_id] += (after_id,)
    return [_job_of(row, after[row["id"]]) for row in rows]


def dependants(connection: Connection, job_id: int, state: JobState) -> list[Job]:
    """Return the jobs in ``state`` that come after this one, the newest first."""
    rows = _DEPENDANTS.run(connection, {"this_id": job_id, "in_state": state})
    return [_job_of(row, _after(connection, row["id"])) for row in rows]


def insert_job(connection: Connection, values: Mapping[str, Any], after: tuple[int, ...]) -> Job:
    """Add a row; columns that are not given have their defaults."""
    values = {**_DEFAULTS, **values}
    (row,) = _insert(tuple(values)).run(connection, values)
    return _job_of(row, after)


def start_job(
    connection: Connection,
    job_id: int,
    now: float,
    lease_until: float,
    threads: int,
    at_once: bool,
) -> Job | None:
    """Take a queued job for a new attempt; None when it is not to be had any more. With ``at_once``
    also one that waits out a failure, or that was paused and has no attempt."""
    wanted = {
        "this_id": job_id,
        "now": now,
        "lease_until": lease_until,
        "num_threads": threads,
    }
    rows = (_START_WAITING if at_once else _START_JOB).run(connection, wanted)
    return _job_of(rows[0], _after(connection, job_id)) if rows else None


def update_job(connection: Connection, job: Job, values: Mapping[str, Any]) -> Job | None:
    """Write columns of ``job``; return it as it is then, None if another attempt holds it."""
    held = {"this_id": job.id, "this_fence": job.fence}
    rows = _update(tuple(values)).run(connection, {**values, **held})
    return _job_of(rows[0], job.after) if rows else None


def not_found(job_id: int) -> JobNotFoundError:
    """Return the error for a job that is not there."""
    return JobNotFoundError(f"There is no job {job_id}: `llmos jobs` shows those there are.")


@functools.cache
def _insert(names: tuple[str, ...]) -> Statement:
    return Statement(insert(jobs).returning(jobs), sets=names)


@functools.cache
def _update(names: tuple[str, ...]) -> Statement:
    held = (jobs.c.id == _THIS_ID, jobs.c.fence == bindparam("this_fence"))
    return Statement(update(jobs).where(*held).returning(jobs), sets=names)


def _after(connection: Connection, job_id: int) -> tuple[int, ...]:
    """Return the jobs that this one comes after."""
    return tuple(row["after_id"] for row in _AFTER.run(connection, {"this_id": job_id}))


def _job_of(row: Mapping[Any, Any], after: tuple[int, ...]) -> Job:
    values = dict(row)
    values["state"] = JobState(values["state"])
    values["priority"] = Priority(values["priority"])
    return Job(**values, after=after)

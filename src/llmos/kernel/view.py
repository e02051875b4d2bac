"""What the scheduler sees of the queue, read by index however long the queue is."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, func, select

from llmos.kernel.jobs import ACTIVE_STATES, Job, JobState
from llmos.kernel.transitions import find_jobs
from llmos.storage.schema import jobs
from llmos.types import Priority

CANDIDATES_PER_OWNER = 16


@dataclass(frozen=True, slots=True)
class QueueView:
    """The jobs that matter to the next decision."""

    ready: list[Job]
    """The oldest few of each class and owner that may start now."""
    active: list[Job]
    next_not_before: float | None
    """When the next job that waits out a failure may start (Unix seconds)."""


def read_view(connection: Connection, now: float) -> QueueView:
    """Return what can run and what runs at ``now``."""
    next_not_before = select(func.min(jobs.c.not_before)).where(
        jobs.c.state == JobState.QUEUED, jobs.c.not_before > now
    )
    return QueueView(
        ready=_ready(connection, now),
        active=find_jobs(connection, select(jobs).where(jobs.c.state.in_(ACTIVE_STATES))),
        next_not_before=connection.scalar(next_not_before),
    )


def _ready(connection: Connection, now: float) -> list[Job]:
    """Walk the index from the head of one (class, owner) to the next."""
    found: list[Job] = []
    for priority in Priority:
        queued = (jobs.c.state == JobState.QUEUED) & (jobs.c.priority == int(priority))
        owner = _next_owner(connection, queued)
        while owner is not None:
            oldest = (
                select(jobs)
                .where(queued, jobs.c.owner == owner, jobs.c.not_before <= now)
                .order_by(jobs.c.id)
                .limit(CANDIDATES_PER_OWNER)
            )
            found += find_jobs(connection, oldest)
            owner = _next_owner(connection, queued & (jobs.c.owner > owner))
    return found


def _next_owner(connection: Connection, queued: ColumnElement[bool]) -> str | None:
    owner: str | None = connection.scalar(select(func.min(jobs.c.owner)).where(queued))
    return owner

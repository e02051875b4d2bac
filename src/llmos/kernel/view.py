"""What the scheduler sees of the queue, read by index however long the queue is."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, func, select

from llmos.kernel.jobs import ACTIVE_STATES, Job, JobState
from llmos.kernel.transitions import find_jobs
from llmos.storage.schema import jobs
from llmos.types import Priority

CANDIDATES_PER_OWNER = 16
LOOKED_AT_PER_OWNER = 512


@dataclass(frozen=True, slots=True)
class QueueView:
    """The jobs that matter to the next decision."""

    ready: list[Job]
    """The oldest few, ordinary and light, of each class and owner that may start now."""
    active: list[Job]
    next_not_before: float | None
    """When the next job that waits out a failure may start (Unix seconds)."""


def read_view(connection: Connection, now: float, light: Collection[str] = ()) -> QueueView:
    """Return what can run and what runs at ``now``.

    Args:
        light: the light job kinds, so that a long queue of others does not hide theirs.
    """
    next_not_before = select(func.min(jobs.c.not_before)).where(
        jobs.c.state == JobState.QUEUED, jobs.c.not_before > now
    )
    return QueueView(
        ready=_ready(connection, now, light),
        active=find_jobs(connection, select(jobs).where(jobs.c.state.in_(ACTIVE_STATES))),
        next_not_before=connection.scalar(next_not_before),
    )


def _ready(connection: Connection, now: float, light: Collection[str]) -> list[Job]:
    """Walk the index from the head of one (class, owner) to the next."""
    found: list[Job] = []
    for priority in Priority:
        queued = (jobs.c.state == JobState.QUEUED) & (jobs.c.priority == int(priority))
        owner = _next_owner(connection, queued)
        while owner is not None:
            may_start = queued & (jobs.c.owner == owner) & (jobs.c.not_before <= now)
            found += _oldest(connection, may_start, light)
            owner = _next_owner(connection, queued & (jobs.c.owner > owner))
    return found


def _oldest(
    connection: Connection, may_start: ColumnElement[bool], light: Collection[str]
) -> list[Job]:
    """Return the oldest ordinary and the oldest light jobs among the first few hundred."""
    heads = select(jobs.c.id, jobs.c.kind).where(may_start).order_by(jobs.c.id)
    ordinary_ids: list[int] = []
    light_ids: list[int] = []
    for job_id, kind in connection.execute(heads.limit(LOOKED_AT_PER_OWNER)):
        (light_ids if kind in light else ordinary_ids).append(job_id)
    chosen = ordinary_ids[:CANDIDATES_PER_OWNER] + light_ids[:CANDIDATES_PER_OWNER]
    return find_jobs(connection, select(jobs).where(jobs.c.id.in_(chosen)).order_by(jobs.c.id))


def _next_owner(connection: Connection, queued: ColumnElement[bool]) -> str | None:
    owner: str | None = connection.scalar(select(func.min(jobs.c.owner)).where(queued))
    return owner

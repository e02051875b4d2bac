"""What the scheduler sees of the queue, read by index however long the queue is."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, Float, bindparam, func, select, union_all
from sqlalchemy.sql.selectable import CTE, ScalarSelect, Select, Subquery

from llmos.kernel.job_rows import ACTIVE, find_jobs, is_due
from llmos.kernel.jobs import BACKOFF_LIMIT_S, Job, JobState
from llmos.storage.schema import jobs
from llmos.types import Priority

CANDIDATES = 16
LOOKAHEAD = 128
"""So many are looked through for some that fit, where the oldest do not."""


@dataclass(frozen=True, slots=True)
class QueuedJob:
    """What a queued job wants, without all else that its row holds."""

    id: int
    kind: str
    owner: str
    priority: Priority
    queued_at: float | None
    reserved_bytes: int


@dataclass(frozen=True, slots=True)
class QueueView:
    """The jobs that matter to the next decision."""

    ready: list[QueuedJob]
    """The oldest few of each class, owner and kind that may start now, and the oldest few that fit:
    a long queue of one hides no other, nor large jobs a small one. By class, owner and age."""
    active: list[Job]
    next_not_before: float | None
    """When the next job that waits out a failure may start (Unix seconds)."""


def read_view(connection: Connection, now: float, room_bytes: int) -> QueueView:
    """Return what can run and what runs at ``now``, where there is ``room_bytes`` for more."""
    ready = [
        QueuedJob(row.id, row.kind, row.owner, Priority(row.priority), row.queued_at, row.bytes)
        for row in connection.execute(READY, {"now": now, "room_bytes": room_bytes})
    ]
    return QueueView(
        ready=sorted(ready, key=lambda job: (job.priority, job.owner, job.id)),
        active=find_jobs(connection, ACTIVE),
        next_not_before=connection.scalar(WAITING_OUT, {"now": now}),
    )


def _heads() -> CTE:
    """The first queued job of each (class, owner, kind), each found from the one before it."""
    order = (jobs.c.priority, jobs.c.owner, jobs.c.kind, jobs.c.id)
    queued = jobs.c.state == JobState.QUEUED
    first = select(jobs.c.id).where(queued).order_by(*order).limit(1).scalar_subquery()
    heads = select(first.label("id")).cte("heads", recursive=True)
    this, next = jobs.alias("this"), jobs.alias("next")

    def following(*same: str, more: str) -> ScalarSelect[int]:
        """The first job that is as this one in some columns and beyond it in another."""
        return (
            select(next.c.id)
            .where(next.c.state == JobState.QUEUED, next.c[more] > this.c[more])
            .where(*(next.c[name] == this.c[name] for name in same))
            .order_by(*(next.c[column.name] for column in order))
            .limit(1)
            .correlate(this)
            .scalar_subquery()
        )

    another = func.coalesce(
        following("priority", "owner", more="kind"),
        following("priority", more="owner"),
        following(more="priority"),
    )
    return heads.union_all(select(another).select_from(heads.join(this, this.c.id == heads.c.id)))


def _ready() -> Select[tuple[int, str, str, int, float | None, int]]:
    """The oldest few behind each head that may start ``now``, and those in ``room_bytes``."""
    heads, head, behind = _heads(), jobs.alias("head"), jobs.alias("behind")
    not_before = behind.c.not_before + 0.0  # not the bare column: SQLite would go by its index

    def first(count: int) -> Subquery:
        return (
            select(behind.c.id, behind.c.reserved_bytes)
            .where(
                behind.c.state == JobState.QUEUED,
                *(behind.c[name] == head.c[name] for name in ("priority", "owner", "kind")),
                is_due(not_before),
            )
            .order_by(behind.c.id)
            .limit(count)
            .correlate(head)
            .subquery()
        )

    oldest, more = first(CANDIDATES), first(LOOKAHEAD)
    fitting = select(more.c.id).where(more.c.reserved_bytes <= bindparam("room_bytes"))
    fitting_ids = fitting.limit(CANDIDATES).subquery()
    candidates = union_all(select(oldest.c.id), select(fitting_ids.c.id))
    return select(
        jobs.c.id,
        jobs.c.kind,
        jobs.c.owner,
        jobs.c.priority,
        jobs.c.queued_at,
        jobs.c.reserved_bytes.label("bytes"),
    ).select_from(
        heads.join(head, head.c.id == heads.c.id).join(jobs, jobs.c.id.in_(candidates)),
    )


# Built once, as the scheduler asks at every step; `now` and `room_bytes` are theirs to be told.
NOW = bindparam("now", type_=Float)
WAITING_OUT = select(func.min(jobs.c.not_before)).where(
    jobs.c.state == JobState.QUEUED, jobs.c.not_before.between(NOW, NOW + BACKOFF_LIMIT_S)
)
READY = _ready()

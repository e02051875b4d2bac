"""Batches: what was asked for, how it stands, and what it ended as. Its job does the work.

A batch has a row beside its job's. While the job goes on, the job says how the batch stands; at its
end the row is completed in the very transaction that completes the job.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import sqlalchemy as sa

from llmos.apps.batch_files import insert_upload, new_upload
from llmos.apps.batch_jobs import BATCH, Counts
from llmos.errors import ConflictError, InvalidRequestError, NotFoundError
from llmos.kernel.job_rows import find_jobs
from llmos.kernel.jobs import FINAL_STATES, Job, JobState
from llmos.kernel.transitions import KERNEL_ACTOR
from llmos.security import audit
from llmos.storage.schema import batches, jobs
from llmos.types import FileRef, JobResult, Priority

if TYPE_CHECKING:
    from llmos.apps.batch_files import Upload
    from llmos.apps.batch_rows import BatchFile
    from llmos.kernel.queue import JobQueue
    from llmos.security.actors import Actor
    from llmos.storage.database import Database

WINDOW_S = 86400.0
"""The completion window "24h"."""

Status = Literal[
    "validating",
    "failed",
    "in_progress",
    "finalizing",
    "completed",
    "expired",
    "cancelling",
    "cancelled",
]


@dataclass(frozen=True, slots=True)
class NewBatch:
    """What is asked for."""

    endpoint: str
    completion_window: str
    notes: dict[str, str] | None
    output_kept_s: float


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch and its job. Times are Unix seconds."""

    id: str
    job_id: int
    endpoint: str
    input_file_id: str
    output_file_id: str | None
    error_file_id: str | None
    total: int
    completed: int
    failed: int
    completion_window: str
    notes: dict[str, str] | None
    owner: str
    created_at: float
    expires_at: float
    cancelling_at: float | None
    finalizing_at: float | None
    ended_at: float | None
    ended_as: Status | None
    job: Job

    @property
    def status(self) -> Status:
        """How it stands, in OpenAI's words. Before its job first starts it is "validating"."""
        if self.ended_as is not None:
            return self.ended_as
        if self.job.state is JobState.FAILED:
            return "failed"
        if self.job.state is JobState.CANCELLED:
            return "cancelled"
        if self.cancelling_at is not None or self.job.cancel_requested:
            return "cancelling"
        if self.job.started_at is None:
            return "validating"
        return "finalizing" if Counts.of(self.job.progress).is_finalizing else "in_progress"

    @property
    def counts(self) -> Counts:
        """How many rows were answered well, or not, so far."""
        if self.ended_as is not None:
            return Counts(self.completed, self.failed)
        return Counts.of(self.job.progress)

    @property
    def is_over(self) -> bool:
        return self.ended_as is not None or self.job.state.is_final


class Batches:
    """The batches of a home. Whose one may be touched, the caller checks."""

    def __init__(self, db: Database, queue: JobQueue, clock: Callable[[], float]) -> None:
        self._db = db
        self._jobs = queue
        self.clock = clock
        self.on_cancel: Callable[[], None] = lambda: None
        """Called when a batch that has begun is to end; who ends it puts its own function here."""

    async def create(
        self, actor: Actor, wanted: NewBatch, upload: Upload, found: BatchFile
    ) -> Batch:
        """Queue a batch over a file that was checked.

        The job asks on the terms of the actor, at batch class or the actor's best if that is less.

        Raises:
            LlmosError: what the queue refuses.
        """
        now, batch_id = self.clock(), f"batch_{uuid.uuid4().hex}"
        row = {
            "id": batch_id,
            "endpoint": wanted.endpoint,
            "input_file_id": upload.id,
            "total": found.num_rows,
            "completion_window": wanted.completion_window,
            "notes": wanted.notes,
            "owner": actor.owner,
            "created_at": now,
            "expires_at": now + WINDOW_S,
        }
        params = {
            "batch": batch_id,
            "endpoint": wanted.endpoint,
            "model": found.model,
            "digest": upload.digest,
            "num_rows": found.num_rows,
            "expires_at": row["expires_at"],
            "output_expires_s": wanted.output_kept_s,
        }

        def insert(conn: sa.Connection, job: Job) -> None:
            conn.execute(batches.insert().values(**row, job_id=job.id))
            detail = {"job": job.id, "file": upload.id, "rows": found.num_rows}
            audit.record(conn, actor.id, "batches.create", batch_id, detail, now)

        await self._jobs.submit(
            BATCH,
            params,
            owner=actor.owner,
            name=upload.filename,
            priority=max(Priority.BATCH, actor.best_priority),
            actor=actor.id,
            asker=actor.to_dict(),
            also=insert,
        )
        return await self.get(batch_id)

    async def get(self, batch_id: str) -> Batch:
        """Return a batch. Raises NotFoundError."""
        query = sa.select(batches).where(batches.c.id == batch_id)
        found = await self._db.read(lambda conn: _find(conn, query))
        if not found:
            raise NotFoundError(f"There is no batch {batch_id[:100]!r}.")
        return found[0]

    async def list(
        self, owner: str | None, *, after: str | None = None, limit: int = 20
    ) -> tuple[Sequence[Batch], bool]:
        """Return the batches of an owner, or of all, the newest first, behind the one named
        ``after``; and whether there are more.

        Raises:
            InvalidRequestError: there is no batch ``after``.
        """
        at, by_id = batches.c.created_at, batches.c.id
        query = sa.select(batches).order_by(at.desc(), by_id.desc()).limit(limit + 1)
        if owner is not None:
            query = query.where(batches.c.owner == owner)
        if after is not None:
            try:
                last = await self.get(after)
            except NotFoundError as error:
                raise InvalidRequestError(error.message, param="after") from error
            query = query.where(sa.tuple_(at, by_id) < sa.tuple_(last.created_at, last.id))
        found = await self._db.read(lambda conn: _find(conn, query))
        return found[:limit], len(found) > limit

    async def cancel(self, batch_id: str, actor: Actor) -> Batch:
        """Let a batch end with the rows that are done; one that never began ends at once.

        Raises:
            NotFoundError: there is no such batch.
            ConflictError: it has ended otherwise.
        """
        batch = await self.get(batch_id)
        if batch.status == "cancelled":
            return batch
        if batch.is_over:
            raise ConflictError(f"Batch {batch_id} has {batch.status} already.")
        now = self.clock()

        def change(conn: sa.Connection) -> None:
            first = (batches.c.cancelling_at.is_(None), batches.c.ended_as.is_(None))
            asked = batches.update().where(batches.c.id == batch_id, *first)
            if conn.execute(asked.values(cancelling_at=now)).rowcount:
                audit.record(conn, actor.id, "batches.cancel", batch_id, {}, now)

        await self._db.write(change)
        if batch.job.attempt == 0:  # no worker would look: the job is what there is to end
            await self._jobs.cancel(batch.job_id, actor.id)
        else:
            self.on_cancel()
        return await self.get(batch_id)

    async def to_end(self, now: float) -> tuple[Sequence[Batch], float]:
        """Return the batches that go on though they were cancelled, or their time is over, and when
        that of the next one is; infinity: there is none."""
        is_open = batches.c.ended_as.is_(None) & jobs.c.state.not_in(FINAL_STATES)
        is_due = batches.c.cancelling_at.is_not(None) | (batches.c.expires_at <= now)
        both = sa.join(batches, jobs, batches.c.job_id == jobs.c.id)
        due = sa.select(batches).select_from(both).where(is_open, is_due)
        next_at = sa.select(sa.func.min(batches.c.expires_at)).select_from(both)
        next_at = next_at.where(is_open, ~is_due)

        def read(conn: sa.Connection) -> tuple[Sequence[Batch], float]:
            return _find(conn, due), conn.scalar(next_at) or math.inf

        return await self._db.read(read)


def commit_batch(conn: sa.Connection, job: Job, result: JobResult, now: float) -> None:
    """Complete a batch in the transaction that completes its job: its files, counts and end.

    Raises:
        InvalidRequestError: the job is no batch's.
    """
    done = result.summary
    batch_id, kept_s = job.params["batch"], job.params["output_expires_s"]
    ended = {
        "completed": done["completed"],
        "failed": done["failed"],
        "finalizing_at": done["finalizing_at"],
        "ended_at": now,
        "ended_as": done["ended_as"],
    }
    for column, kind in (("output_file_id", "output"), ("error_file_id", "errors")):
        if done[kind] is not None:
            file = FileRef(**done[kind])
            name = f"{batch_id}_{kind}.jsonl"
            upload = new_upload(name, "batch_output", file, job.owner, now, kept_s)
            insert_upload(conn, upload, KERNEL_ACTOR)
            ended[column] = upload.id
    wanted = (batches.c.id == batch_id, batches.c.job_id == job.id)
    if conn.execute(batches.update().where(*wanted).values(ended)).rowcount != 1:
        raise InvalidRequestError(f"Job {job.id} belongs to no batch.")
    detail = {name: ended[name] for name in ("completed", "failed", "ended_as")}
    audit.record(conn, KERNEL_ACTOR, "batches.finish", batch_id, detail, now)


def _find(conn: sa.Connection, query: sa.Select[Any]) -> Sequence[Batch]:
    """Run a query for whole rows of batches; return them with their jobs."""
    rows = conn.execute(query).mappings().all()
    wanted = sa.select(jobs).where(jobs.c.id.in_([row["job_id"] for row in rows]))
    by_id = {job.id: job for job in find_jobs(conn, wanted)}
    return [Batch(**row, job=by_id[row["job_id"]]) for row in rows]

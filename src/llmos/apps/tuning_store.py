"""Fine-tunings as OpenAI's clients ask for them: what was asked for, how it stands, what it said.

A fine-tuning has a row beside that of its job, which is an ordinary train job and does the work;
what it made, and what it read, are written down in the transaction that completes the job.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import sqlalchemy as sa

from llmos.apps.batch_files import insert_upload, new_upload
from llmos.errors import InvalidRequestError, NotFoundError
from llmos.kernel.job_rows import find_jobs
from llmos.kernel.jobs import Job, JobEvent, JobState
from llmos.kernel.transitions import KERNEL_ACTOR
from llmos.sdk.wire import JobBody
from llmos.security import audit
from llmos.storage.schema import fine_tunings, job_events, jobs
from llmos.training.curve import STEP_METRICS
from llmos.training.jobs import TRAIN
from llmos.types import JobResult

if TYPE_CHECKING:
    from llmos.apps.submitting import Submitter
    from llmos.apps.tuning_files import Method
    from llmos.kernel.queue import JobQueue
    from llmos.security.actors import Actor
    from llmos.storage.database import Database

TOLD_EVENTS = ("state", "log", "metric")
RESULT_KEPT_S = 30 * 86400.0

Status = Literal["queued", "running", "paused", "succeeded", "failed", "cancelled"]
_STATUS: dict[JobState, Status] = {
    JobState.WAITING: "queued",
    JobState.QUEUED: "queued",
    JobState.RUNNING: "running",
    JobState.PAUSED: "paused",
    JobState.SUCCEEDED: "succeeded",
    JobState.FAILED: "failed",
    JobState.CANCELLED: "cancelled",
}


@dataclass(frozen=True, slots=True)
class NewTuning:
    """What is asked for, all of it checked."""

    id: str
    model: str
    """The version that it begins with."""
    training_file: str
    validation_file: str | None
    method: Method
    hyperparameters: dict[str, Any]
    suffix: str | None
    seed: int
    notes: dict[str, str] | None


@dataclass(frozen=True, slots=True)
class Tuning:
    """A fine-tuning and its job. Times are Unix seconds."""

    id: str
    job_id: int
    model: str
    training_file: str
    validation_file: str | None
    method: Method
    hyperparameters: dict[str, Any]
    suffix: str | None
    seed: int
    notes: dict[str, str] | None
    result_file: str | None
    trained_tokens: int | None
    owner: str
    created_at: float
    job: Job

    @property
    def status(self) -> Status:
        """How it stands, in OpenAI's words."""
        return _STATUS[self.job.state]

    @property
    def made(self) -> str | None:
        """The version that it made."""
        made = (self.job.result or {}).get("artifacts") or [None]
        ref: str | None = made[-1]
        return ref

    def finishes_at(self, now: float) -> float | None:
        """When it will have ended, if its steps go on taking as long; None where none tells."""
        job = self.job
        progress = job.progress or {}
        step, total = float(progress.get("step", 0)), float(progress.get("total", 0))
        if job.state is not JobState.RUNNING or job.started_at is None or not 0 < step <= total:
            return None
        return now + (now - job.started_at) * (total - step) / step


def new_id() -> str:
    """Return the id of a new fine-tuning."""
    return f"ftjob-{uuid.uuid4().hex}"


class Tunings:
    """The fine-tunings of a home. Whose one may be touched, the caller checks."""

    def __init__(
        self, db: Database, queue: JobQueue, submitter: Submitter, clock: Callable[[], float]
    ) -> None:
        self._db = db
        self._jobs = queue
        self._submitter = submitter
        self.clock = clock

    async def create(self, actor: Actor, wanted: NewTuning, params: dict[str, Any]) -> Tuning:
        """Queue the training that a fine-tuning is.

        Args:
            params: of a train job.

        Raises:
            LlmosError: what `Submitter.submit` refuses.
        """
        now = self.clock()
        values = {name: getattr(wanted, name) for name in NewTuning.__dataclass_fields__}
        row = values | {"owner": actor.owner, "created_at": now}

        def insert(conn: sa.Connection, job: Job) -> None:
            conn.execute(fine_tunings.insert().values(**row, job_id=job.id))
            detail = {"job": job.id, "model": wanted.model, "file": wanted.training_file}
            audit.record(conn, actor.id, "fine_tuning.create", wanted.id, detail, now)

        body = JobBody(kind=TRAIN, name=params["name"], params=params, priority="background")
        await self._submitter.submit(actor, body, also=insert)
        return await self.get(wanted.id)

    async def get(self, tuning_id: str) -> Tuning:
        """Return a fine-tuning. Raises NotFoundError."""
        query = sa.select(fine_tunings).where(fine_tunings.c.id == tuning_id)
        found = await self._db.read(lambda conn: _find(conn, query))
        if not found:
            raise NotFoundError(f"There is no fine-tuning job {tuning_id[:100]!r}.")
        return found[0]

    async def list(
        self,
        owner: str | None,
        *,
        after: str | None = None,
        limit: int = 20,
        notes: Mapping[str, str] | None = None,
        without_notes: bool = False,
    ) -> tuple[Sequence[Tuning], bool]:
        """Return the fine-tunings of an owner, or of all, the newest first, behind the one named
        ``after``; and whether there are more.

        Args:
            notes: what their metadata must say. without_notes: they must have none.

        Raises:
            InvalidRequestError: there is no fine-tuning ``after``.
        """
        columns = fine_tunings.c
        order = (columns.created_at.desc(), columns.id.desc())
        query = sa.select(fine_tunings).order_by(*order).limit(limit + 1)
        if owner is not None:
            query = query.where(columns.owner == owner)
        for key, value in (notes or {}).items():
            query = query.where(columns.notes[key].as_string() == value)
        if without_notes:
            query = query.where(sa.type_coerce(columns.notes, sa.String) == "null")  # JSON's
        if after is not None:
            try:
                last = await self.get(after)
            except NotFoundError as error:
                raise InvalidRequestError(error.message, param="after") from error
            place = sa.tuple_(columns.created_at, columns.id)
            query = query.where(place < sa.tuple_(last.created_at, last.id))
        found = await self._db.read(lambda conn: _find(conn, query))
        return found[:limit], len(found) > limit

    async def events(
        self, tuning: Tuning, before: int | None, limit: int
    ) -> tuple[Sequence[JobEvent], bool]:
        """Return what its job said, the newest first, below an event's number; and whether there is
        more."""
        query = (
            sa.select(job_events)
            .where(job_events.c.job_id == tuning.job_id, job_events.c.type.in_(TOLD_EVENTS))
            .order_by(job_events.c.id.desc())
            .limit(limit + 1)
        )
        if before is not None:
            query = query.where(job_events.c.id < before)
        rows = await self._db.read(lambda conn: conn.execute(query).all())
        events = [JobEvent(r.id, r.job_id, r.type, r.data, r.at, r.owner) for r in rows[:limit]]
        return events, len(rows) > limit

    async def cancel(self, tuning: Tuning, actor: Actor) -> Tuning:
        """Ask a fine-tuning to end. Raises ConflictError: it has ended otherwise."""
        await self._jobs.cancel(tuning.job_id, actor.id)
        return await self.get(tuning.id)

    async def set_paused(self, tuning: Tuning, paused: bool, actor: Actor) -> Tuning:
        """Hold a fine-tuning that runs, or let it go on. Raises ConflictError: it does not run."""
        await self._jobs.set_paused(tuning.job_id, paused, actor.id)
        return await self.get(tuning.id)


def commit_tuning(conn: sa.Connection, job: Job, result: JobResult, now: float) -> None:
    """Complete a fine-tuning, where the train job is that of one, in the transaction that completes
    it: the table of its steps becomes a file of the owner's."""
    own = fine_tunings.c.job_id == job.id
    tuning_id = conn.scalar(sa.select(fine_tunings.c.id).where(own))
    if tuning_id is None:
        return
    values: dict[str, Any] = {"trained_tokens": result.summary["tokens"]}
    table = result.artifacts[-1].files.get(STEP_METRICS)
    if table is not None:
        name = f"{tuning_id}_{STEP_METRICS}"
        upload = new_upload(name, "fine-tune-results", table, job.owner, now, RESULT_KEPT_S)
        insert_upload(conn, upload, KERNEL_ACTOR)
        values["result_file"] = upload.id
    conn.execute(fine_tunings.update().where(own).values(values))
    audit.record(conn, KERNEL_ACTOR, "fine_tuning.finish", tuning_id, values, now)


def _find(conn: sa.Connection, query: sa.Select[Any]) -> Sequence[Tuning]:
    """Run a query for whole rows of fine-tunings; return them with their jobs."""
    rows = conn.execute(query).mappings().all()
    wanted = sa.select(jobs).where(jobs.c.id.in_([row["job_id"] for row in rows]))
    by_id = {job.id: job for job in find_jobs(conn, wanted)}
    return [Tuning(**row, job=by_id[row["job_id"]]) for row in rows]

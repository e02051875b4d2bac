"""Rows of runs as values, and the queries that find them and their jobs."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, select

from llmos.apps.pipelines import Pipeline, parse
from llmos.apps.steps import Jobs, RunState
from llmos.apps.submitting import RUN_KEY
from llmos.errors import RunNotFoundError
from llmos.kernel.job_rows import MAX_ID, find_jobs
from llmos.kernel.jobs import FINAL_STATES, Job
from llmos.security.actors import Actor
from llmos.storage.schema import jobs, runs

_KEY = re.compile(rf"{RUN_KEY}[0-9]+:(?P<step>[^\[]+)\[(?P<number>[0-9]+)\]")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """What whoever sees a run, or is told of it, is told: no steps. Times are Unix seconds."""

    id: int
    name: str
    state: RunState
    error: dict[str, str] | None
    """``{"code", "message"}`` of why it failed."""
    schedule_id: int | None
    """What started it; None: a person."""
    owner: str
    created_at: float
    finished_at: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return the summary as plain JSON."""
        return {
            "id": self.id,
            "name": self.name,
            "state": str(self.state),
            "error": self.error,
            "schedule_id": self.schedule_id,
            "owner": self.owner,
            "created_at": self.created_at,
            "finished_at": self.finished_at,
        }


SUMMARY = tuple(runs.c[field.name] for field in dataclasses.fields(RunSummary))
"""The columns of it: a pipeline is long, so that many runs are listed without theirs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run(RunSummary):
    """One row of the runs table."""

    source: dict[str, Any]
    """The pipeline as plain values; it was checked."""
    actor: Actor
    """On whose terms its jobs are submitted."""

    @property
    def pipeline(self) -> Pipeline:
        """What it runs."""
        return parse(self.source)


def key_of(run_id: int, step: str, number: int) -> str:
    """Return the idempotency key of job ``number`` of a step."""
    return f"{RUN_KEY}{run_id}:{step}[{number}]"


def get_run(connection: Connection, run_id: int) -> Run:
    """Return the run. Raises RunNotFoundError."""
    row = None
    if 0 < run_id <= MAX_ID:
        row = connection.execute(select(runs).where(runs.c.id == run_id)).mappings().first()
    if row is None:
        raise RunNotFoundError(
            f"There is no pipeline run {run_id}: `llmos pipeline list` shows those there are."
        )
    values = dict(row)
    values["source"] = values.pop("pipeline")
    values["actor"] = Actor.from_dict(values["actor"])
    return Run(**values | {"state": RunState(row["state"])})


def find_summaries(connection: Connection, query: Select[Any]) -> list[RunSummary]:
    """Run a query for `SUMMARY` and return its rows as values."""
    rows = connection.execute(query).mappings()
    return [RunSummary(**{**row, "state": RunState(row["state"])}) for row in rows]


def jobs_of(connection: Connection, run: Run) -> Jobs:
    """Return the jobs that a run has made, by step and number."""
    made: dict[str, dict[int, Job]] = {}
    for job in find_jobs(connection, select(jobs).where(jobs.c.run_id == run.id)):
        key = _KEY.fullmatch(job.idempotency_key or "")
        assert key is not None, job.idempotency_key
        made.setdefault(key["step"], {})[int(key["number"])] = job
    return made


def open_runs(connection: Connection) -> Sequence[int]:
    """Return the runs that something may be to do for: those that run, and those that were
    cancelled before all their jobs were."""
    running = select(runs.c.id).where(runs.c.state == RunState.RUNNING)
    left = (
        select(runs.c.id)
        .join(jobs, jobs.c.run_id == runs.c.id)
        .where(runs.c.state == RunState.CANCELLED, jobs.c.state.not_in(FINAL_STATES))
    )
    return connection.execute(running.union(left)).scalars().all()

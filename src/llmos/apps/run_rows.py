"""Rows of runs as values, and the queries that find them and their jobs."""

from __future__ import annotations

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


@dataclass(frozen=True, slots=True)
class Run:
    """One row of the runs table. Times are Unix seconds."""

    id: int
    name: str
    source: dict[str, Any]
    """The pipeline as plain values; it was checked."""
    state: RunState
    error: dict[str, str] | None
    """``{"code", "message"}`` of why it failed."""
    schedule_id: int | None
    """What started it; None: a person."""
    actor: Actor
    """On whose terms its jobs are submitted."""
    owner: str
    created_at: float
    finished_at: float | None

    @property
    def pipeline(self) -> Pipeline:
        """What it runs."""
        return parse(self.source)

    def summary(self) -> dict[str, Any]:
        """Return what whoever sees this run, or is told of it, is told: no steps."""
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


def key_of(run_id: int, step: str, number: int) -> str:
    """Return the idempotency key of job ``number`` of a step."""
    return f"{RUN_KEY}{run_id}:{step}[{number}]"


def get_run(connection: Connection, run_id: int) -> Run:
    """Return the run. Raises RunNotFoundError."""
    found = []
    if 0 < run_id <= MAX_ID:
        found = find_runs(connection, select(runs).where(runs.c.id == run_id))
    if not found:
        raise RunNotFoundError(
            f"There is no pipeline run {run_id}: `llmos pipeline list` shows those there are."
        )
    return found[0]


def find_runs(connection: Connection, query: Select[Any]) -> list[Run]:
    """Run a query for whole rows of the runs table and return them as values."""
    found = []
    for row in connection.execute(query).mappings():
        values = dict(row)
        values["source"] = values.pop("pipeline")
        values["state"] = RunState(values["state"])
        values["actor"] = Actor.from_dict(values["actor"])
        found.append(Run(**values))
    return found


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

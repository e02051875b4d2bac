"""What a run of a pipeline should do next, and how far its steps are. Pure.

Both follow from the pipeline and the jobs the run has made, and from nothing else: whoever looks
again after a crash sees the same.
"""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from llmos.apps.pipelines import MAX_JOBS, Pipeline, Step, expanded, run_budget
from llmos.apps.references import OF_ALL, Lookup, Reference
from llmos.errors import JobFailedError, PipelineError
from llmos.kernel.jobs import Job, JobState

Jobs = Mapping[str, Mapping[int, Job]]
"""The jobs a run has made, by step and number."""
Problem = dict[str, str]
"""Why a run cannot go on: ``{"code", "message"}``."""


class RunState(enum.StrEnum):
    """running -> succeeded | failed | cancelled; a retry makes the last two running again."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class StepState(enum.StrEnum):
    """waiting -> queued -> running -> succeeded | failed | cancelled; skipped: the run ended
    before it was complete."""

    WAITING = "waiting"
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A job to submit: number ``number`` of a step, its references resolved."""

    step: Step
    number: int
    params: dict[str, Any]

    @property
    def label(self) -> str:
        """What it is called within the run."""
        return self.step.label(self.number)


@dataclass(frozen=True, slots=True)
class Outlook:
    """What to do next.

    Attributes:
        wanted: jobs to submit, in order.
        problem: why the run fails as soon as ``is_active`` is false; nothing is submitted then.
        is_active: some of its jobs have not ended.
        is_done: every step has succeeded.
    """

    wanted: tuple[Wanted, ...]
    problem: Problem | None
    is_active: bool
    is_done: bool


@dataclass(frozen=True, slots=True)
class StepStatus:
    """How far one step is; ``total`` jobs it will have made, None while that is not known."""

    step: Step
    state: StepState
    total: int | None
    jobs: tuple[tuple[int, Job], ...]


def all_of(jobs: Jobs) -> list[Job]:
    """Return the jobs of all steps."""
    return [job for made in jobs.values() for job in made.values()]


def look(pipeline: Pipeline, jobs: Jobs) -> Outlook:
    """Return what a running run should do next.

    What was handed over runs on when something fails; what was not is not any more.
    """
    is_active = any(not job.state.is_final for job in all_of(jobs))
    problem = _failure(pipeline, jobs)
    if problem is not None:
        return Outlook((), problem, is_active, False)
    try:
        ready = dict(_ready(pipeline, jobs))
        if (total := sum(map(len, ready.values()))) > MAX_JOBS:
            raise PipelineError(f"the run would have {total} jobs, over the limit of {MAX_JOBS}")
    except PipelineError as error:
        return Outlook((), {"code": error.code, "message": error.message}, is_active, False)
    wanted = tuple(
        Wanted(step, number, params)
        for step in pipeline.steps
        for number, params in enumerate(ready.get(step.name, ()))
        if number not in jobs.get(step.name, {})
    )
    is_done = not wanted and not is_active and len(ready) == len(pipeline.steps)
    return Outlook(wanted, None, is_active, is_done)


def statuses(pipeline: Pipeline, jobs: Jobs, state: RunState) -> list[StepStatus]:
    """Return how far each step of a run in this state is."""
    totals: dict[str, int] = {}
    with contextlib.suppress(PipelineError):  # then the rest is not known, and never will be
        for name, params in _ready(pipeline, jobs):
            totals[name] = len(params)
    found = []
    for step in pipeline.steps:
        made = jobs.get(step.name, {})
        total = totals.get(step.name, step.num_jobs)
        state_now = _state(list(made.values()), total, state)
        found.append(StepStatus(step, state_now, total, tuple(sorted(made.items()))))
    return found


def _ready(pipeline: Pipeline, jobs: Jobs) -> Iterable[tuple[str, list[dict[str, Any]]]]:
    """Yield the name of each step that need not wait any more and the params of all its jobs.

    Raises:
        PipelineError: a reference leads to nothing that was made, or to too much.
    """
    done: dict[str, list[Job]] = {}
    budget = run_budget()
    for step in pipeline.steps:
        if not done.keys() >= set(step.after):
            continue
        params = expanded(step, _lookup(done), budget)
        yield step.name, params
        made = jobs.get(step.name, {})
        if _all_succeeded(made.values(), len(params)):
            done[step.name] = [made[number] for number in range(len(params))]


def _all_succeeded(made: Iterable[Job], total: int) -> bool:
    return [job.state for job in made] == [JobState.SUCCEEDED] * total


def _lookup(done: Mapping[str, list[Job]]) -> Lookup:
    def lookup(reference: Reference) -> Any:
        jobs = done[reference.step]
        if reference.field == "models":
            return [ref for job in jobs for ref in _artifacts(job)]
        if reference.field == "model":
            refs = _artifacts(jobs[0])
            if not refs:
                raise PipelineError(
                    f"{reference}: step {reference.step} (job {jobs[0].id}) made no artifact"
                )
            return refs[-1]
        values = [_value(job, reference) for job in jobs]
        return values if reference.field in OF_ALL else values[0]

    return lookup


def _artifacts(job: Job) -> list[str]:
    return list((job.result or {}).get("artifacts") or ())


def _value(job: Job, reference: Reference) -> Any:
    """Return what a job's result has under the reference's keys. Raises PipelineError."""
    value: Any = job.result
    for key in reference.path:
        if not isinstance(value, dict) or key not in value:
            known = ", ".join(value) if isinstance(value, dict) else "no keys"
            raise PipelineError(
                f"{reference}: the result of step {reference.step} (job {job.id}) has no "
                f"{key!r} there: it has {known}"
            )
        value = value[key]
    return value


def _failure(pipeline: Pipeline, jobs: Jobs) -> Problem | None:
    """Return the problem with the first job, in the steps' order, that failed or was cancelled."""
    for step in pipeline.steps:
        for number, job in sorted(jobs.get(step.name, {}).items()):
            which = f"step {step.label(number)}: job {job.id}"
            if job.state is JobState.FAILED:
                said = (job.error or {}).get("message") or "no reason was kept"
                return {"code": JobFailedError.code, "message": f"{which} failed: {said}"}
            if job.state is JobState.CANCELLED:
                return {"code": JobFailedError.code, "message": f"{which} was cancelled"}
    return None


def _state(made: list[Job], total: int | None, run: RunState) -> StepState:
    states = {job.state for job in made}
    if JobState.FAILED in states:
        return StepState.FAILED
    if JobState.CANCELLED in states:
        return StepState.CANCELLED
    if total is not None and _all_succeeded(made, total):
        return StepState.SUCCEEDED
    if run is not RunState.RUNNING and all(state.is_final for state in states):
        return StepState.SKIPPED
    if not made:
        return StepState.WAITING
    begun = {JobState.RUNNING, JobState.PAUSED, JobState.SUCCEEDED}
    return StepState.RUNNING if states & begun else StepState.QUEUED

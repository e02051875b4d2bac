"""Pipelines: check one, run it, follow its steps, cancel the run, go on with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Path, Query
from fastapi.responses import JSONResponse

from llmos.apps.steps import RunState, statuses
from llmos.sdk.wire import PipelineBody
from llmos.security import policy
from llmos.security.actors import Actor
from llmos.server.access import allow
from llmos.server.bodies import BodyRoute

if TYPE_CHECKING:
    from llmos.apps.run_rows import Run
    from llmos.apps.steps import StepStatus
    from llmos.kernel.jobs import Job
    from llmos.system import System

MAX_ID = 2**63 - 1

RunId = Annotated[int, Path(ge=1, le=MAX_ID)]


def router(system: System) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/api/v1", tags=["pipelines"], route_class=BodyRoute)
    runs = system.runs

    async def check_owned(run_id: int, actor: Actor, action: str) -> Run:
        run = await runs.get(run_id)
        policy.check(actor, action, f"pipeline run {run_id}", owner=run.owner)
        return run

    async def shown(run: Run) -> dict[str, Any]:
        steps = await runs.steps(run)
        return run.to_dict() | {"steps": [_status_json(status) for status in steps]}

    @routes.post("/pipelines", status_code=202)
    async def run_pipeline(
        body: PipelineBody, actor: Annotated[Actor, allow("pipelines.write")]
    ) -> JSONResponse:
        """Start a run of a pipeline; returns it. Nothing is queued when something is wrong."""
        run = await runs.start(actor, body.pipeline)
        return JSONResponse(await shown(run), status_code=202)

    @routes.post("/pipelines/check")
    async def check_pipeline(
        body: PipelineBody, actor: Annotated[Actor, allow("pipelines.write")]
    ) -> JSONResponse:
        """Say what is wrong with a pipeline, or which steps it has; nothing is queued."""
        pipeline = await runs.check(actor, body.pipeline)
        steps = [_status_json(status) for status in statuses(pipeline, {}, RunState.RUNNING)]
        return JSONResponse({"name": pipeline.name, "steps": steps})

    @routes.get("/pipelines")
    async def list_runs(
        actor: Annotated[Actor, allow("pipelines.read")],
        before: Annotated[int | None, Query(ge=1, le=MAX_ID)] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> JSONResponse:
        """The runs one may see, the newest first; ``before`` is the id to go on below."""
        owner = None if actor.role == "admin" else actor.owner
        found = await runs.list(owner=owner, before=before, limit=limit)
        return JSONResponse({"data": [run.to_dict() for run in found]})

    @routes.get("/pipelines/{run_id}")
    async def read_run(
        run_id: RunId, actor: Annotated[Actor, allow("pipelines.read")]
    ) -> JSONResponse:
        """One run with its steps, each after those it waits for, and their jobs."""
        return JSONResponse(await shown(await check_owned(run_id, actor, "pipelines.read")))

    @routes.post("/pipelines/{run_id}/cancel")
    async def cancel_run(
        run_id: RunId, actor: Annotated[Actor, allow("pipelines.write")]
    ) -> JSONResponse:
        """End a run and all its jobs; returns it."""
        await check_owned(run_id, actor, "pipelines.write")
        return JSONResponse(await shown(await runs.cancel(run_id, actor)))

    @routes.post("/pipelines/{run_id}/retry")
    async def retry_run(
        run_id: RunId, actor: Annotated[Actor, allow("pipelines.write")]
    ) -> JSONResponse:
        """Go on with a run that failed or was cancelled, from the steps that failed; returns it."""
        await check_owned(run_id, actor, "pipelines.write")
        return JSONResponse(await shown(await runs.retry(run_id, actor)))

    return routes


def _status_json(status: StepStatus) -> dict[str, Any]:
    return {
        "name": status.step.name,
        "kind": status.step.kind,
        "after": list(status.step.after),
        "each": list(status.step.each),
        "state": str(status.state),
        "total": status.total,
        "jobs": [_job_json(number, job) for number, job in status.jobs],
    }


def _job_json(number: int, job: Job) -> dict[str, Any]:
    return {
        "number": number,
        "id": job.id,
        "state": str(job.state),
        "artifacts": list((job.result or {}).get("artifacts") or ()),
        "error": job.error,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
    }

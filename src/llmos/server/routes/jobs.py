"""Jobs: submit, list, cancel, and follow what they say."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from fastapi import APIRouter, Path, Query
from fastapi.responses import JSONResponse

from llmos.compression.jobs import QUANTIZE, base_params
from llmos.errors import ConflictError, InvalidRequestError
from llmos.library.quantized import DTYPES
from llmos.library.variants import is_quantized, variant_name
from llmos.sdk.wire import JobBody
from llmos.security import policy
from llmos.security.actors import Actor
from llmos.server.access import allow, priority_for
from llmos.server.adapters import MAY_MAKE_ADAPTERS, with_base
from llmos.server.bodies import BodyRoute
from llmos.server.lifetime import Lifetime
from llmos.server.sse import Event, EventStream
from llmos.training.jobs import TRAIN, wanted_base

if TYPE_CHECKING:
    from llmos.kernel.jobs import Job, JobEvent
    from llmos.kernel.kernel import Kernel
    from llmos.library.artifacts import Library
    from llmos.system import System

MAX_ID = 2**63 - 1
MAKES_A_MODEL = frozenset({"train", "import", "pull", "quantize"})
"""Kinds of job whose checked ``name`` is that of the model they add to."""

JobId = Annotated[int, Path(ge=1, le=MAX_ID)]


def router(system: System, lifetime: Lifetime) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/api/v1", tags=["jobs"], route_class=BodyRoute)
    kernel = system.kernel

    async def owned(job_id: int, actor: Actor, action: str) -> Job:
        job = await kernel.jobs.get(job_id)
        policy.check(actor, action, f"job {job_id}", owner=job.owner)
        return job

    @routes.post("/jobs", status_code=202)
    async def submit_job(
        body: JobBody, actor: Annotated[Actor, allow("jobs.write")]
    ) -> JSONResponse:
        """Queue a job; returns it."""
        params: dict[str, Any] = dict(body.params)
        if body.kind == TRAIN:
            params |= await _base(system.library, actor, params)
        elif body.kind in MAY_MAKE_ADAPTERS:
            params = await with_base(system, actor, body.kind, params)
        elif body.kind == QUANTIZE:
            params |= await _quantizable(system.library, actor, params)
        params = await check_target(system, actor, body.kind, params)
        job = await kernel.jobs.submit(
            body.kind,
            params,
            owner=actor.owner,
            name=body.name,
            priority=priority_for(actor, body.priority),
            after=body.after,
            actor=actor.id,
        )
        return JSONResponse(job_json(job), status_code=202)

    @routes.get("/jobs")
    async def list_jobs(
        actor: Annotated[Actor, allow("jobs.read")],
        before: Annotated[int | None, Query(ge=1, le=MAX_ID)] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> JSONResponse:
        """The jobs one may see, the newest first; ``before`` is the id to go on below."""
        owner = None if actor.role == "admin" else actor.owner
        found = await kernel.jobs.list(owner=owner, before=before, limit=limit)
        return JSONResponse({"data": [job_json(job) for job in found]})

    @routes.get("/jobs/{job_id}")
    async def read_job(job_id: JobId, actor: Annotated[Actor, allow("jobs.read")]) -> JSONResponse:
        """One job."""
        return JSONResponse(job_json(await owned(job_id, actor, "jobs.read")))

    @routes.post("/jobs/{job_id}/cancel")
    async def cancel_job(
        job_id: JobId, actor: Annotated[Actor, allow("jobs.write")]
    ) -> JSONResponse:
        """Ask a job to end; returns it."""
        await owned(job_id, actor, "jobs.write")
        return JSONResponse(job_json(await kernel.jobs.cancel(job_id, actor.id)))

    @routes.get("/jobs/{job_id}/events")
    async def read_events(
        job_id: JobId,
        actor: Annotated[Actor, allow("jobs.read")],
        after: Annotated[int, Query(ge=0, le=MAX_ID)] = 0,
        follow: bool = True,
    ) -> EventStream:
        """What the job said after an event id; with ``follow`` until the job has ended."""
        await owned(job_id, actor, "jobs.read")
        events = job_events(kernel, job_id, after, follow)
        return EventStream(events, until=lifetime.ending)

    return routes


async def _base(library: Library, actor: Actor, params: dict[str, Any]) -> dict[str, Any]:
    """Return ``{"base": …}``, the version that a train request goes on from; empty for none.

    Raises:
        InvalidRequestError: the request brings a base of its own.
        ModelNotFoundError, InvalidNameError: there is no such model.
        PermissionDeniedError: the actor may not read it.
    """
    if params.get("base") is not None:
        raise InvalidRequestError(
            "base is the server's to fill in: name a model in the recipe's model.base",
            param="params.base",
        )
    name = wanted_base(params)
    if name is None:
        return {}
    version = await asyncio.to_thread(library.resolve, name, "model")
    policy.check(actor, "models.read", version.ref)
    if is_quantized(version.manifest):
        raise InvalidRequestError(
            f"{version.ref} is quantised and cannot be trained: name the model it was made of",
            param="params.recipe",
        )
    return {"base": {"ref": version.ref, "files": msgspec.to_builtins(version.files)}}


async def _quantizable(library: Library, actor: Actor, params: dict[str, Any]) -> dict[str, Any]:
    """Return ``{"base": …}``, the version that a quantize request names.

    Raises:
        InvalidRequestError: there is no name, the request brings a base of its own, or the model
            cannot be quantised.
        ModelNotFoundError, InvalidNameError: there is no such model.
        PermissionDeniedError: the actor may not read it.
    """
    name = params.get("model")
    if not isinstance(name, str) or params.get("base") is not None:
        raise InvalidRequestError("model must be the name of the model to quantise", param="model")
    version = await asyncio.to_thread(library.resolve, name, "model")
    policy.check(actor, "models.read", version.ref)
    return {"base": base_params(version)}


async def check_target(
    system: System, actor: Actor, kind: str, params: dict[str, Any]
) -> dict[str, Any]:
    """Refuse, before it runs, a job that would end by adding to another owner's name.

    Returns the params; an import that may also make a quantised version makes none where the name
    of that is another's.

    Raises:
        ConflictError: the name is not the actor's to add to.
        LlmosError: what the kind's schema raises.
    """
    known = system.kernel.jobs.kinds.get(kind)
    if known is None or kind not in MAKES_A_MODEL:
        return params
    check, checked = system.library.check_name, known.schema(params)
    name, dtype = checked.get("name"), checked.get("dtype", "auto")
    if isinstance(name, str):
        made = "model" if kind in (TRAIN, QUANTIZE) else None
        await asyncio.to_thread(check, name, actor.owner, made)
        if kind in MAY_MAKE_ADAPTERS and dtype != "stored":
            names = [variant_name(name, one) for one in DTYPES if dtype in ("auto", one)]
            try:
                for variant in names:
                    await asyncio.to_thread(check, variant, actor.owner, "model")
            except ConflictError:
                if dtype != "auto":
                    raise
                return params | {"dtype": "stored"}
    return params


async def job_events(
    kernel: Kernel, job_id: int, after: int, follow: bool
) -> AsyncGenerator[Event, None]:
    """Yield stored events after an id, and with ``follow`` live ones until the job has ended."""
    if follow:
        async with aclosing(kernel.follow(job_id, after)) as events:
            async for event in events:
                yield event_json(event)
        return
    while page := await kernel.jobs.events(job_id, after):
        for event in page:
            yield event_json(event)
        after = page[-1].id


def job_json(job: Job) -> dict[str, Any]:
    """Return a job as clients see it."""
    values = dataclasses.asdict(job)
    values["state"] = str(job.state)
    values["priority"] = job.priority.name.lower()
    values["after"] = list(job.after)
    return values


def event_json(event: JobEvent) -> Event:
    """Return an event as clients see it; a metric's values are under ``values``."""
    data = event.data
    if event.type == "metric" and "values" not in data:
        values = {name: value for name, value in data.items() if name != "step"}
        data = {"step": data.get("step"), "values": values}
    return {"id": event.id, "type": event.type, "data": data, "at": event.at}

"""Jobs: submit, list, cancel, retry, and follow what they say, one or all."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Header, Path, Query
from fastapi.responses import JSONResponse

from llmos.errors import InvalidRequestError
from llmos.kernel.following import follow_jobs
from llmos.kernel.jobs import JobState
from llmos.sdk.wire import JobBody
from llmos.security import policy
from llmos.security.actors import Actor
from llmos.server.access import allow, while_valid
from llmos.server.bodies import BodyRoute
from llmos.server.lifetime import Lifetime
from llmos.server.shares import Shares
from llmos.server.sse import RESUMABLE, Event, EventStream

if TYPE_CHECKING:
    from llmos.kernel.jobs import Job, JobEvent
    from llmos.kernel.kernel import Kernel
    from llmos.system import System

MAX_ID = 2**63 - 1

JobId = Annotated[int, Path(ge=1, le=MAX_ID)]
After = Annotated[int | None, Query(ge=0, le=MAX_ID)]
LastEventId = Annotated[int | None, Header(ge=0, le=MAX_ID)]
"""What a browser sends that takes a stream up again."""


def router(system: System, lifetime: Lifetime, watchers: Shares) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/api/v1", tags=["jobs"], route_class=BodyRoute)
    kernel = system.kernel

    async def owned(job_id: int, actor: Actor, action: str) -> Job:
        job = await kernel.jobs.get(job_id)
        policy.check(actor, action, f"job {job_id}", owner=job.owner)
        return job

    def with_held(job: Job) -> dict[str, Any]:
        return job_json(job, kernel.workers.held(job.id))

    @routes.post("/jobs", status_code=202)
    async def submit_job(
        body: JobBody,
        actor: Annotated[Actor, allow("jobs.write")],
        idempotency_key: Annotated[str | None, Header()] = None,
    ) -> JSONResponse:
        """Queue a job; returns it. A second request with the same idempotency key, in the body or
        as the header `Idempotency-Key`, gets the job of the first."""
        key = idempotency_key if body.idempotency_key is None else body.idempotency_key
        if idempotency_key not in (None, key):
            raise InvalidRequestError(
                "The body and the header have different idempotency keys.", param="idempotency_key"
            )
        job = await system.submitter.submit(actor, body, idempotency_key=key)
        return JSONResponse(job_json(job), status_code=202)

    @routes.get("/jobs")
    async def list_jobs(
        actor: Annotated[Actor, allow("jobs.read")],
        before: Annotated[int | None, Query(ge=1, le=MAX_ID)] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        state: Annotated[list[JobState] | None, Query(max_length=len(JobState))] = None,
    ) -> JSONResponse:
        """The jobs one may see, the newest first; ``before`` is the id to go on below, ``state``
        the only one shown (repeatable)."""
        owner = None if actor.role == "admin" else actor.owner
        found = await kernel.jobs.list(owner=owner, states=state, before=before, limit=limit)
        return JSONResponse({"data": [with_held(job) for job in found]})

    @routes.get("/jobs/{job_id}")
    async def read_job(job_id: JobId, actor: Annotated[Actor, allow("jobs.read")]) -> JSONResponse:
        """One job."""
        return JSONResponse(with_held(await owned(job_id, actor, "jobs.read")))

    @routes.post("/jobs/{job_id}/cancel")
    async def cancel_job(
        job_id: JobId, actor: Annotated[Actor, allow("jobs.write")]
    ) -> JSONResponse:
        """Ask a job to end; returns it."""
        await owned(job_id, actor, "jobs.write")
        return JSONResponse(job_json(await kernel.jobs.cancel(job_id, actor.id)))

    @routes.post("/jobs/{job_id}/retry")
    async def retry_job(
        job_id: JobId, actor: Annotated[Actor, allow("jobs.write")]
    ) -> JSONResponse:
        """Queue a job that failed or was cancelled again, and those that failed only because it
        did; returns it."""
        await owned(job_id, actor, "jobs.write")
        return JSONResponse(job_json(await kernel.jobs.retry(job_id, actor.id)))

    @routes.get("/jobs/{job_id}/events")
    async def read_events(
        job_id: JobId,
        actor: Annotated[Actor, allow("jobs.read")],
        after: After = None,
        follow: bool = True,
        last_event_id: LastEventId = None,
    ) -> EventStream:
        """What the job said after an event id (also as the header `Last-Event-ID`); with
        ``follow`` until the job has ended."""
        await owned(job_id, actor, "jobs.read")
        events = job_events(kernel, job_id, _resumed(after, last_event_id) or 0, follow)
        events = while_valid(events, system.keys, actor)
        share = watchers.taken(actor.owner) if follow else None
        return EventStream(events, until=lifetime.ending, framing=RESUMABLE, share=share)

    @routes.get("/events")
    async def read_all_events(
        actor: Annotated[Actor, allow("jobs.read")],
        after: After = None,
        follow: bool = True,
        last_event_id: LastEventId = None,
    ) -> EventStream:
        """What all jobs say that one may see: after an event id, by default from now on; with
        ``follow`` without end."""
        owner = None if actor.role == "admin" else actor.owner
        after = _resumed(after, last_event_id)
        if after is None:
            after = await kernel.jobs.newest_event_id()
        events = while_valid(all_events(kernel, owner, after, follow), system.keys, actor)
        share = watchers.taken(actor.owner) if follow else None
        return EventStream(events, until=lifetime.ending, framing=RESUMABLE, share=share)

    return routes


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


async def all_events(
    kernel: Kernel, owner: str | None, after: int, follow: bool
) -> AsyncGenerator[Event, None]:
    """Yield events of all jobs of an owner, or of everyone, each with its job's number."""
    if follow:
        async with aclosing(follow_jobs(kernel.jobs, kernel.events, owner, after)) as events:
            async for event in events:
                yield {"job_id": event.job_id, **event_json(event)}
        return
    while page := await kernel.jobs.events_of(owner, after):
        for event in page:
            yield {"job_id": event.job_id, **event_json(event)}
        after = page[-1].id


def _resumed(after: int | None, last_event_id: int | None) -> int | None:
    """Return after which event to go on. A stream that is taken up again repeats its address."""
    return after if last_event_id is None else last_event_id


def job_json(job: Job, held: Sequence[str] = ()) -> dict[str, Any]:
    """Return a job as clients see it; ``held`` says why its worker stands still."""
    values = dataclasses.asdict(job)
    del values["request_digest"], values["asker"]
    values["state"] = str(job.state)
    values["priority"] = job.priority.name.lower()
    values["after"] = list(job.after)
    values["held"] = list(held)
    return values


def event_json(event: JobEvent) -> Event:
    """Return an event as clients see it; a metric's values are under ``values``."""
    data = event.data
    if event.type == "metric" and "values" not in data:
        values = {name: value for name, value in data.items() if name != "step"}
        data = {"step": data.get("step"), "values": values}
    return {"id": event.id, "type": event.type, "data": data, "at": event.at}

"""Schedules: pipelines that run by a cron."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Path
from fastapi.responses import JSONResponse

from llmos.kernel.cron import Cron
from llmos.sdk.schedule_wire import ScheduleBody
from llmos.security import policy
from llmos.security.actors import Actor
from llmos.server.access import allow
from llmos.server.bodies import BodyRoute

if TYPE_CHECKING:
    from llmos.kernel.schedules import Schedule
    from llmos.system import System

MAX_ID = 2**63 - 1

ScheduleId = Annotated[int, Path(ge=1, le=MAX_ID)]


def router(system: System) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/api/v1", tags=["schedules"], route_class=BodyRoute)
    schedules = system.schedules

    async def owned(schedule_id: int, actor: Actor, action: str) -> Schedule:
        schedule = await schedules.get(schedule_id)
        policy.check(actor, action, f"schedule {schedule_id}", owner=schedule.owner)
        return schedule

    @routes.post("/schedules", status_code=201)
    async def add_schedule(
        body: ScheduleBody, actor: Annotated[Actor, allow("schedules.write")]
    ) -> JSONResponse:
        """Run a pipeline by a cron from now on; it must be one that could run at once."""
        cron = Cron.parse(body.cron, body.timezone)
        pipeline = await system.runs.check(actor, body.pipeline)
        name = body.name or pipeline.name
        schedule = await schedules.add(cron, body.pipeline, name=name, actor=actor)
        return JSONResponse(schedule_json(schedule), status_code=201)

    @routes.get("/schedules")
    async def list_schedules(actor: Annotated[Actor, allow("schedules.read")]) -> JSONResponse:
        """The schedules one may see, the next to start first, without their pipelines."""
        owner = None if actor.role == "admin" else actor.owner
        found = [schedule_json(schedule) for schedule in await schedules.of_owner(owner)]
        for values in found:
            del values["pipeline"]
        return JSONResponse({"data": found})

    @routes.get("/schedules/{schedule_id}")
    async def read_schedule(
        schedule_id: ScheduleId, actor: Annotated[Actor, allow("schedules.read")]
    ) -> JSONResponse:
        """One schedule."""
        return JSONResponse(schedule_json(await owned(schedule_id, actor, "schedules.read")))

    @routes.delete("/schedules/{schedule_id}")
    async def remove_schedule(
        schedule_id: ScheduleId, actor: Annotated[Actor, allow("schedules.write")]
    ) -> JSONResponse:
        """Remove a schedule and return what it was; a run that goes on is not stopped."""
        await owned(schedule_id, actor, "schedules.write")
        return JSONResponse(schedule_json(await schedules.remove(schedule_id, actor.id)))

    return routes


def schedule_json(schedule: Schedule) -> dict[str, Any]:
    """Return a schedule as clients see it."""
    return dataclasses.asdict(schedule)

"""Task names and the model each answers with."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from llmos.sdk.wire import TaskDefaultBody
from llmos.security import policy
from llmos.security.actors import Actor
from llmos.server.access import allow
from llmos.server.bodies import BodyRoute

if TYPE_CHECKING:
    from llmos.system import System


def router(system: System) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/api/v1", tags=["tasks"], route_class=BodyRoute)
    library = system.library

    @routes.get("/tasks")
    async def list_tasks(actor: Annotated[Actor, allow("models.read")]) -> JSONResponse:
        """Every task name with the model it answers with; of the key's models alone."""
        defaults = await asyncio.to_thread(library.task_defaults)
        shown = [
            {"task": task, "model": model}
            for task, model in sorted(defaults.items())
            if policy.has_model(actor, model)
        ]
        return JSONResponse({"data": shown})

    @routes.put("/tasks")
    async def set_task_default(
        body: TaskDefaultBody, actor: Annotated[Actor, allow("system.manage")]
    ) -> JSONResponse:
        """Let a task name answer with another model."""
        await asyncio.to_thread(library.set_task_default, body.task, body.model, actor)
        return JSONResponse(body.model_dump())

    return routes

"""Which model answers: configured routes and explained choices."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from llmos.errors import InvalidRequestError
from llmos.library.routes import Route, Target
from llmos.sdk.route_wire import ExplainBody, RouteBody
from llmos.security.actors import Actor
from llmos.server.access import allow
from llmos.server.bodies import BodyRoute
from llmos.server.routing import need_of
from llmos.tasks.shortlist import TASK_NAMES
from llmos.tasks.suitability import expected_tokens, tokens_of

if TYPE_CHECKING:
    from llmos.system import System
    from llmos.tasks.suitability import Need


def router(system: System) -> APIRouter:
    """Return the routes."""
    paths = APIRouter(prefix="/api/v1", tags=["model choice"], route_class=BodyRoute)
    choosing = system.choosing

    @paths.get("/routes")
    async def list_routes(actor: Annotated[Actor, allow("routes.read")]) -> JSONResponse:
        """The routes that serve the key's owner, an admin's all."""
        return JSONResponse({"data": [_json(one) for one in choosing.routes.shown_to(actor)]})

    @paths.put("/routes/{name}")
    async def set_route(
        name: str, body: RouteBody, actor: Annotated[Actor, allow("routes.write")]
    ) -> JSONResponse:
        """Let a name mean models by their weights, and others when one fails."""
        targets = [Target(one.model, one.weight) for one in body.targets]
        made = await asyncio.to_thread(choosing.routes.put, name, targets, body.fallbacks, actor)
        return JSONResponse(_json(made))

    @paths.delete("/routes/{name}")
    async def remove_route(
        name: str,
        actor: Annotated[Actor, allow("routes.write")],
        owner: str | None = None,
    ) -> JSONResponse:
        """Remove a route of one's own; an admin may name another ``owner``."""
        await asyncio.to_thread(choosing.routes.remove, name, actor, owner)
        return JSONResponse({"name": name, "removed": True})

    @paths.post("/routes/explain")
    async def explain(
        body: ExplainBody, actor: Annotated[Actor, allow("models.read")]
    ) -> JSONResponse:
        """Tell which model would answer a text, and why, without asking it."""
        if body.task not in TASK_NAMES:
            raise InvalidRequestError(
                f"There is no task {body.task!r}: there are {', '.join(sorted(TASK_NAMES))}.",
                param="task",
            )
        kinds = TASK_NAMES[body.task]
        return JSONResponse(await choosing.explain(actor, body.model, kinds, _need(actor, body)))

    return paths


def _need(actor: Actor, body: ExplainBody) -> Need:
    prompt_tokens = tokens_of(body.text)
    more: dict[str, Any] = {"is_chat": body.task == "chat"}
    if body.source_lang is not None and body.target_lang is not None:
        pair = (body.source_lang, body.target_lang)
        more |= {"pair": pair, "language": "_".join(pair)}
    writes = TASK_NAMES[body.task] & {"chat", "generate", "translate"}
    output_tokens = expected_tokens(body.max_tokens) if writes else 0
    if "translate" in writes:
        output_tokens = prompt_tokens
    return need_of(actor, body.constraints(), body.priority, [body.text], output_tokens, **more)


def _json(route: Route) -> dict[str, Any]:
    return {
        "name": route.name,
        "targets": [{"model": one.model, "weight": one.weight} for one in route.targets],
        "fallbacks": list(route.fallbacks),
        "owner": route.owner,
        "updated_at": route.updated_at,
    }

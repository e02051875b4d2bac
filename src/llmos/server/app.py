"""The whole HTTP application over one System: routes, errors, the gate before them all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from pydantic import BaseModel

from llmos import __version__
from llmos.server import (
    batches,
    embeddings,
    files,
    fine_tuning,
    ollama,
    ollama_models,
    openai,
    responses,
)
from llmos.server.access import check_every_route
from llmos.server.asks import RouteAnswers
from llmos.server.errors import install_handlers
from llmos.server.gate import Gate, KeyCache
from llmos.server.lifetime import Lifetime
from llmos.server.metering import Metering, metered_paths
from llmos.server.routes import (
    annotation,
    ask,
    blobs,
    datasets,
    deployments,
    feedback,
    jobs,
    keys,
    lineage,
    metrics,
    models,
    pages,
    pipelines,
    reading,
    routing,
    schedules,
    tasks,
    tokenize,
    webhooks,
)
from llmos.server.routes import memory as memory_routes
from llmos.server.routes import system as system_routes
from llmos.server.routes import usage as usage_routes
from llmos.server.shares import Shares

if TYPE_CHECKING:
    from llmos.system import System

DESCRIPTION = """An operating system for language models.

Every address but /, /docs, /openapi.json, /health and /ready needs a key: send
`Authorization: Bearer llmos_…`. An error is `{"error": {"message", "type", "code", "param"}}`."""

MAX_OWNER_WATCHERS = 20
"""Streams of events, or of the log, that an owner may follow at once: each costs a read of the
database for every event, and some have no end."""


class ErrorDetail(BaseModel):
    """What was wrong and what to do."""

    message: str
    type: str
    code: str
    param: str | None = None


class ErrorBody(BaseModel):
    """The body of every error."""

    error: ErrorDetail


_RESPONSES: dict[int | str, dict[str, Any]] = {
    "default": {"model": ErrorBody, "description": "An error: its message says what to do."}
}


def create_app(system: System, lifetime: Lifetime | None = None) -> FastAPI:
    """Return the application.

    Args:
        system: started already.
        lifetime: of the server that runs the application; one of its own unless given.
    """
    lifetime = lifetime or Lifetime()
    app = FastAPI(
        title="llmos",
        version=__version__,
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    cache, watchers = KeyCache(system.keys), Shares(MAX_OWNER_WATCHERS, "streams of events")
    routers = (
        openai.router(system),
        responses.router(system),
        embeddings.router(system),
        files.router(system),
        batches.router(system),
        fine_tuning.router(system),
        tokenize.router(system),
        ollama.router(system),
        ollama_models.router(system, lifetime),
        ask.router(system),
        reading.router(system),
        models.router(system),
        datasets.router(system),
        annotation.router(system),
        deployments.router(system),
        lineage.router(system),
        tasks.router(system),
        routing.router(system),
        feedback.router(system),
        jobs.router(system, lifetime, watchers),
        pipelines.router(system),
        schedules.router(system),
        webhooks.router(system),
        blobs.router(system),
        keys.router(system, cache),
        system_routes.router(system, lifetime, watchers),
        memory_routes.router(system),
        metrics.router(system),
        usage_routes.router(system),
        pages.router(),
    )
    for router in routers:
        check_every_route(router.routes)
        app.include_router(router, responses=_RESPONSES)
    app.state.routes = [route for router in routers for route in router.routes]
    app.state.anonymiser = system.tasks.anonymiser
    install_handlers(app)
    metered = metered_paths(app.state.routes)
    app.add_middleware(Metering, accounts=system.kernel.accounts, paths=metered)
    app.add_middleware(Gate, keys=cache, settings=system.settings)
    system.kernel.workers.answerer = RouteAnswers(app, system.keys.actor_of)
    return app

"""Deployments: aliases that move to versions which pass their gate, and the way back."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from llmos.library.canary import Rules
from llmos.sdk.wire import DeployBody, RollbackBody
from llmos.security import policy
from llmos.security.actors import Actor
from llmos.server.access import allow
from llmos.server.bodies import BodyRoute

if TYPE_CHECKING:
    from llmos.library.deployment_rows import Deployment
    from llmos.library.gates import Check
    from llmos.system import System


def router(system: System) -> APIRouter:
    """Return the routes. Those with a longer path come first, since a name may hold a "/"."""
    routes = APIRouter(prefix="/api/v1", tags=["deployments"], route_class=BodyRoute)
    deployments = system.deployments

    @routes.get("/deployments")
    async def list_deployments(actor: Annotated[Actor, allow("models.read")]) -> JSONResponse:
        """Every deployment of the key's models, by name."""
        found = await asyncio.to_thread(deployments.list)
        shown = [one for one in found if policy.has_model(actor, one.full_name)]
        return JSONResponse({"data": [deployment_json(one) for one in shown]})

    @routes.post("/deployments")
    async def deploy(
        body: DeployBody, actor: Annotated[Actor, allow("models.write")]
    ) -> JSONResponse:
        """Let an alias mean a version that passes its gates, or give it a part of the requests."""
        version = await asyncio.to_thread(system.library.resolve, body.model, "model")
        rules = None if body.rules is None else Rules(**body.rules.model_dump(exclude_none=True))
        made, checks = await asyncio.to_thread(
            deployments.deploy,
            version.ref,
            body.alias,
            actor,
            gates=body.gates,
            rules=rules,
            weight=body.weight,
        )
        return JSONResponse(deployment_json(made, checks))

    @routes.post("/deployments/{ref:path}/promote")
    async def promote(ref: str, actor: Annotated[Actor, allow("models.write")]) -> JSONResponse:
        """Let the alias mean its candidate."""
        made, checks = await asyncio.to_thread(deployments.promote, ref, actor)
        return JSONResponse(deployment_json(made, checks))

    @routes.post("/deployments/{ref:path}/rollback")
    async def rollback(
        ref: str, body: RollbackBody, actor: Annotated[Actor, allow("models.write")]
    ) -> JSONResponse:
        """Take the candidate back, or go back to the version before."""
        made = await asyncio.to_thread(deployments.rollback, ref, actor, reason=body.reason)
        return JSONResponse(deployment_json(made))

    @routes.get("/deployments/{ref:path}")
    async def read_deployment(
        ref: str, actor: Annotated[Actor, allow("models.read")]
    ) -> JSONResponse:
        """One deployment, what was seen of it while a candidate is tried, and its history."""
        found = await asyncio.to_thread(deployments.get, ref)
        policy.check(actor, "models.read", found.full_name)
        history = await asyncio.to_thread(deployments.history, ref)
        seen = system.canaries.samples(found)
        return JSONResponse(
            deployment_json(found)
            | {
                "seen": {model: dataclasses.asdict(sample) for model, sample in seen.items()},
                "history": [dataclasses.asdict(event) for event in history],
            }
        )

    @routes.delete("/deployments/{ref:path}")
    async def remove_deployment(
        ref: str, actor: Annotated[Actor, allow("models.write")]
    ) -> JSONResponse:
        """Let the alias be one like any other; it goes on meaning what it means."""
        removed = await asyncio.to_thread(deployments.remove, ref, actor)
        return JSONResponse(deployment_json(removed))

    return routes


def deployment_json(deployment: Deployment, checks: Sequence[Check] = ()) -> dict[str, Any]:
    """Return a deployment as clients see it, with the checks just made."""
    return {
        "ref": deployment.ref,
        "model": deployment.stable_ref,
        "candidate": deployment.candidate_ref,
        "weight": deployment.weight,
        "gates": list(deployment.gates),
        "rules": dataclasses.asdict(deployment.rules),
        "owner": deployment.owner,
        "updated_at": deployment.updated_at,
        "checks": [
            {"gate": str(one.gate), "value": one.value, "bound": one.bound, "passed": one.passed}
            for one in checks
        ],
    }

"""API keys and the audit trail."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse

from llmos.sdk.key_wire import KeyBody
from llmos.security.actors import Actor
from llmos.security.audit import list_events
from llmos.server.access import allow
from llmos.server.bodies import BodyRoute
from llmos.types import Priority

if TYPE_CHECKING:
    from llmos.security.tokens import KeyInfo
    from llmos.server.gate import KeyCache
    from llmos.system import System

MAX_SEQ = 2**63 - 1


def router(system: System, cache: KeyCache) -> APIRouter:
    """Return the routes; ``cache`` forgets its keys when one is revoked."""
    routes = APIRouter(prefix="/api/v1", tags=["keys"], route_class=BodyRoute)
    keys = system.keys

    @routes.get("/keys")
    async def list_keys(actor: Annotated[Actor, allow("keys.manage")]) -> JSONResponse:
        """Every key, without its secret."""
        found = await asyncio.to_thread(keys.list)
        return JSONResponse({"data": [_key_json(info) for info in found]})

    @routes.post("/keys", status_code=201)
    async def create_key(
        body: KeyBody, actor: Annotated[Actor, allow("keys.manage")]
    ) -> JSONResponse:
        """Make a key; the answer's ``key`` is shown this once."""
        anonymise = None if body.anonymise is None else body.anonymise.settings()
        if anonymise is not None:
            await system.tasks.anonymiser.check(anonymise, actor.owner)
        expires_at = None
        if body.expires_in_s is not None:
            expires_at = keys.clock() + body.expires_in_s
        info, plaintext = await asyncio.to_thread(
            keys.create,
            body.name,
            role=body.role,
            actions=body.actions,
            models=body.models,
            best_priority=Priority[body.best_priority.upper()],
            anonymise=anonymise,
            expires_at=expires_at,
            actor=actor,
        )
        return JSONResponse({**_key_json(info), "key": plaintext}, status_code=201)

    @routes.delete("/keys/{key_id}")
    async def revoke_key(
        key_id: str, actor: Annotated[Actor, allow("keys.manage")]
    ) -> JSONResponse:
        """Make a key invalid, at once and for good."""
        info = await asyncio.to_thread(keys.revoke, key_id, actor)
        cache.clear()
        return JSONResponse(_key_json(info))

    @routes.get("/audit")
    async def read_audit(
        actor: Annotated[Actor, allow("audit.read")],
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        before: Annotated[int | None, Query(ge=1, le=MAX_SEQ)] = None,
    ) -> JSONResponse:
        """Audit events, the newest first; ``before`` is the ``seq`` to go on below."""
        found = await asyncio.to_thread(list_events, system.database, limit, before)
        return JSONResponse({"data": [dataclasses.asdict(event) for event in found]})

    return routes


def _key_json(info: KeyInfo) -> dict[str, Any]:
    shown = dataclasses.asdict(info) | {"best_priority": info.best_priority.name.lower()}
    return shown | {"anonymise": msgspec.to_builtins(info.anonymise)}

"""Webhooks: where events of jobs and runs are sent, and what became of each."""

from __future__ import annotations

import dataclasses
import difflib
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Path, Query
from fastapi.responses import JSONResponse

from llmos.errors import InvalidRequestError
from llmos.kernel.webhooks import EVENTS, DeliveryState
from llmos.sdk.schedule_wire import WebhookBody
from llmos.security import policy
from llmos.security.actors import Actor
from llmos.server.access import allow
from llmos.server.bodies import BodyRoute

if TYPE_CHECKING:
    from llmos.kernel.webhooks import Webhook
    from llmos.system import System

MAX_ID = 2**63 - 1

WebhookId = Annotated[int, Path(ge=1, le=MAX_ID)]


def router(system: System) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/api/v1", tags=["webhooks"], route_class=BodyRoute)
    webhooks = system.webhooks

    @routes.post("/webhooks", status_code=201)
    async def add_webhook(
        body: WebhookBody, actor: Annotated[Actor, allow("webhooks.write")]
    ) -> JSONResponse:
        """Have events sent to a public address. ``secret`` is shown this once: it signs them."""
        events = EVENTS if body.events is None else tuple(body.events)
        _check_events(events)
        webhook, secret = await webhooks.add(body.url, events, actor)
        return JSONResponse({**webhook_json(webhook), "secret": secret}, status_code=201)

    @routes.get("/webhooks")
    async def list_webhooks(actor: Annotated[Actor, allow("webhooks.read")]) -> JSONResponse:
        """The webhooks one may see, the oldest first, without their secrets."""
        owner = None if actor.role == "admin" else actor.owner
        found = await webhooks.of_owner(owner)
        return JSONResponse({"data": [webhook_json(webhook) for webhook in found]})

    @routes.delete("/webhooks/{webhook_id}")
    async def remove_webhook(
        webhook_id: WebhookId, actor: Annotated[Actor, allow("webhooks.write")]
    ) -> JSONResponse:
        """Send nothing more to a webhook, and forget what was; returns what it was."""
        webhook = await webhooks.get(webhook_id)
        policy.check(actor, "webhooks.write", f"webhook {webhook_id}", owner=webhook.owner)
        return JSONResponse(webhook_json(await webhooks.remove(webhook_id, actor.id)))

    @routes.get("/deliveries")
    async def list_deliveries(
        actor: Annotated[Actor, allow("webhooks.read")],
        webhook: Annotated[int | None, Query(ge=1, le=MAX_ID)] = None,
        state: DeliveryState | None = None,
        before: Annotated[int | None, Query(ge=1, le=MAX_ID)] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> JSONResponse:
        """What was sent, or is to be, the newest first; ``before`` is the id to go on below."""
        found = await webhooks.deliveries(
            owner=None if actor.role == "admin" else actor.owner,
            webhook_id=webhook,
            state=state,
            before=before,
            limit=limit,
        )
        return JSONResponse({"data": [dataclasses.asdict(delivery) for delivery in found]})

    return routes


def webhook_json(webhook: Webhook) -> dict[str, Any]:
    """Return a webhook as clients see it."""
    return {**dataclasses.asdict(webhook), "events": list(webhook.events)}


def _check_events(events: tuple[str, ...]) -> None:
    if not events:
        raise InvalidRequestError("events must name at least one.", param="events")
    for event in events:
        if event not in EVENTS:
            near = difflib.get_close_matches(event[:80], EVENTS, n=1, cutoff=0.0)
            raise InvalidRequestError(
                f"There is no event {event[:80]!r}. Did you mean {near[0]!r}?", param="events"
            )

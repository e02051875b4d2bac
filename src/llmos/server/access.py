"""What the actor of a request may do. `allow` names a route's action; none may go without one."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import aclosing
from typing import Any, TypeVar, cast

from fastapi import Depends, Request
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute

from llmos.security import policy
from llmos.security.actors import Actor
from llmos.security.tokens import Keys
from llmos.server.gate import KEY_CACHE_S, OPEN_PATHS
from llmos.tasks.rows import Terms

T = TypeVar("T")

_ACTION = "llmos_action"


def allow(action: str) -> Any:
    """Return the dependency that checks ``action`` and gives the route its Actor.

    Whose row or which model it is about, only the route knows, and checks itself.
    """
    if action not in policy.ACTIONS:
        raise ValueError(f"there is no action {action!r}: see security/policy.py")

    async def allowed(request: Request) -> Actor:
        actor = cast(Actor, request.state.actor)
        policy.check(dataclasses.replace(actor, models=None), action)
        return actor

    setattr(allowed, _ACTION, action)
    return Depends(allowed)


def action_of(route: APIRoute) -> str | None:
    """Return the action a route checks, None where it checks none."""
    calls: Iterable[Callable[..., Awaitable[Any]] | None]
    calls = (dependency.call for dependency in route.dependant.dependencies)
    return next((getattr(call, _ACTION) for call in calls if hasattr(call, _ACTION)), None)


def check_every_route(routes: Iterable[BaseRoute]) -> None:
    """Refuse to start with a route that neither names an action nor is meant to be open."""
    for route in routes:
        path = getattr(route, "path", "")
        is_guarded = isinstance(route, APIRoute) and action_of(route) is not None
        if not is_guarded and path not in OPEN_PATHS:
            raise RuntimeError(f"the route {path or route!r} names no action (access.allow)")


async def while_valid(
    events: AsyncGenerator[T, None], keys: Keys, actor: Actor
) -> AsyncGenerator[T, None]:
    """Yield what may go on without end as long as the key that asked for it is valid.

    Raises:
        AuthenticationError: it no longer is.
    """
    looked_at = time.monotonic()
    async with aclosing(events):
        async for event in events:
            if time.monotonic() - looked_at >= KEY_CACHE_S:
                await asyncio.to_thread(keys.actor_of, actor.id)
                looked_at = time.monotonic()
            yield event


def terms_for(actor: Actor, priority: str | None, deadline_ms: int | None) -> Terms:
    """Return how urgent a request is and whose. Raises PermissionDeniedError for its priority."""
    return Terms(policy.priority_for(actor, priority), actor.owner, deadline_ms)

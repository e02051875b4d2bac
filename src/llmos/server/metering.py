"""Every request to a model is let in by its owner's quota, counted while it lasts, and told how
things stand: ``x-ratelimit-*`` headers, as OpenAI's clients read them.

It stands between the gate, which knows whose the key is, and the routes: what is refused here has
cost no work. Tokens are counted further in, where they come.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from fastapi.routing import APIRoute
from starlette.datastructures import MutableHeaders
from starlette.routing import BaseRoute

from llmos.errors import OverloadedError
from llmos.server.access import action_of
from llmos.server.errors import error_response

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from llmos.kernel.accounts import Accounts
    from llmos.kernel.quotas import Verdict

METERED_ACTION = "generate"
_KINDS = ("requests", "tokens")


def metered_paths(routes: Iterable[BaseRoute]) -> frozenset[str]:
    """Return the paths of the routes that ask a model.

    Raises:
        RuntimeError: one has a parameter, or is no POST: it would not be known by its path.
    """
    asking = [
        route
        for route in routes
        if isinstance(route, APIRoute) and action_of(route) == METERED_ACTION
    ]
    for route in asking:
        if "{" in route.path or route.methods != {"POST"}:
            raise RuntimeError(
                f"{route.path} asks a model, so it must be a POST without parameters"
            )
    return frozenset(route.path for route in asking)


class Metering:
    """ASGI middleware around the routes, inside the gate.

    Args:
        paths: of the requests that are metered.
    """

    def __init__(self, app: ASGIApp, *, accounts: Accounts, paths: Collection[str]) -> None:
        self._app = app
        self._accounts = accounts
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._is_metered(scope):
            await self._app(scope, receive, send)
            return
        owner: str = scope["state"]["actor"].owner

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._add_headers(MutableHeaders(scope=message), owner)
            await send(message)

        try:
            account = self._accounts.begin(owner)
        except OverloadedError as error:
            await error_response(error, scope["path"])(scope, receive, send_marked)
            return
        try:
            await self._app(scope, receive, send_marked)
        finally:
            self._accounts.end(account)

    def _is_metered(self, scope: Scope) -> bool:
        """Whether a request asks a model, and is no job's: those are limited by their tokens and
        compute alone, or a batch would be as slow as its owner may type."""
        if scope["type"] != "http" or scope["method"] != "POST":
            return False
        return scope["path"] in self._paths and not scope["state"].get("is_own")

    def _add_headers(self, headers: MutableHeaders, owner: str) -> None:
        """Say how the owner stands, where it has a limit at all."""
        for kind, verdict in zip(_KINDS, self._accounts.standings(owner), strict=True):
            if verdict is not None:
                for name, value in standing(verdict).items():
                    headers[f"x-ratelimit-{name}-{kind}"] = value


def standing(verdict: Verdict) -> dict[str, str]:
    """Return what is said of one limit: its size, what is left and when all of it is back."""
    return {
        "limit": str(math.floor(verdict.limit)),
        "remaining": str(math.floor(verdict.remaining)),
        "reset": duration(verdict.reset_s),
    }


def duration(seconds: float) -> str:
    """Return a length of time as OpenAI writes it, rounded up: ``20ms``, ``1.5s``, ``6m0s``."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    if seconds < 60:
        return f"{math.ceil(seconds * 10) / 10:g}s"
    minutes, whole_s = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{whole_s}s" if hours else f"{minutes}m{whole_s}s"

"""Answers what running jobs ask by the routes themselves, as clients' requests but for the network.

An ask is checked, counted against quotas and answered as a request of whoever submitted the job. It
runs at the job's class, and may not ask for a better one.
"""

from __future__ import annotations

import asyncio
import dataclasses
from typing import TYPE_CHECKING, Any

from llmos.errors import PermissionDeniedError
from llmos.kernel.protocol import Answer, JobAsk
from llmos.security.actors import Actor
from llmos.server.errors import error_response

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Scope

    from llmos.kernel.jobs import Job


class RouteAnswers:
    """An `Answerer` over the application.

    Args:
        app: the whole of it, the gate included, which takes the actor from here.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, job: Job, ask: JobAsk) -> Answer:
        """Answer what a job asks; errors are answers with their status."""
        if job.asker is None:
            refusal = PermissionDeniedError(f"Job {job.id} may not ask the server for anything.")
            return Answer(refusal.status, bytes(error_response(refusal, ask.path).body))
        actor = Actor.from_dict(job.asker)
        actor = dataclasses.replace(actor, best_priority=max(job.priority, actor.best_priority))
        exchange = _Exchange(ask.body or b"")
        await self._app(_scope(ask, actor), exchange.receive, exchange.send)
        return exchange.answer()


def _scope(ask: JobAsk, actor: Actor) -> Scope:
    path, _, query = ask.path.partition("?")
    headers = [(b"host", b"localhost")]
    if ask.body is not None:
        length = str(len(ask.body)).encode()
        headers += [(b"content-type", b"application/json"), (b"content-length", length)]
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "GET" if ask.body is None else "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": headers,
        "client": None,
        "server": None,
        "state": {"actor": actor, "is_own": True},
    }


class _Exchange:
    """One request's body on its way in, and its answer on the way out."""

    def __init__(self, body: bytes) -> None:
        self._body: bytes | None = body
        self._status = 500
        self._headers: dict[bytes, bytes] = {}
        self._pieces: list[bytes] = []

    async def receive(self) -> Message:
        """Give the body; after it nothing: this client does not leave, its task is cancelled."""
        if self._body is None:
            await asyncio.get_running_loop().create_future()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self._headers = dict(message["headers"])
        else:
            self._pieces.append(message.get("body", b""))

    def answer(self) -> Answer:
        """Return what was sent."""
        retry_after: Any = self._headers.get(b"retry-after")
        return Answer(
            self._status,
            b"".join(self._pieces),
            self._headers.get(b"x-request-id", b"").decode("latin-1"),
            None if retry_after is None else float(retry_after),
        )

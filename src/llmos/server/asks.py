"""Answers what running jobs ask by the routes themselves, as clients' requests but for the network.

An ask is checked, counted against quotas and answered as a request of whoever submitted the job. It
runs at the job's class, and may not ask for a better one. Once the key has expired or was revoked,
it is refused.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from llmos.errors import AuthenticationError, InvalidRequestError, PermissionDeniedError
from llmos.kernel.protocol import Answer, JobAsk
from llmos.security.actors import Actor
from llmos.server.anonymise import HEADER
from llmos.server.errors import error_response
from llmos.tasks.anonymise import NOTHING

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Scope

    from llmos.kernel.jobs import Job


KEY_CHECKED_S = 1.0
"""A job's key is looked up again after this long."""
MAX_CHECKED_KEYS = 4096
TELLS_PLACES = frozenset({"/api/v1/entities"})
"""Routes whose answers say where in a text something is: jobs look there in the text they have."""


class RouteAnswers:
    """An `Answerer` over the application.

    Args:
        app: the whole of it, the gate included, which takes the actor from here.
        check_key: takes a key's id; raises AuthenticationError where it is no longer good. Blocks.
        monotonic: seconds.
    """

    def __init__(
        self,
        app: ASGIApp,
        check_key: Callable[[str], object],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app
        self._check_key = check_key
        self._monotonic = monotonic
        self._checks: dict[str, tuple[float, asyncio.Task[object]]] = {}

    async def __call__(self, job: Job, ask: JobAsk) -> Answer:
        """Answer what a job asks; errors are answers with their status."""
        if job.asker is None:
            refusal = PermissionDeniedError(f"Job {job.id} may not ask the server for anything.")
            return Answer(refusal.status, bytes(error_response(refusal, ask.path).body))
        actor = Actor.from_dict(job.asker)
        try:
            await self._checked(actor.id)
        except AuthenticationError as error:
            return Answer(error.status, bytes(error_response(error, ask.path).body))
        actor = dataclasses.replace(actor, best_priority=max(job.priority, actor.best_priority))
        exchange = _Exchange(ask.body or b"")
        await self._app(_scope(ask, actor), exchange.receive, exchange.send)
        if ask.path in TELLS_PLACES and exchange.is_about_another_text:
            moved = InvalidRequestError(
                "Personal data was hidden in this text, as the job's key demands, so that what was "
                "found in it is elsewhere in the text itself.",
                param="text",
            )
            return Answer(moved.status, bytes(error_response(moved, ask.path).body))
        return exchange.answer()

    async def _checked(self, key_id: str) -> None:
        """Look a key up, once a second for all who ask with it. Raises AuthenticationError."""
        now, known = self._monotonic(), self._checks.get(key_id)
        if known is None or now - known[0] >= KEY_CHECKED_S:
            if len(self._checks) >= MAX_CHECKED_KEYS:
                self._checks.clear()
            look_up = asyncio.to_thread(self._check_key, key_id)
            self._checks[key_id] = known = now, asyncio.create_task(look_up)
        await asyncio.shield(known[1])


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

    @property
    def is_about_another_text(self) -> bool:
        """Whether something was hidden in what was asked."""
        hidden = self._headers.get(HEADER.encode(), NOTHING.encode())
        return self._status == 200 and hidden != NOTHING.encode()

    def answer(self) -> Answer:
        """Return what was sent."""
        retry_after: Any = self._headers.get(b"retry-after")
        return Answer(
            self._status,
            b"".join(self._pieces),
            self._headers.get(b"x-request-id", b"").decode("latin-1"),
            None if retry_after is None else float(retry_after),
        )

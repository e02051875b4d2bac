"""What every request passes first: Host and Origin, the key, the size of the body.

It is also the server's outermost boundary: an unexpected error is logged and answered with a plain
500. What a known actor may do is ``access``' business.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Protocol

from starlette.datastructures import Headers, MutableHeaders

from llmos.apps.batch_rows import MAX_FILE_BYTES
from llmos.errors import (
    AuthenticationError,
    InvalidRequestError,
    LlmosError,
    OverloadedError,
    TooLargeError,
)
from llmos.security.actors import KEYLESS
from llmos.security.guard import allowed_hosts, check_host, check_origin, is_loopback
from llmos.server.errors import error_response
from llmos.server.shares import Shares

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from llmos.security.actors import Actor
    from llmos.settings import Settings

OPEN_PATHS = frozenset({"/", "/health", "/ready", "/docs", "/openapi.json"})
"""Paths that need no key."""
UPLOADS = {"/api/v1/blobs": sys.maxsize, "/v1/files": MAX_FILE_BYTES + 2**16}
"""Paths whose bodies are files, and the most bytes that are of use there, a form's own included."""
MAX_LIVE_REQUESTS = 1000
"""Requests under way at once, without those of running jobs; those beyond are answered 429."""
MAX_OWNER_REQUESTS = 400
"""Of these, of one owner."""
KEY_CACHE_S = 1.0
"""A key is looked up again after this long; revoking one counts at once (``KeyCache.clear``)."""
MAX_CACHED_KEYS = 4096

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
log = logging.getLogger("llmos.server")


def trusts_loopback(settings: Settings) -> bool:
    """Whether programs of this machine may come without a key.

    Raises:
        InvalidRequestError: they may, but others could come the same way.
    """
    if not settings.trust_loopback:
        return False
    if settings.behind_proxy or not is_loopback(settings.host):
        raise InvalidRequestError(
            "trust_loopback lets programs in without a key, so it needs host to be 127.0.0.1 or "
            "::1 and no behind_proxy: leave one of them out"
        )
    return True


class KeyReader(Protocol):
    """Looks keys up; blocks."""

    def authenticate(self, text: str) -> Actor: ...


class KeyCache:
    """Keys seen in the last moment, so that a busy client costs no database read per request."""

    def __init__(self, keys: KeyReader, clock: Callable[[], float] = time.monotonic) -> None:
        self._keys = keys
        self._clock = clock
        self._seen: dict[bytes, tuple[float, Actor]] = {}

    async def authenticate(self, text: str) -> Actor:
        """Return who the key stands for. Raises AuthenticationError."""
        digest = hashlib.sha256(text.encode("utf-8", "replace")).digest()
        found = self._seen.get(digest)
        if found is not None and self._clock() - found[0] < KEY_CACHE_S:
            return found[1]
        looked_up_at, seen = self._clock(), self._seen
        actor = await asyncio.to_thread(self._keys.authenticate, text)
        if len(seen) >= MAX_CACHED_KEYS:
            seen.clear()
        seen[digest] = (looked_up_at, actor)
        return actor

    def clear(self) -> None:
        """Forget every key, those being looked up too; called when one is revoked."""
        self._seen = {}


class Gate:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, *, keys: KeyCache, settings: Settings) -> None:
        self._app = app
        self._keys = keys
        self._settings = settings
        self._hosts = allowed_hosts(settings.host, settings.allowed_hosts)
        self._trusts_loopback = trusts_loopback(settings)
        self._num_live = 0
        self._shares = Shares(MAX_OWNER_REQUESTS, "requests")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:  # no route takes a websocket
            await send({"type": "websocket.close", "code": 1008})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = _request_id(Headers(scope=scope))
        scope.setdefault("state", {})["request_id"] = request_id
        begun, status = time.monotonic(), 0

        async def send_marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                _add_headers(MutableHeaders(scope=message), request_id)
            await send(message)

        num_counted = 0 if _is_own(scope) else 1
        self._num_live += num_counted
        try:
            receive = await self._admit(scope, receive)
            with self._share(scope):
                await self._app(scope, receive, send_marked)
        except LlmosError as error:
            await error_response(error, scope["path"])(scope, receive, send_marked)
        except Exception:  # the server's boundary: say nothing of what went wrong but where to look
            log.exception("request %s failed: %s %s", request_id, scope["method"], scope["path"])
            if not status:
                hidden = LlmosError(
                    f"Something went wrong inside llmos; `llmos logs` shows it under {request_id}."
                )
                await error_response(hidden, scope["path"])(scope, receive, send_marked)
        finally:
            self._num_live -= num_counted
            _log_request(scope, status, time.monotonic() - begun)

    async def _admit(self, scope: Scope, receive: Receive) -> Receive:
        """Pass or refuse; returns a ``receive`` that enforces the limit on the body."""
        headers = Headers(scope=scope)
        if _is_own(scope):  # what a job asks, which knows its actor: see `asks`
            return _limited(receive, headers, self._settings.max_body_bytes)
        method, path, host = scope["method"], scope["path"], headers.get("host")
        check_host(host, self._hosts)
        check_origin(
            method,
            headers.get("origin"),
            headers.get("sec-fetch-site"),
            host,
            has_cookie="cookie" in headers,
        )
        if self._num_live > MAX_LIVE_REQUESTS:
            raise OverloadedError
        if path not in OPEN_PATHS:
            scope["state"]["actor"] = await self._actor(headers)
        limit = self._settings.max_body_bytes
        if method == "POST" and path in UPLOADS:
            limit = min(self._settings.max_upload_bytes, UPLOADS[path])
        return _limited(receive, headers, limit)

    def _share(self, scope: Scope) -> AbstractContextManager[None]:
        """Return what counts an admitted request; where nobody knows whose it is, or a job asks,
        nothing does."""
        actor = scope["state"].get("actor")
        return nullcontext() if actor is None or _is_own(scope) else self._shares.taken(actor.owner)

    async def _actor(self, headers: Headers) -> Actor:
        """Return whose key it is; without any key, who has none, where that is let in."""
        if self._trusts_loopback and "authorization" not in headers:
            return KEYLESS
        return await self._keys.authenticate(_bearer(headers))


def _request_id(headers: Headers) -> str:
    given = headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def _log_request(scope: Scope, status: int, seconds: float) -> None:
    """One line a request, without its query or body; plain reads, and what our own jobs ask, only
    when debugging."""
    level = logging.DEBUG if status < 400 and _is_quiet(scope) else logging.INFO
    if not log.isEnabledFor(level):
        return
    actor = scope["state"].get("actor")
    log.log(
        level,
        "%s %s %d %.0f ms by %s (%s)",
        scope["method"],
        ascii(scope["path"])[1:-1],
        status,
        seconds * 1000,
        actor.id if actor else "nobody",
        scope["state"]["request_id"],
    )


def _is_quiet(scope: Scope) -> bool:
    return scope["method"] in {"GET", "HEAD"} or _is_own(scope)


def _is_own(scope: Scope) -> bool:
    """Whether a running job asks, and no client."""
    return "is_own" in scope["state"]


def _bearer(headers: Mapping[str, str]) -> str:
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise AuthenticationError
    return key.strip()


def _limited(receive: Receive, headers: Mapping[str, str], limit_bytes: int) -> Receive:
    """Refuse a body longer than the limit, by its announced length or as it comes."""
    announced = headers.get("content-length", "0")
    if not announced.isascii() or not announced.isdigit():
        raise InvalidRequestError("The header Content-Length is not a number.")
    error = TooLargeError(f"The body is larger than the limit of {limit_bytes} bytes.")
    if int(announced) > limit_bytes:
        raise error
    received_bytes = 0

    async def limited() -> Message:
        nonlocal received_bytes
        message = await receive()
        if message["type"] == "http.request":
            received_bytes += len(message.get("body", b""))
            if received_bytes > limit_bytes:
                raise error
        return message

    return limited


def _add_headers(headers: MutableHeaders, request_id: str) -> None:
    headers["X-Request-ID"] = request_id
    for name, value in _HEADERS.items():
        headers.setdefault(name, value)

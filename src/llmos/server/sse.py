"""Server-sent events: JSON in, ``data:`` lines out; the work ends when the reader leaves."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Coroutine
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from starlette.responses import Response

from llmos.errors import LlmosError
from llmos.server.errors import ClientGoneError, error_body

if TYPE_CHECKING:
    from fastapi import Request
    from starlette.types import Receive, Scope, Send

Event = dict[str, Any]
T = TypeVar("T")

KEEP_ALIVE_S = 15.0
DONE = b"data: [DONE]\n\n"
log = logging.getLogger("llmos.server")


class EventStream(Response):
    """Sends each event as it comes, then ``[DONE]``; ``events`` is closed when the client leaves.

    The answer begins with the first event, so that an error before it keeps its status; an error
    after it is sent as an event.

    Args:
        until: for events that may be long in coming: the answer begins at once, and ends, without
            ``[DONE]``, when this is set.
    """

    media_type = "text/event-stream"

    def __init__(
        self, events: AsyncGenerator[Event, None], until: asyncio.Event | None = None
    ) -> None:
        super().__init__(headers={"X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events = events
        self._until = until

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        work = self._send(send) if self._until is None else self._send_until(send, self._until)
        with contextlib.suppress(ClientGoneError):
            await unless_gone(receive, work)

    async def _send(self, send: Send) -> None:
        async with aclosing(self._events) as events:
            first = await anext(events, None) if self._until is None else None
            start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
            await send(start)
            keep_alive = asyncio.ensure_future(_keep_alive(send))
            try:
                await self._send_all(send, first, events)
            finally:
                keep_alive.cancel()
                await asyncio.gather(keep_alive, return_exceptions=True)
            await send({"type": "http.response.body", "body": DONE})

    async def _send_until(self, send: Send, until: asyncio.Event) -> None:
        sending, ending = (
            asyncio.ensure_future(self._send(send)),
            asyncio.ensure_future(until.wait()),
        )
        try:
            await asyncio.wait({sending, ending}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
                return
        finally:
            sending.cancel()
            ending.cancel()
            await asyncio.gather(sending, ending, return_exceptions=True)
        await send({"type": "http.response.body", "body": b""})

    async def _send_all(
        self, send: Send, first: Event | None, events: AsyncGenerator[Event, None]
    ) -> None:
        try:
            if first is not None:
                await send(_body(first))
            async for event in events:
                await send(_body(event))
        except LlmosError as error:
            await send(_body(error_body(error)))
        except Exception:  # the server's boundary, where the status has already been sent
            log.exception("a stream failed")
            await send(_body(error_body(LlmosError())))


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Return what ``work`` returns, or cancel it when the client goes away meanwhile.

    The body must have been read before.

    Raises:
        ClientGoneError: the client went away.
    """
    working, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientGoneError
    finally:
        working.cancel()
        gone.cancel()
        await asyncio.gather(working, gone, return_exceptions=True)


def answer(request: Request, work: Coroutine[Any, Any, T]) -> Awaitable[T]:
    """``unless_gone`` for a route."""
    return unless_gone(request.receive, work)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _keep_alive(send: Send) -> None:
    while True:
        await asyncio.sleep(KEEP_ALIVE_S)
        await send({"type": "http.response.body", "body": b": keep-alive\n\n", "more_body": True})


def _body(event: Event) -> dict[str, Any]:
    data = b"data: " + msgspec.json.encode(event) + b"\n\n"
    return {"type": "http.response.body", "body": data, "more_body": True}

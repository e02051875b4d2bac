"""Streams of JSON events, as server-sent events or otherwise framed; the work ends when the
reader leaves.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import AbstractContextManager, aclosing, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from starlette.responses import Response

from llmos.errors import LlmosError
from llmos.server.errors import ClientGoneError, error_body

if TYPE_CHECKING:
    from fastapi import Request
    from starlette.types import Message, Receive, Scope, Send

Event = dict[str, Any]
T = TypeVar("T")

KEEP_ALIVE_S = 15.0
SEND_TIMEOUT_S = 60.0
"""A client that takes nothing for so long, while there is something for it, is given up."""
DONE = b"data: [DONE]\n\n"
log = logging.getLogger("llmos.server")


def _data(event: Event) -> bytes:
    return b"data: " + msgspec.json.encode(event) + b"\n\n"


def _numbered(event: Event) -> bytes:
    """Write an event under its id, if it has one: what a client names to go on from there."""
    number = event.get("id")
    return (b"id: %d\n" % number if number else b"") + _data(event)


@dataclass(frozen=True, slots=True)
class Framing:
    """How a stream is written. ``end`` closes it, ``keep_alive`` (if any) fills long pauses."""

    media_type: str = "text/event-stream"
    encode: Callable[[Event], bytes] = _data
    end: bytes = DONE
    keep_alive: bytes = b": keep-alive\n\n"
    error: Callable[[LlmosError], Event] = error_body


SSE = Framing()
RESUMABLE = Framing(encode=_numbered)


class EventStream(Response):
    """Sends each event as it comes, then ``[DONE]``; ``events`` is closed when the client leaves.

    The answer begins with the first event, so that an error before it keeps its status; an error
    after it is sent as the last event, without ``[DONE]``.

    Args:
        until: for events that may be long in coming: the answer begins at once, and ends, without
            ``[DONE]``, when this is set.
        framing: how the events are written.
        share: entered while they are sent; what it raises is the answer.
        send_timeout_s: how long a client may take to take something.
    """

    def __init__(
        self,
        events: AsyncGenerator[Event, None],
        until: asyncio.Event | None = None,
        framing: Framing = SSE,
        share: AbstractContextManager[None] | None = None,
        send_timeout_s: float = SEND_TIMEOUT_S,
    ) -> None:
        super().__init__(headers={"X-Accel-Buffering": "no"}, media_type=framing.media_type)
        del self.headers["content-length"]
        self._events = events
        self._until = until
        self._framing = framing
        self._share = share or nullcontext()
        self._send_timeout_s = send_timeout_s
        self._first: Event | None = None
        self._has_begun = False

    async def begin(self, receive: Receive) -> None:
        """Wait for the first event before anything is sent: an error before it is raised here.

        Raises:
            ClientGoneError: the client went away.
        """

        async def first() -> Event | None:
            return await anext(self._events, None)

        self._first = await unless_gone(receive, first())
        self._has_begun = True

    def on_end(self, ended: Callable[[LlmosError | None], None]) -> None:
        """Call ``ended`` when all has been read, or with the error that ends it; not when the
        client leaves."""
        self._events = _told(self._events, ended)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_in_time(message: Message) -> None:
            try:
                async with asyncio.timeout(self._send_timeout_s):
                    await send(message)
            except TimeoutError:
                raise ClientGoneError from None

        with self._share, contextlib.suppress(ClientGoneError):
            work = (
                self._send(send_in_time)
                if self._until is None
                else self._send_until(send_in_time, self._until)
            )
            await unless_gone(receive, work)

    async def _send(self, send: Send) -> None:
        async with aclosing(self._events) as events:
            first = self._first
            if not self._has_begun and self._until is None:
                first = await anext(events, None)
            start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
            await send(start)
            keep_alive = asyncio.ensure_future(self._keep_alive(send))
            try:
                end = await self._send_all(send, first, events)
            finally:
                keep_alive.cancel()
                await asyncio.gather(keep_alive, return_exceptions=True)
            await send({"type": "http.response.body", "body": end})

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
    ) -> bytes:
        """Send the events; return what comes after them: nothing after an error."""
        try:
            if first is not None:
                await send(self._body(first))
            async for event in events:
                await send(self._body(event))
            return self._framing.end
        except ClientGoneError:
            raise
        except LlmosError as error:
            await send(self._body(self._framing.error(error)))
        except Exception:  # the server's boundary, where the status has already been sent
            log.exception("a stream failed")
            await send(self._body(self._framing.error(LlmosError())))
        return b""

    async def _keep_alive(self, send: Send) -> None:
        if not (line := self._framing.keep_alive):
            return
        while True:
            await asyncio.sleep(KEEP_ALIVE_S)
            await send({"type": "http.response.body", "body": line, "more_body": True})

    def _body(self, event: Event) -> dict[str, Any]:
        body = self._framing.encode(event)
        return {"type": "http.response.body", "body": body, "more_body": True}


async def _told(
    events: AsyncGenerator[Event, None], ended: Callable[[LlmosError | None], None]
) -> AsyncGenerator[Event, None]:
    try:
        async with aclosing(events) as stream:
            async for event in stream:
                yield event
    except LlmosError as error:
        ended(error)
        raise
    ended(None)


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

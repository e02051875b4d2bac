"""OpenAI's Responses API: /v1/responses, to create, stream, read again, go on from and delete."""

from __future__ import annotations

import re
import time
import uuid
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response

from llmos.errors import InvalidRequestError, LlmosError, PermissionDeniedError
from llmos.security import policy
from llmos.security.actors import Actor
from llmos.server.access import allow
from llmos.server.anonymise import hide_texts
from llmos.server.asking import generate_request
from llmos.server.bodies import BodyRoute
from llmos.server.response_events import ResponseEvents
from llmos.server.response_store import Conversation, ResponseStore
from llmos.server.responses_wire import ITEM_TYPES, Item, ResponseBody, to_messages
from llmos.server.routing import Explained, answered, chat_need
from llmos.server.sse import Event, EventStream, Framing, answer
from llmos.tasks.chat import CHAT_TASKS
from llmos.tasks.generate import generate
from llmos.tasks.suitability import Need
from llmos.types import Chunk, GenerateRequest

if TYPE_CHECKING:
    from llmos.system import System
    from llmos.tasks.context import Served

Keep = Callable[[], Awaitable[None]]
_FIELDS = {"messages": "input", "response_format": "text.format.schema"}
"""What the tasks, which know OpenAI's other API, call a field, and what it is called here."""
_MESSAGE = re.compile(r"\bmessages(\.\d+)?\b")


class _Route(BodyRoute):
    """Lets errors name the fields of this API."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            with _own_names():
                return await handler(request)

        return handle


def router(system: System) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/v1/responses", tags=["OpenAI"], route_class=_Route)
    store = ResponseStore(system.database, system.keys.clock)

    async def earlier(body: ResponseBody, actor: Actor) -> Conversation:
        if body.previous_response_id is None:
            return Conversation()
        policy.check(actor, "responses.read")
        limit_bytes = system.settings.max_body_bytes
        return await store.conversation(body.previous_response_id, actor.owner, limit_bytes)

    @routes.post("")
    async def create_response(
        body: ResponseBody, request: Request, actor: Annotated[Actor, allow("generate")]
    ) -> Response:
        """Answer; with ``stream`` as typed server-sent events."""
        is_kept = _is_kept(body, actor)
        before, items = await earlier(body, actor), _with_ids(body.items())
        # What a key that hides nothing has left there is hidden now.
        said = await hide_texts(
            system.tasks.anonymiser, actor, before.items, Counter(), is_large=bool(before.items)
        )
        messages = to_messages(body.instructions, (*said, *items))

        def need() -> Need:
            limit = body.max_output_tokens
            return chat_need(
                actor, body.constraints(), body.priority, messages, limit, body.tool_use()
            )

        async def answering(served: Served, _: Explained) -> Response:
            asked = generate_request(
                served, actor, messages, body.sampling(), id_prefix="resp", **body.terms()
            )
            made = ResponseEvents(_head(asked, body, is_kept), with_logprobs=body.wants_logprobs)

            async def keep() -> None:
                if is_kept:
                    await store.put(actor, made.response, items, before.ids)

            chunks = generate(system.tasks, served, asked)
            if body.stream:
                return EventStream(_events(chunks, made, keep), framing=_FRAMING)
            return JSONResponse(await answer(request, _whole(chunks, made, keep)))

        return await answered(system, request, actor, body, CHAT_TASKS, need, answering)

    @routes.get("/{response_id}")
    async def retrieve_response(
        response_id: str,
        actor: Annotated[Actor, allow("responses.read")],
        stream: bool = False,
    ) -> JSONResponse:
        """A stored response; there for its owner alone."""
        if stream:
            raise InvalidRequestError(
                "A stored response is complete and not streamed again: leave stream out.",
                param="stream",
            )
        return JSONResponse((await store.get(response_id, actor.owner)).body)

    @routes.delete("/{response_id}")
    async def delete_response(
        response_id: str, actor: Annotated[Actor, allow("responses.write")]
    ) -> JSONResponse:
        """Delete a stored response; what went on from it cannot be gone on from any more."""
        await store.delete(response_id, actor)
        return JSONResponse({"id": response_id, "object": "response", "deleted": True})

    @routes.get("/{response_id}/input_items")
    async def list_input_items(
        response_id: str,
        actor: Annotated[Actor, allow("responses.read")],
        after: str | None = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        order: Literal["asc", "desc"] = "desc",
    ) -> JSONResponse:
        """What a stored response was asked with, without what it went on from."""
        stored = await store.get(response_id, actor.owner)
        items = stored.input if order == "asc" else stored.input[::-1]
        return JSONResponse(_page(items, after, limit))

    return routes


def _is_kept(body: ResponseBody, actor: Actor) -> bool:
    """Whether to store: unless told not to, or the key may not and nobody asked it to."""
    if body.store is False:
        return False
    try:
        policy.check(actor, "responses.write")
    except PermissionDeniedError:
        if body.store:
            raise
        return False
    return True


def _with_ids(items: list[Item]) -> list[Item]:
    return [{**item, "id": item.get("id") or f"item_{uuid.uuid4().hex}"} for item in items]


def _head(asked: GenerateRequest, body: ResponseBody, is_kept: bool) -> dict[str, Any]:
    """Return the response before there is any output: what was asked, defaults filled in."""
    return {
        "id": f"resp_{asked.id.rpartition('-')[2]}",
        "object": "response",
        "created_at": int(time.time()),
        "status": "in_progress",
        "background": False,
        "completed_at": None,
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "max_tool_calls": None,
        "metadata": body.metadata or {},
        "model": asked.model,
        "output": [],
        "parallel_tool_calls": asked.tool_use.parallel,
        "previous_response_id": body.previous_response_id,
        "reasoning": _plain(body.reasoning) or {"effort": None, "summary": None},
        "service_tier": "default",
        "store": is_kept,
        "temperature": asked.sampling.temperature,
        "text": _text_config(body),
        "tool_choice": _plain(body.tool_choice) or "auto",
        "tools": [_plain(tool) for tool in body.tools or ()],
        "top_logprobs": body.top_logprobs or 0,
        "top_p": asked.sampling.top_p,
        "truncation": "disabled",
        "usage": None,
        "user": body.user,
    }


def _text_config(body: ResponseBody) -> dict[str, Any]:
    wanted = body.text.format if body.text else None
    return {"format": _plain(wanted) if wanted else {"type": "text"}, "verbosity": "medium"}


def _plain(value: Any) -> Any:
    """Return a part of the body as it came."""
    dump = getattr(value, "model_dump", None)
    return dump(by_alias=True, exclude_none=True) if dump else value


async def _events(
    chunks: AsyncGenerator[Chunk, None], made: ResponseEvents, keep: Keep
) -> AsyncGenerator[Event, None]:
    """Yield typed events. The first waits for the first token: an error before it is an answer."""
    async with aclosing(chunks) as stream:
        with _own_names():
            first = await anext(stream)
        for event in made.begin():
            yield event
        try:
            for event in made.push(first):
                yield event
            async for chunk in stream:
                for event in made.push(chunk):
                    yield event
        except LlmosError as error:
            for event in made.fail(error):
                yield event
            return
    await keep()
    yield made.end()


async def _whole(
    chunks: AsyncGenerator[Chunk, None], made: ResponseEvents, keep: Keep
) -> dict[str, Any]:
    """Return the response once it is complete."""
    async with aclosing(chunks) as stream:
        async for chunk in stream:
            for _ in made.push(chunk):
                pass
    await keep()
    return made.response


@contextmanager
def _own_names() -> Iterator[None]:
    """Let errors name the fields that a client of this API knows."""
    try:
        yield
    except LlmosError as error:
        field = (error.param or "").partition(".")[0]
        if field in _FIELDS:
            error.param = _FIELDS[field]
            error.message = _MESSAGE.sub("input", error.message)
        raise
    except RequestValidationError as error:
        errors = [{**one, "loc": _untagged(one["loc"])} for one in error.errors()]
        raise RequestValidationError(errors, body=error.body) from None


def _untagged(place: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """Return where in the body something is, without the type by which pydantic tells items
    apart: ``input.0.message.content`` is nowhere in what was sent."""
    is_tagged = len(place) > 3 and place[1] == "input" and place[3] in ITEM_TYPES
    return (*place[:3], *place[4:]) if is_tagged else place


def _named(event: Event) -> bytes:
    kind = str(event["type"]).encode()
    return b"event: " + kind + b"\ndata: " + msgspec.json.encode(event) + b"\n\n"


def _error_event(error: LlmosError) -> Event:
    fields = {"code": error.code, "message": error.message, "param": error.param}
    return {"type": "error", "sequence_number": 0, **fields}


_FRAMING = Framing(encode=_named, error=_error_event)


def _page(items: list[Item], after: str | None, limit: int) -> dict[str, Any]:
    """Return a list page that begins behind the item ``after``."""
    ids = [item["id"] for item in items]
    if after is not None and after not in ids:
        raise InvalidRequestError(f"There is no item {after[:100]!r} here.", param="after")
    start = ids.index(after) + 1 if after is not None else 0
    page = items[start : start + limit]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": start + limit < len(items),
    }

"""Ollama's API for asking a model: /api/chat, /api/generate, /api/embed and /api/embeddings.

Answers are lines of JSON, or one object where ``stream`` is false. What there is to know about
models is ``ollama_models``'.
"""

from __future__ import annotations

import functools
import json
import struct
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from llmos.errors import ConflictError, InvalidRequestError, LlmosError, PermissionDeniedError
from llmos.security.actors import Actor
from llmos.security.policy import priority_for
from llmos.server.access import allow
from llmos.server.asking import Answer, Prompt, generate_request, served_for
from llmos.server.bodies import BodyRoute
from llmos.server.ollama_wire import (
    UNLIMITED_TOKENS,
    ChatBody,
    EmbedBody,
    EmbeddingsBody,
    GenerateBody,
)
from llmos.server.routing import Explained, Named, answered, chat_need, need_of
from llmos.server.sse import Event, EventStream, Framing, answer
from llmos.tasks.chat import CHAT_TASKS
from llmos.tasks.embed import EMBED_TASKS, Embeddings, EmbedOptions, embed
from llmos.tasks.generate import GENERATE_TASKS, generate
from llmos.tasks.reasoning import reasoning_format
from llmos.tasks.rows import Terms
from llmos.tasks.suitability import Need, expected_tokens
from llmos.types import Chunk, Message, TokenLogprob, ToolCall, Usage

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from llmos.system import System
    from llmos.tasks.context import Served


class AnyTypeRoute(BodyRoute):
    """Reads a body as JSON whatever type it says it is, as ``curl -d`` says it is a form."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            headers = [pair for pair in request.scope["headers"] if pair[0] != b"content-type"]
            headers.append((b"content-type", b"application/json"))
            return await handler(Request({**request.scope, "headers": headers}, request.receive))

        return handle


@dataclass(slots=True)
class Piece:
    """A piece of an answer; the last one has what Ollama says at the end."""

    text: str = ""
    thinking: str = ""
    calls: list[Event] = field(default_factory=list)
    logprobs: list[Event] = field(default_factory=list)
    end: Event = field(default_factory=dict)


Shape = Callable[[Piece], Event]


def router(system: System) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/api", tags=["Ollama"], route_class=AnyTypeRoute)

    @routes.post("/chat")
    async def chat(
        body: ChatBody, request: Request, actor: Annotated[Actor, allow("generate")]
    ) -> Response:
        """Answer a conversation; without one, load the model."""
        named = Named(body.ref)

        def need() -> Need:
            limit = body.sampling()["max_tokens"]
            return chat_need(actor, {}, None, body.to_messages(), limit, body.tool_use())

        async def answering(served: Served, _: Explained) -> Response:
            if not body.messages:
                return await _load(system, served, actor, body, _chat_shape)
            return await _ask(system, served, actor, request, body, body.to_messages())

        return await answered(system, request, actor, named, CHAT_TASKS, need, answering)

    @routes.post("/generate")
    async def generate_text(
        body: GenerateBody, request: Request, actor: Annotated[Actor, allow("generate")]
    ) -> Response:
        """Answer a prompt, through the model's chat template where it has one; or load it."""
        named = Named(body.ref)

        def need() -> Need:
            expected = expected_tokens(body.sampling()["max_tokens"])
            return need_of(actor, {}, None, [body.system, body.prompt], expected)

        async def answering(served: Served, _: Explained) -> Response:
            if not body.prompt:
                return await _load(system, served, actor, body, _generate_shape)
            return await _ask(system, served, actor, request, body, _prompt(body, served))

        return await answered(system, request, actor, named, GENERATE_TASKS, need, answering)

    async def embedded(
        body: EmbedBody | EmbeddingsBody, texts: list[str], options: EmbedOptions, actor: Actor
    ) -> Embeddings:
        served = await served_for(system.tasks, actor, body.ref, EMBED_TASKS)
        terms = Terms(priority_for(actor, None), actor.owner)
        return await embed(system.tasks, served, texts, options, terms)

    @routes.post("/embed")
    async def embed_texts(
        body: EmbedBody, request: Request, actor: Annotated[Actor, allow("generate")]
    ) -> JSONResponse:
        """Turn texts into vectors; too long ones are cut unless ``truncate`` is false."""
        begun = time.perf_counter_ns()
        options = EmbedOptions(body.dimensions, truncate=body.truncate is not False)
        made = await answer(request, embedded(body, body.texts, options, actor))
        took = {"total_duration": time.perf_counter_ns() - begun, "load_duration": 0}
        vectors = [_numbers(vector) for vector in made.vectors]
        counts = {"prompt_eval_count": made.usage.prompt_tokens}
        return JSONResponse({"model": body.model, "embeddings": vectors, **took, **counts})

    @routes.post("/embeddings")
    async def embed_text(
        body: EmbeddingsBody, request: Request, actor: Annotated[Actor, allow("generate")]
    ) -> JSONResponse:
        """Turn one text into a vector, as clients did before /api/embed."""
        options = EmbedOptions(truncate=True)
        made = await answer(request, embedded(body, [body.prompt], options, actor))
        return JSONResponse({"embedding": _numbers(made.vectors[0])})

    return routes


def _prompt(body: GenerateBody, served: Served) -> Prompt:
    text = body.prompt or ""
    if body.raw or served.manifest.chat_template is None:
        return f"{body.system}\n{text}" if body.system and not body.raw else text
    system = (Message("system", body.system),) if body.system else ()
    return (*system, Message("user", text))


def _thinking(body: ChatBody | GenerateBody, served: Served) -> dict[str, Any]:
    """Return what the model's template is told about thinking.

    Raises:
        InvalidRequestError: the model is to think and does not.
    """
    if not body.think:
        return {} if body.think is None else {"enable_thinking": False}
    if reasoning_format(served.manifest.chat_template or "") is None:
        raise InvalidRequestError(f"{served.ref} does not think: leave think out.", param="think")
    effort = {} if body.think is True else {"reasoning_effort": body.think}
    return {"enable_thinking": True, **effort}


async def _ask(
    system: System,
    served: Served,
    actor: Actor,
    request: Request,
    body: ChatBody | GenerateBody,
    prompt: Prompt,
) -> Response:
    own = served.manifest.generation.get("max_tokens", UNLIMITED_TOKENS)
    sampling = body.sampling()
    asked = generate_request(
        served,
        actor,
        prompt,
        {**sampling, "max_tokens": sampling["max_tokens"] or own},
        id_prefix="ollama",
        template_options=_thinking(body, served),
        **body.terms(),
    )
    told = _Told(system, served, hides_thinking=body.think is False)
    pieces = told.pieces(generate(system.tasks, served, asked))
    if body.unloads:
        pieces = _then(pieces, lambda: _unload(system, served, actor))
    shape = _chat_shape if isinstance(body, ChatBody) else _generate_shape
    if body.streams:
        return EventStream(_lines(pieces, body.model, shape), framing=NDJSON)
    return JSONResponse(_said(await answer(request, _whole(pieces)), body.model, shape))


async def _load(
    system: System, served: Served, actor: Actor, body: ChatBody | GenerateBody, shape: Shape
) -> JSONResponse:
    """Load the model, or let it go: what a request without a prompt is for.

    Raises:
        PermissionDeniedError: it is to go, and the key is no admin's.
        ConflictError: it is to go, and somebody uses it.
    """
    if body.unloads:
        _check_unload(system, served, actor)
        _unload(system, served, actor)
    else:
        priority = priority_for(actor, None)
        async with system.tasks.residency.lease(served.spec, priority, tenant=actor.owner):
            pass
    end = {"done_reason": "unload" if body.unloads else "load"}
    return JSONResponse(_said(Piece(end=end), body.model, shape))


def _check_unload(system: System, served: Served, actor: Actor) -> None:
    if actor.role != "admin":
        idle_s = system.settings.idle_s
        raise PermissionDeniedError(
            f"Only an admin's key may unload {served.ref}; it leaves the memory by itself after "
            f"{idle_s:g} s without a request."
        )
    num_users = _status(system, served).get("requests", 0)
    if num_users:
        raise ConflictError(f"{served.ref} is in use by {num_users} requests: unload it later.")


def _status(system: System, served: Served) -> Event:
    """Return what is known of the model in memory; nothing where it is not there."""
    statuses = system.tasks.residency.status()
    return next((one for one in statuses if one["key"] == served.spec.key), {})


def _unload(system: System, served: Served, actor: Actor) -> None:
    """Let go of a model that nobody uses. Only an admin may: others would only have to wait for
    it to be loaded again."""
    if actor.role == "admin":
        system.kernel.fleet.evict(served.spec.key)


class _Told:
    """Chunks to pieces, with the times that Ollama tells at the end, in nanoseconds."""

    def __init__(self, system: System, served: Served, *, hides_thinking: bool) -> None:
        self._status = functools.partial(_status, system, served)
        self._hides_thinking = hides_thinking
        self._was_loaded = self._status().get("state") == "ready"

    async def pieces(self, chunks: AsyncGenerator[Chunk, None]) -> AsyncGenerator[Piece, None]:
        """Yield what is said. Calls come whole, when all is said, as Ollama's clients want them."""
        begun, first = time.perf_counter_ns(), 0
        said = Answer(0)
        async with aclosing(chunks) as stream:
            async for chunk in stream:
                first = first or time.perf_counter_ns()
                said.add(chunk)
                thinking = "" if self._hides_thinking else chunk.reasoning
                logprobs = [_logprob(token) for token in chunk.logprobs]
                if chunk.text or thinking or logprobs:
                    yield Piece(chunk.text, thinking, logprobs=logprobs)
                if chunk.finish_reason is not None:
                    if said.tool_calls:
                        yield Piece(calls=[_call(*pair) for pair in enumerate(said.tool_calls)])
                    yield Piece(end=self._end(chunk, begun, first))

    def _end(self, chunk: Chunk, begun: int, first: int) -> Event:
        now = time.perf_counter_ns()
        usage = chunk.usage or Usage(0, 0)
        load_ns = 0 if self._was_loaded else int(self._status().get("load_s", 0.0) * 1e9)
        ran_ns = max(now - begun - load_ns, 0)
        eval_ns = _eval_ns(ran_ns, now - first, usage.completion_tokens)
        return {
            "done_reason": "length" if chunk.finish_reason == "length" else "stop",
            "total_duration": now - begun,
            "load_duration": load_ns,
            "prompt_eval_count": usage.prompt_tokens,
            "prompt_eval_duration": ran_ns - eval_ns,
            "eval_count": usage.completion_tokens,
            "eval_duration": eval_ns,
        }


def _eval_ns(ran_ns: int, since_first_ns: int, num_tokens: int) -> int:
    """Return how long an answer took to write: since its first piece came. Where all came at once
    (a short one, calls of tools) that says nothing, and reading counts as long as one token."""
    one_ns = ran_ns // (num_tokens + 1)
    return min(since_first_ns if since_first_ns > one_ns else ran_ns - one_ns, ran_ns)


async def _then(
    pieces: AsyncGenerator[Piece, None], act: Callable[[], None]
) -> AsyncGenerator[Piece, None]:
    """Yield the pieces; act when they have ended."""
    async with aclosing(pieces) as stream:
        async for piece in stream:
            yield piece
    act()


async def _lines(
    pieces: AsyncGenerator[Piece, None], model: str, shape: Shape
) -> AsyncGenerator[Event, None]:
    async with aclosing(pieces) as stream:
        async for piece in stream:
            yield _said(piece, model, shape)


async def _whole(pieces: AsyncGenerator[Piece, None]) -> Piece:
    whole = Piece()
    async with aclosing(pieces) as stream:
        async for piece in stream:
            whole.text += piece.text
            whole.thinking += piece.thinking
            whole.calls += piece.calls
            whole.logprobs += piece.logprobs
            whole.end |= piece.end
    return whole


def _said(piece: Piece, model: str, shape: Shape) -> Event:
    """Return a piece as Ollama's clients read it."""
    event = {"model": model, "created_at": timestamp(time.time()), **shape(piece)}
    if piece.logprobs:
        event["logprobs"] = piece.logprobs
    return {**event, "done": bool(piece.end), **piece.end}


def _chat_shape(piece: Piece) -> Event:
    message: Event = {"role": "assistant", "content": piece.text}
    if piece.thinking:
        message["thinking"] = piece.thinking
    if piece.calls:
        message["tool_calls"] = piece.calls
    return {"message": message}


def _generate_shape(piece: Piece) -> Event:
    thinking = {"thinking": piece.thinking} if piece.thinking else {}
    return {"response": piece.text, **thinking}


def _call(index: int, call: ToolCall) -> Event:
    """Return a call with its arguments as an object; what is none (a call cut off) as a text."""
    try:
        arguments = json.loads(call.arguments or "{}")
    except ValueError:
        arguments = None
    if not isinstance(arguments, dict):
        arguments = {"arguments": call.arguments}
    function = {"index": index, "name": call.name, "arguments": arguments}
    return {"id": call.id, "function": function}


def _logprob(token: TokenLogprob) -> Event:
    return {**_token(token), "top_logprobs": [_token(other) for other in token.top]}


def _token(token: TokenLogprob) -> Event:
    return {"token": token.token, "logprob": token.logprob, "bytes": list(token.bytes)}


def _numbers(vector: bytes) -> list[float]:
    return list(struct.unpack(f"<{len(vector) // 4}f", vector))


def timestamp(at: float) -> str:
    """Return a Unix time as Ollama writes it."""
    return datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")


def _line(event: Event) -> bytes:
    return msgspec.json.encode(event) + b"\n"


def _error_line(error: LlmosError) -> Event:
    return {"error": error.message}


NDJSON = Framing("application/x-ndjson", _line, end=b"", keep_alive=b"", error=_error_line)
"""One JSON object a line; clients take every line for one, so nothing else may be sent."""

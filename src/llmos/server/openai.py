"""The OpenAI-compatible API: /v1/models, /v1/chat/completions and /v1/completions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from llmos.errors import ModelNotFoundError
from llmos.library.bases import resolve_pair
from llmos.security import policy
from llmos.security.actors import Actor
from llmos.server.access import allow
from llmos.server.asking import collect, generate_request
from llmos.server.bodies import BodyRoute
from llmos.server.openai_answers import (
    chat_choice,
    chat_events,
    completion_choice,
    completion_events,
    usage_json,
)
from llmos.server.openai_wire import ChatBody, CompletionBody
from llmos.server.routing import Explained, answered, chat_need, need_of
from llmos.server.sse import Event, EventStream, answer
from llmos.tasks.chat import CHAT_TASKS
from llmos.tasks.generate import GENERATE_TASKS, generate, generate_all
from llmos.tasks.suitability import Need, expected_tokens

if TYPE_CHECKING:
    from llmos.library.versions import Version
    from llmos.system import System
    from llmos.tasks.context import Served


def router(system: System) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/v1", tags=["OpenAI"], route_class=BodyRoute)

    @routes.get("/models")
    async def list_models(actor: Annotated[Actor, allow("models.read")]) -> JSONResponse:
        """The newest version of every model and adapter that the key is for."""
        models = await asyncio.to_thread(system.library.list, "model")
        adapters = await asyncio.to_thread(system.library.list, "adapter")
        shown = [one for one in (*models, *adapters) if policy.has_model(actor, one.full_name)]
        newest = {version.full_name: version for version in shown}
        data = [_model(version, name) for name, version in newest.items()]
        return JSONResponse({"object": "list", "data": data})

    @routes.get("/models/{model:path}")
    async def retrieve_model(
        model: str, actor: Annotated[Actor, allow("models.read")]
    ) -> JSONResponse:
        """One model, by reference or by task name."""
        try:
            base, adapter = await asyncio.to_thread(resolve_pair, system.library, model)
        except ModelNotFoundError as error:
            error.param = "model"
            raise
        version = adapter or base
        for asked in (version, base) if "+" in model else (version,):
            policy.check(actor, "models.read", asked.ref)
        return JSONResponse(_model(version, model))

    @routes.post("/chat/completions")
    async def chat_completions(
        body: ChatBody, request: Request, actor: Annotated[Actor, allow("generate")]
    ) -> Response:
        """Answer a conversation; with ``stream`` as server-sent events."""
        messages = tuple(turn.to_message() for turn in body.messages)
        sampling = body.sampling()

        def need() -> Need:
            limit = sampling["max_tokens"]
            return chat_need(
                actor, body.constraints(), body.priority, messages, limit, body.tool_use()
            )

        async def answering(served: Served, _: Explained) -> Response:
            asked = generate_request(
                served, actor, messages, sampling, id_prefix="chatcmpl", **body.terms()
            )
            chunks = generate(system.tasks, served, asked)
            head = _head(asked.id, "chat.completion", served)
            if body.stream:
                head["object"] += ".chunk"
                return EventStream(chat_events(chunks, head, with_usage=body.wants_usage_chunk))
            answers, usage = await answer(request, collect(chunks, asked.n))
            must_call = asked.tool_use.choice not in ("auto", "none")
            choices = [
                chat_choice(one, with_logprobs=bool(body.logprobs), must_call=must_call)
                for one in answers
            ]
            return JSONResponse({**head, "choices": choices, "usage": usage_json(usage)})

        return await answered(system, request, actor, body, CHAT_TASKS, need, answering)

    @routes.post("/completions")
    async def completions(
        body: CompletionBody, request: Request, actor: Annotated[Actor, allow("generate")]
    ) -> Response:
        """Continue a text, or several; with ``stream`` as server-sent events."""
        sampling = body.sampling()

        def need() -> Need:
            parts = (part for one in body.prompts for part in _parts(one))
            expected = expected_tokens(body.max_tokens) * len(body.prompts)
            return need_of(actor, body.constraints(), body.priority, parts, expected)

        async def answering(served: Served, _: Explained) -> Response:
            terms = body.terms()
            asked = [
                generate_request(served, actor, prompt, sampling, id_prefix="cmpl", **terms)
                for prompt in body.prompts
            ]
            chunks = generate_all(system.tasks, served, asked)
            head = _head(asked[0].id, "text_completion", served)
            shows = {"with_logprobs": body.logprobs is not None}
            if body.stream:
                with_usage = body.wants_usage_chunk
                return EventStream(completion_events(chunks, head, with_usage=with_usage, **shows))
            answers, usage = await answer(request, collect(chunks, sum(one.n for one in asked)))
            choices = [completion_choice(one, **shows) for one in answers]
            return JSONResponse({**head, "choices": choices, "usage": usage_json(usage)})

        return await answered(system, request, actor, body, GENERATE_TASKS, need, answering)

    return routes


def _parts(prompt: str | tuple[int, ...]) -> Sequence[str | int]:
    return (prompt,) if isinstance(prompt, str) else prompt


def _head(request_id: str, kind: str, served: Served) -> Event:
    return {
        "id": request_id,
        "object": kind,
        "created": int(time.time()),
        "model": served.ref,
        "system_fingerprint": served.digest[:19],
    }


def _model(version: Version, name: str) -> Event:
    created = int(version.created_at)
    return {"id": name, "object": "model", "created": created, "owned_by": version.owner}

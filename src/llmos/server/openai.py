"""The OpenAI-compatible API: /v1/models, /v1/chat/completions and /v1/completions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from llmos.security import policy
from llmos.security.actors import Actor
from llmos.server.access import allow
from llmos.server.asking import Answer, collect, generate_request, served_for
from llmos.server.openai_wire import ChatBody, CompletionBody
from llmos.server.sse import Event, EventStream, answer
from llmos.tasks.chat import CHAT_TASKS
from llmos.tasks.generate import GENERATE_TASKS, generate, generate_all
from llmos.types import Chunk, TokenLogprob, Usage

if TYPE_CHECKING:
    from llmos.library.versions import Version
    from llmos.system import System
    from llmos.tasks.context import Served


def router(system: System) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/v1", tags=["OpenAI"])

    @routes.get("/models")
    async def list_models(actor: Annotated[Actor, allow("models.read")]) -> JSONResponse:
        """The newest version of every model that the key is for."""
        versions = await asyncio.to_thread(system.library.list, "model")
        shown = [one for one in versions if policy.has_model(actor, one.full_name)]
        newest = {version.full_name: version for version in shown}
        data = [_model(version, name) for name, version in newest.items()]
        return JSONResponse({"object": "list", "data": data})

    @routes.get("/models/{model:path}")
    async def retrieve_model(
        model: str, actor: Annotated[Actor, allow("models.read")]
    ) -> JSONResponse:
        """One model, by reference or by task name."""
        version = await asyncio.to_thread(system.library.resolve, model)
        policy.check(actor, "models.read", version.ref)
        return JSONResponse(_model(version, model))

    @routes.post("/chat/completions")
    async def chat_completions(
        body: ChatBody, request: Request, actor: Annotated[Actor, allow("generate")]
    ) -> Response:
        """Answer a conversation; with ``stream`` as server-sent events."""
        served = await served_for(system.tasks, actor, body.model, CHAT_TASKS)
        messages = tuple(turn.to_message() for turn in body.messages)
        asked = generate_request(
            served,
            actor,
            messages,
            body.sampling(),
            id_prefix="chatcmpl",
            stop=body.stop,
            n=body.n or 1,
            priority=body.priority,
        )
        chunks = generate(system.tasks, served, asked)
        head = _head(asked.id, "chat.completion", served)
        if body.stream:
            head["object"] += ".chunk"
            return EventStream(_chat_events(chunks, head, body))
        answers, usage = await answer(request, collect(chunks, asked.n))
        choices = [_chat_choice(one, bool(body.logprobs)) for one in answers]
        return JSONResponse({**head, "choices": choices, "usage": _usage(usage)})

    @routes.post("/completions")
    async def completions(
        body: CompletionBody, request: Request, actor: Annotated[Actor, allow("generate")]
    ) -> Response:
        """Continue a text, or several; with ``stream`` as server-sent events."""
        served = await served_for(system.tasks, actor, body.model, GENERATE_TASKS)
        asked = [
            generate_request(
                served,
                actor,
                prompt,
                body.sampling(),
                id_prefix="cmpl",
                stop=body.stop,
                n=body.n or 1,
                echo=bool(body.echo),
                priority=body.priority,
            )
            for prompt in body.prompts
        ]
        chunks = generate_all(system.tasks, served, asked)
        head = _head(asked[0].id, "text_completion", served)
        if body.stream:
            return EventStream(_completion_events(chunks, head, body))
        answers, usage = await answer(request, collect(chunks, sum(one.n for one in asked)))
        choices = [_completion_choice(one, body.logprobs is not None) for one in answers]
        return JSONResponse({**head, "choices": choices, "usage": _usage(usage)})

    return routes


async def _chat_events(
    chunks: AsyncGenerator[Chunk, None], head: Event, body: ChatBody
) -> AsyncGenerator[Event, None]:
    """Yield chat.completion.chunk objects: the role, then text, then why each choice ended."""
    extra = {"usage": None} if body.wants_usage_chunk else {}
    begun: set[int] = set()

    def event(chunk: Chunk, delta: dict[str, Any], finish_reason: str | None) -> Event:
        choice: Event = {"index": chunk.index, "delta": delta, "finish_reason": finish_reason}
        choice["logprobs"] = _chat_logprobs(chunk.logprobs) if chunk.logprobs else None
        return {**head, "choices": [choice], **extra}

    async with aclosing(chunks) as stream:
        async for chunk in stream:
            if chunk.index not in begun:
                begun.add(chunk.index)
                yield event(Chunk(chunk.index), {"role": "assistant", "content": ""}, None)
            if chunk.text or chunk.logprobs:
                yield event(chunk, {"content": chunk.text}, None)
            if chunk.finish_reason is not None:
                yield event(Chunk(chunk.index), {}, chunk.finish_reason)
            if chunk.usage is not None and body.wants_usage_chunk:
                yield {**head, "choices": [], "usage": _usage(chunk.usage)}


async def _completion_events(
    chunks: AsyncGenerator[Chunk, None], head: Event, body: CompletionBody
) -> AsyncGenerator[Event, None]:
    """Yield text_completion objects, each a piece of a choice."""
    extra = {"usage": None} if body.wants_usage_chunk else {}
    sent_chars: dict[int, int] = {}
    async with aclosing(chunks) as stream:
        async for chunk in stream:
            offset = sent_chars.get(chunk.index, 0)
            sent_chars[chunk.index] = offset + len(chunk.text)
            choice = {
                "index": chunk.index,
                "text": chunk.text,
                "finish_reason": chunk.finish_reason,
                "logprobs": _completion_logprobs(chunk.logprobs, offset)
                if body.logprobs is not None
                else None,
            }
            yield {**head, "choices": [choice], **extra}
            if chunk.usage is not None and body.wants_usage_chunk:
                yield {**head, "choices": [], "usage": _usage(chunk.usage)}


def _head(request_id: str, kind: str, served: Served) -> Event:
    return {
        "id": request_id,
        "object": kind,
        "created": int(time.time()),
        "model": served.ref,
        "system_fingerprint": served.version.digest[:19],
    }


def _model(version: Version, name: str) -> Event:
    created = int(version.created_at)
    return {"id": name, "object": "model", "created": created, "owned_by": version.owner}


def _usage(usage: Usage) -> Event:
    total = usage.prompt_tokens + usage.completion_tokens
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": total,
    }


def _chat_choice(one: Answer, with_logprobs: bool) -> Event:
    return {
        "index": one.index,
        "message": {"role": "assistant", "content": one.text, "refusal": None},
        "finish_reason": one.finish_reason,
        "logprobs": _chat_logprobs(one.logprobs) if with_logprobs else None,
    }


def _completion_choice(one: Answer, with_logprobs: bool) -> Event:
    return {
        "index": one.index,
        "text": one.text,
        "finish_reason": one.finish_reason,
        "logprobs": _completion_logprobs(one.logprobs, 0) if with_logprobs else None,
    }


def _chat_logprobs(tokens: Sequence[TokenLogprob]) -> Event:
    content = [
        {**_token(token), "top_logprobs": [_token(other) for other in token.top]}
        for token in tokens
    ]
    return {"content": content, "refusal": None}


def _token(token: TokenLogprob) -> Event:
    return {"token": token.token, "logprob": token.logprob, "bytes": list(token.bytes)}


def _completion_logprobs(tokens: Sequence[TokenLogprob], offset_chars: int) -> Event:
    offsets: list[int] = []
    for token in tokens:
        offsets.append(offset_chars)
        offset_chars += len(token.token)
    return {
        "tokens": [token.token for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [{top.token: top.logprob for top in token.top} for token in tokens],
        "text_offset": offsets,
    }

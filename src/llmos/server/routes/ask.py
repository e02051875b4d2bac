"""Asking a model that writes, native style: generate, translate."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from llmos.sdk.conversation import GenerateBody
from llmos.sdk.wire import TranslateBody
from llmos.security.actors import Actor
from llmos.server.access import allow, terms_for
from llmos.server.anonymise import hide_answer
from llmos.server.asking import Answer, Prompt, collect, generate_request
from llmos.server.bodies import BodyRoute
from llmos.server.routing import Explained, answered, chat_need, head, need_of
from llmos.server.sse import Event, EventStream, answer
from llmos.tasks.generate import GENERATE_TASKS, generate
from llmos.tasks.suitability import Need, expected_tokens, tokens_of
from llmos.tasks.translate import TRANSLATE_TASKS, translate
from llmos.types import Chunk, Message, TokenLogprob, Usage

if TYPE_CHECKING:
    from llmos.system import System
    from llmos.tasks.context import Served

_TRANSLATE_OPTIONS = {"num_beams", "no_repeat_ngram_size", "length_penalty", "max_tokens"}


def router(system: System) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/api/v1", tags=["ask a model"], route_class=BodyRoute)

    @routes.post("/generate")
    async def generate_text(
        body: GenerateBody, request: Request, actor: Annotated[Actor, allow("generate")]
    ) -> Response:
        """Continue a prompt or answer messages; with ``stream`` as server-sent events."""
        prompt = _prompt(body)

        def need() -> Need:
            if body.messages is None:
                expected = expected_tokens(body.max_tokens)
                return need_of(actor, body.constraints(), body.priority, _parts(prompt), expected)
            turns = [turn.to_message() for turn in body.messages]
            return chat_need(
                actor, body.constraints(), body.priority, turns, body.max_tokens, body.tool_use()
            )

        async def answering(served: Served, explained: Explained) -> Response:
            asked = generate_request(
                served,
                actor,
                prompt,
                body.sampling(),
                stop=body.stop,
                n=body.n,
                echo=body.echo,
                priority=body.priority,
                deadline_ms=body.deadline_ms,
                grammar=body.output_grammar(),
                tool_use=body.tool_use(),
                template_options=body.chat_template_kwargs,
                stream=body.stream,
            )
            chunks = generate(system.tasks, served, asked)
            if body.stream:
                return EventStream(_events(chunks, explained))
            answers, usage = await answer(request, collect(chunks, asked.n))
            first = {"text": answers[0].text, "finish_reason": answers[0].finish_reason}
            choices = [_choice(one, body.logprobs is not None) for one in answers]
            begun = {"id": asked.id, **head(served, explained)}
            return JSONResponse({**begun, **first, "choices": choices, "usage": _usage(usage)})

        return await answered(system, request, actor, body, GENERATE_TASKS, need, answering)

    @routes.post("/translate")
    async def translate_text(
        body: TranslateBody, request: Request, actor: Annotated[Actor, allow("generate")]
    ) -> Response:
        """Translate a text of any length."""
        pair = {"source_lang": body.source_lang, "target_lang": body.target_lang}

        def need() -> Need:
            return need_of(
                actor,
                body.constraints(),
                body.priority,
                [body.text],
                tokens_of(body.text),
                language=f"{body.source_lang}_{body.target_lang}",
                pair=(body.source_lang, body.target_lang),
            )

        async def answering(served: Served, explained: Explained) -> Response:
            work = translate(
                system.tasks,
                served,
                body.text,
                body.source_lang,
                body.target_lang,
                options=body.model_dump(include=_TRANSLATE_OPTIONS),
                terms=terms_for(actor, body.priority, body.deadline_ms),
            )
            done = await answer(request, work)
            text = await hide_answer(request, actor, done.text)
            said = {"text": text, **pair, "usage": _usage(done.usage)}
            return JSONResponse({**head(served, explained), **said})

        return await answered(system, request, actor, body, TRANSLATE_TASKS, need, answering)

    return routes


def _prompt(body: GenerateBody) -> Prompt:
    if body.messages is not None:
        return tuple(turn.to_message() for turn in body.messages)
    return body.prompt if isinstance(body.prompt, str) else tuple(body.prompt or ())


def _parts(prompt: Prompt) -> list[str | int]:
    parts = (prompt,) if isinstance(prompt, str) else prompt
    return [part for part in parts if not isinstance(part, Message)]


async def _events(
    chunks: AsyncGenerator[Chunk, None], explained: Explained
) -> AsyncGenerator[Event, None]:
    """Yield the pieces; the first says why its model answers, where that was chosen."""
    async with aclosing(chunks) as stream:
        async for chunk in stream:
            event: Event = {"index": chunk.index, "text": chunk.text}
            if explained is not None:
                event["route"], explained = explained, None
            if chunk.reasoning:
                event["reasoning"] = chunk.reasoning
            if chunk.tool_calls:
                event["tool_calls"] = [msgspec.to_builtins(delta) for delta in chunk.tool_calls]
            if chunk.logprobs:
                event["logprobs"] = [_logprob(token) for token in chunk.logprobs]
            if chunk.finish_reason is not None:
                event["finish_reason"] = chunk.finish_reason
            if chunk.usage is not None:
                event["usage"] = _usage(chunk.usage)
            yield event


def _choice(one: Answer, with_logprobs: bool) -> dict[str, Any]:
    choice: dict[str, Any] = {"index": one.index, "text": one.text}
    if one.reasoning:
        choice["reasoning"] = one.reasoning
    if one.tool_calls:
        choice["tool_calls"] = [msgspec.to_builtins(call) for call in one.tool_calls]
    choice["finish_reason"] = one.finish_reason
    if with_logprobs:
        choice["logprobs"] = [_logprob(token) for token in one.logprobs]
    return choice


def _logprob(token: TokenLogprob) -> dict[str, Any]:
    return {
        "token": token.token,
        "bytes": list(token.bytes),
        "logprob": token.logprob,
        "top": [_logprob(other) for other in token.top],
    }


def _usage(usage: Usage) -> dict[str, int]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "cached_tokens": usage.cached_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
    }

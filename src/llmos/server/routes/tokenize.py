"""A model's tokenizer over HTTP: /tokenize and /detokenize, in vLLM's shape."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, get_args

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from pydantic import Field, model_validator

from llmos.library.manifest import Task
from llmos.sdk.conversation import MAX_MESSAGES, MessageBody
from llmos.sdk.wire import Body, TokenId
from llmos.security.actors import Actor
from llmos.server.access import allow
from llmos.server.asking import served_for
from llmos.tasks.chat import CHAT_TASKS, chat_prompt, check_messages
from llmos.tasks.embed import check_ids
from llmos.types import ToolUse

if TYPE_CHECKING:
    from llmos.system import System
    from llmos.tasks.context import Served

TASKS: frozenset[str] = frozenset(get_args(Task))


class TokenizeBody(Body):
    """Tokenise ``text`` (or ``prompt``), or ``messages`` as the model's chat template writes them.

    Special tokens are added around a text unless told; a template has its own.
    """

    model: str
    text: str | None = None
    prompt: str | None = None
    messages: Annotated[list[MessageBody], Field(min_length=1, max_length=MAX_MESSAGES)] | None = (
        None
    )
    add_special_tokens: bool | None = None

    @model_validator(mode="after")
    def _one_input(self) -> TokenizeBody:
        if [self.text, self.prompt, self.messages].count(None) != 2:
            raise ValueError("give one of text and messages")
        return self


class DetokenizeBody(Body):
    """Turn token ids back into the text they stand for."""

    model: str
    tokens: list[TokenId]
    skip_special_tokens: bool = False


def router(system: System) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(tags=["tokens"])

    async def text_of(body: TokenizeBody, served: Served) -> str:
        if body.messages is None:
            return body.text or body.prompt or ""
        messages = [turn.to_message() for turn in body.messages]
        check_messages(messages)
        return await chat_prompt(system.tasks, served, messages, ToolUse(), {})

    @routes.post("/tokenize")
    async def tokenize(
        body: TokenizeBody, actor: Annotated[Actor, allow("generate")]
    ) -> JSONResponse:
        """The token ids of a text, and how many the model's context holds."""
        kinds = TASKS if body.messages is None else CHAT_TASKS
        served = await served_for(system.tasks, actor, body.model, kinds)
        text = await text_of(body, served)
        adds = body.messages is None if body.add_special_tokens is None else body.add_special_tokens
        tokens = (await served.tokenizer.encode(text, special_tokens=adds)).ids
        facts = {"count": len(tokens), "max_model_len": served.context_tokens}
        return JSONResponse({"model": served.ref, **facts, "tokens": tokens})

    @routes.post("/detokenize")
    async def detokenize(
        body: DetokenizeBody, actor: Annotated[Actor, allow("generate")]
    ) -> JSONResponse:
        """The text of token ids, special ones shown unless told."""
        served = await served_for(system.tasks, actor, body.model, TASKS)
        check_ids(body.tokens, served, "tokens")
        shows = not body.skip_special_tokens
        decode = served.tokenizer.decode
        text = await asyncio.to_thread(decode, body.tokens, special_tokens=shows)
        return JSONResponse({"model": served.ref, "text": text})

    return routes

"""A model's tokenizer over HTTP: /tokenize and /detokenize, in vLLM's shape."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, get_args

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from pydantic import Field, model_validator

from llmos.errors import TooLargeError
from llmos.library.manifest import Task
from llmos.sdk.conversation import MAX_MESSAGES, MessageBody
from llmos.sdk.wire import MAX_PROMPT_IDS, Body, TokenId
from llmos.security.actors import Actor
from llmos.server.access import allow
from llmos.server.asking import served_for
from llmos.server.bodies import BodyRoute
from llmos.tasks.chat import CHAT_TASKS, chat_prompt, check_messages
from llmos.tasks.embed import check_ids
from llmos.types import ToolUse

if TYPE_CHECKING:
    from llmos.system import System
    from llmos.tasks.context import Served

TASKS: frozenset[str] = frozenset(get_args(Task))
MAX_TEXT_BYTES = 2**20
MAX_IDS = 200_000


class TokenizeBody(Body):
    """Tokenise ``text`` (or ``prompt``), or ``messages`` as the model's chat template writes them.

    Special tokens are added around a text unless told; a template has its own.
    """

    model: str
    text: str | None = None
    prompt: str | None = None
    messages: (
        Annotated[list[MessageBody], Field(fail_fast=True, min_length=1, max_length=MAX_MESSAGES)]
        | None
    ) = None
    add_special_tokens: bool | None = None

    @model_validator(mode="after")
    def _one_input(self) -> TokenizeBody:
        if [self.text, self.prompt, self.messages].count(None) != 2:
            raise ValueError("give one of text and messages")
        return self


class DetokenizeBody(Body):
    """Turn token ids back into the text they stand for."""

    model: str
    tokens: Annotated[list[TokenId], Field(fail_fast=True, max_length=MAX_PROMPT_IDS)]
    skip_special_tokens: bool = False


def check_text(text: str, field: str) -> None:
    """Refuse more text than is tokenised in about a second. Raises TooLargeError."""
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_TEXT_BYTES:
        raise TooLargeError(
            f"{field} has {size} bytes of text, but at most {MAX_TEXT_BYTES} are tokenised at a "
            "time: send it in parts.",
            param=field,
        )


def router(system: System) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(tags=["tokens"], route_class=BodyRoute)

    async def ids_of(body: TokenizeBody, served: Served, owner: str) -> tuple[int, ...]:
        adds = body.messages is None if body.add_special_tokens is None else body.add_special_tokens
        if body.messages is None:
            text = body.text or body.prompt or ""
            check_text(text, "prompt" if body.text is None else "text")
            return await served.tokenizer.ids(text, special_tokens=adds)
        messages = [turn.to_message() for turn in body.messages]
        check_messages(messages)
        check_text("".join(one.content + one.reasoning for one in messages), "messages")
        chat = await chat_prompt(system.tasks, served, messages, ToolUse(), {}, owner)
        check_text(chat.text, "messages")
        return await chat.ids(served.tokenizer, special_tokens=adds)

    @routes.post("/tokenize")
    async def tokenize(
        body: TokenizeBody, actor: Annotated[Actor, allow("generate")]
    ) -> JSONResponse:
        """The token ids of a text, and how many the model's context holds."""
        kinds = TASKS if body.messages is None else CHAT_TASKS
        served = await served_for(system.tasks, actor, body.model, kinds)
        tokens = await ids_of(body, served, actor.owner)
        facts = {"count": len(tokens), "max_model_len": served.context_tokens}
        return JSONResponse({"model": served.ref, **facts, "tokens": tokens})

    @routes.post("/detokenize")
    async def detokenize(
        body: DetokenizeBody, actor: Annotated[Actor, allow("generate")]
    ) -> JSONResponse:
        """The text of token ids, special ones shown unless told."""
        if len(body.tokens) > MAX_IDS:
            raise TooLargeError(
                f"tokens has {len(body.tokens)} ids, but at most {MAX_IDS} are taken at a time: "
                "send them in parts.",
                param="tokens",
            )
        served = await served_for(system.tasks, actor, body.model, TASKS)
        check_ids(body.tokens, served, "tokens")
        shows = not body.skip_special_tokens
        decode = served.tokenizer.decode
        text = await asyncio.to_thread(decode, body.tokens, special_tokens=shows)
        return JSONResponse({"model": served.ref, "text": text})

    return routes

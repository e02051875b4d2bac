"""Asking a model that reads, native style: fill masks, answer from a context, rate."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from llmos.sdk.wire import AnswerBody, FillMaskBody, RateBody
from llmos.security.actors import Actor
from llmos.server.access import allow, terms_for
from llmos.server.bodies import BodyRoute
from llmos.server.routes.ask import head
from llmos.server.routing import Explained, answered, need_of
from llmos.server.sse import answer
from llmos.tasks.answer import ANSWER_TASKS
from llmos.tasks.answer import answer as find_answer
from llmos.tasks.fill_mask import FILL_MASK_TASKS, fill_mask
from llmos.tasks.rate import RATE_TASKS, rate
from llmos.tasks.suitability import Need

if TYPE_CHECKING:
    from llmos.system import System
    from llmos.tasks.context import Served


def router(system: System) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/api/v1", tags=["ask a model"], route_class=BodyRoute)

    @routes.post("/fill_mask")
    async def fill_masks(
        body: FillMaskBody, request: Request, actor: Annotated[Actor, allow("generate")]
    ) -> Response:
        """Fill each ``[MASK]`` of a text: its likeliest tokens, and the text with each."""

        async def answering(served: Served, explained: Explained) -> Response:
            terms = terms_for(actor, body.priority, body.deadline_ms)
            work = fill_mask(system.tasks, served, body.text, body.top_k, terms)
            masks = [
                [dataclasses.asdict(one) for one in mask] for mask in await answer(request, work)
            ]
            return JSONResponse({**head(served, explained), "masks": masks})

        def need() -> Need:
            return need_of(actor, body.constraints(), body.priority, [body.text])

        return await answered(system, request, actor, body, FILL_MASK_TASKS, need, answering)

    @routes.post("/answer")
    async def answer_question(
        body: AnswerBody, request: Request, actor: Annotated[Actor, allow("generate")]
    ) -> Response:
        """Find the answer to a question in a context; offsets count characters."""

        async def answering(served: Served, explained: Explained) -> Response:
            terms = terms_for(actor, body.priority, body.deadline_ms)
            work = find_answer(system.tasks, served, body.question, body.context, terms)
            found = dataclasses.asdict(await answer(request, work))
            return JSONResponse({**head(served, explained), **found})

        def need() -> Need:
            read = [body.question, body.context]
            return need_of(actor, body.constraints(), body.priority, read)

        return await answered(system, request, actor, body, ANSWER_TASKS, need, answering)

    @routes.post("/rate")
    async def rate_text(
        body: RateBody, request: Request, actor: Annotated[Actor, allow("generate")]
    ) -> Response:
        """Give a text a number."""

        async def answering(served: Served, explained: Explained) -> Response:
            terms = terms_for(actor, body.priority, body.deadline_ms)
            score = await answer(request, rate(system.tasks, served, body.text, terms))
            return JSONResponse({**head(served, explained), "score": score})

        def need() -> Need:
            return need_of(actor, body.constraints(), body.priority, [body.text])

        return await answered(system, request, actor, body, RATE_TASKS, need, answering)

    return routes

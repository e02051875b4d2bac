"""Asking a model that reads, native style: classify, entities, fill masks, answer from a context,
rate, parse."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Coroutine, Sequence
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from llmos.errors import UnsupportedTaskError
from llmos.sdk.reading_wire import (
    AnswerBody,
    ClassifyBody,
    EntitiesBody,
    FillMaskBody,
    ParseBody,
    RateBody,
)
from llmos.security.actors import Actor
from llmos.server.access import allow, terms_for
from llmos.server.anonymise import refuse_where_hidden
from llmos.server.bodies import BodyRoute
from llmos.server.routing import Explained, answered, head, need_of
from llmos.server.sse import Event, answer
from llmos.tasks.answer import ANSWER_TASKS
from llmos.tasks.answer import answer as find_answer
from llmos.tasks.classify import CLASSIFY_TASKS, classify
from llmos.tasks.entities import ENTITIES_TASKS, entities
from llmos.tasks.fill_mask import FILL_MASK_TASKS, fill_mask
from llmos.tasks.parse import PARSE_TASKS, parse_text, parse_words
from llmos.tasks.rate import RATE_TASKS, rate
from llmos.tasks.rows import Terms
from llmos.tasks.suitability import Need
from llmos.tasks.zero_shot import ZERO_SHOT_TASKS, classify_by_labels

if TYPE_CHECKING:
    from llmos.system import System
    from llmos.tasks.context import Served

ReadBody = ClassifyBody | EntitiesBody | FillMaskBody | AnswerBody | RateBody | ParseBody
Asker = Annotated[Actor, allow("generate")]
T = TypeVar("T")


def router(system: System) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/api/v1", tags=["ask a model"], route_class=BodyRoute)
    tasks = system.tasks

    async def told(
        request: Request,
        actor: Actor,
        body: ReadBody,
        kinds: Collection[str],
        texts: Sequence[str],
        work: Callable[[Served, Terms], Coroutine[Any, Any, T]],
        say: Callable[[T], Event],
    ) -> Response:
        """Return what a model says of ``texts``.

        Args:
            kinds: tasks whose models can be asked.
            work: asks one of them.
            say: makes JSON of its answer.
        """

        async def answering(served: Served, explained: Explained) -> Response:
            terms = terms_for(actor, body.priority, body.deadline_ms)
            found = await answer(request, work(served, terms))
            return JSONResponse({**head(served, explained), **say(found)})

        def need() -> Need:
            return need_of(actor, body.constraints(), body.priority, texts)

        return await answered(system, request, actor, body, kinds, need, answering)

    @routes.post("/classify")
    async def classify_text(body: ClassifyBody, request: Request, actor: Asker) -> Response:
        """Label a text: with the labels that a model was trained for, or with any others."""
        labels = body.labels
        if labels is None:
            return await told(
                request,
                actor,
                body,
                CLASSIFY_TASKS,
                [body.text],
                lambda served, terms: classify(tasks, served, body.text, terms),
                dataclasses.asdict,
            )
        try:
            return await told(
                request,
                actor,
                body,
                ZERO_SHOT_TASKS,
                [body.text],
                lambda served, terms: classify_by_labels(
                    tasks, served, body.text, labels, body.template, terms
                ),
                dataclasses.asdict,
            )
        except UnsupportedTaskError as error:
            error.message += " Labels of your own need a model that embeds, or a language model."
            raise

    @routes.post("/entities")
    async def find_entities(body: EntitiesBody, request: Request, actor: Asker) -> Response:
        """Find the names in a text; offsets count characters."""
        return await told(
            request,
            actor,
            body,
            ENTITIES_TASKS,
            [body.text],
            lambda served, terms: entities(tasks, served, body.text, terms),
            lambda found: {"entities": [dataclasses.asdict(one) for one in found]},
        )

    @routes.post("/fill_mask")
    async def fill_masks(body: FillMaskBody, request: Request, actor: Asker) -> Response:
        """Fill each ``[MASK]`` of a text: its likeliest tokens, or one span, and the text with
        each."""
        if actor.anonymise is not None and actor.anonymise.answers:
            refuse_where_hidden(actor, "it cannot be looked for in single words")
        return await told(
            request,
            actor,
            body,
            FILL_MASK_TASKS,
            [body.text],
            lambda served, terms: fill_mask(tasks, served, body.text, body.top_k, terms),
            lambda masks: {"masks": [[dataclasses.asdict(one) for one in mask] for mask in masks]},
        )

    @routes.post("/answer")
    async def answer_question(body: AnswerBody, request: Request, actor: Asker) -> Response:
        """Find the answer to a question in a context; offsets count characters."""
        return await told(
            request,
            actor,
            body,
            ANSWER_TASKS,
            [body.question, body.context],
            lambda served, terms: find_answer(tasks, served, body.question, body.context, terms),
            dataclasses.asdict,
        )

    @routes.post("/rate")
    async def rate_text(body: RateBody, request: Request, actor: Asker) -> Response:
        """Give a text a number."""
        return await told(
            request,
            actor,
            body,
            RATE_TASKS,
            [body.text],
            lambda served, terms: rate(tasks, served, body.text, terms),
            lambda score: {"score": score},
        )

    @routes.post("/parse")
    async def parse(body: ParseBody, request: Request, actor: Asker) -> Response:
        """Find what each word of a sentence hangs below, and how; of a text, of each sentence."""
        words, text = body.words, body.text or ""
        if words is not None:
            refuse_where_hidden(actor, "it cannot be looked for in single words")
        return await told(
            request,
            actor,
            body,
            PARSE_TASKS,
            words or [text],
            lambda served, terms: (
                parse_words(tasks, served, words, terms)
                if words is not None
                else parse_text(tasks, served, text, terms)
            ),
            lambda found: {
                "sentences": [
                    {"words": [dataclasses.asdict(word) for word in sentence]} for sentence in found
                ]
            },
        )

    return routes

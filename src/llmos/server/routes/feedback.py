"""What people say of answers: noted for the choice of models, and kept to be learned from."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Path, Query
from fastapi.responses import JSONResponse

from llmos.apps.teaching import lessons_of
from llmos.errors import NotFoundError, PermissionDeniedError
from llmos.kernel.job_rows import MAX_ID
from llmos.library.answers import key_of
from llmos.library.feedback import Said, may_see, output_of
from llmos.library.lessons import verdict
from llmos.sdk.route_wire import FeedbackBody, RowsBody
from llmos.security import policy
from llmos.security.actors import Actor
from llmos.server.access import allow
from llmos.server.bodies import BodyRoute
from llmos.server.response_store import ResponseStore

if TYPE_CHECKING:
    from llmos.library.answers import KeptAnswer
    from llmos.library.lessons import Feedback
    from llmos.system import System

MAX_LIMIT = 1000


def router(system: System) -> APIRouter:
    """Return the routes."""
    paths = APIRouter(prefix="/api/v1", tags=["feedback"], route_class=BodyRoute)
    responses = ResponseStore(system.database, system.keys.clock)

    def checked(model: str, actor: Actor) -> str:
        """Return the version that gave an answer, if the key is for it."""
        if not may_see(actor, model):
            raise PermissionDeniedError(
                f"feedback on an answer of {model} is not allowed: this key is limited to other "
                "models; ask an admin for another key"
            )
        return model

    async def answer_of(body: FeedbackBody, actor: Actor) -> tuple[str, KeptAnswer | None]:
        """Return which version gave an answer that was kept or stored, and the answer if kept."""
        assert body.response_id is not None
        policy.check(actor, "responses.read")
        try:
            kept = await system.answers.get(body.response_id, actor)
        except NotFoundError as missing:
            if body.teaches:
                raise
            try:
                stored = await responses.get(body.response_id, actor.owner)
            except NotFoundError:
                raise missing from None
            return checked(str(stored.body["model"]), actor), None
        return checked(kept.model, actor), kept

    @paths.post("/feedback")
    async def give(
        body: FeedbackBody, actor: Annotated[Actor, allow("feedback.write")]
    ) -> JSONResponse:
        """Say whether an answer was good: models whose answers are get more requests. What is said
        of a kept answer is kept with it, to be learned from."""
        model, kept = body.model, None
        if body.response_id is not None:
            model, kept = await answer_of(body, actor)
        if kept is not None:
            output_of(kept, body.choice)  # refused before anything is noted
        assert model is not None
        good = verdict(body.good, body.rating, body.correction)
        noted: dict[str, Any] = {"model": model, "good": None}
        if good is not None:
            judged = system.choosing.judge
            of = _answer_key(body)
            noted = await judged(actor, model, body.task, body.language or "", good, of)
        if kept is not None:
            said = Said(body.good, body.rating, body.correction, body.comment, body.choice)
            noted["id"] = (await system.feedback.give(actor, kept, said)).id
        return JSONResponse(noted)

    @paths.post("/feedback/rows")
    async def teach(
        body: RowsBody, actor: Annotated[Actor, allow("feedback.write")]
    ) -> JSONResponse:
        """Give rows to be learned, as data files have them; those that are there are left out, so
        that a file which has grown can be given again. All are taken, or none."""
        version = await asyncio.to_thread(system.library.resolve, body.model)
        policy.check(actor, "models.read", version.ref)
        lessons = await asyncio.to_thread(lessons_of, body.rows, body.first)
        added = await system.feedback.teach(actor, version.ref, lessons)
        return JSONResponse({"model": version.ref, "added": added, "known": len(lessons) - added})

    @paths.get("/feedback")
    async def list_feedback(
        actor: Annotated[Actor, allow("feedback.read")],
        model: str | None = None,
        before: Annotated[int | None, Query(ge=1, le=MAX_ID)] = None,
        limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = 100,
    ) -> JSONResponse:
        """What was said of the answers of the key's owner, the newest first: of those of a model,
        or of one version of it."""
        found = await system.feedback.of_owner(
            actor.owner,
            model,
            before=before,
            limit=limit,
            shows=lambda one: may_see(actor, one.model),
        )
        return JSONResponse({"data": [feedback_json(one) for one in found]})

    @paths.delete("/feedback/{number}")
    async def forget(
        number: Annotated[int, Path(ge=1, le=MAX_ID)],
        actor: Annotated[Actor, allow("feedback.write")],
    ) -> JSONResponse:
        """Forget a piece of feedback; models that have learned it stay as they are."""
        await system.feedback.remove(actor, number)
        return JSONResponse({"id": number, "removed": True})

    return paths


def feedback_json(one: Feedback) -> dict[str, Any]:
    """Return a piece of feedback as clients see it."""
    return dataclasses.asdict(one)


def _answer_key(body: FeedbackBody) -> str | None:
    """Return what one answer is known by, behind whichever door; None where it has no id."""
    if body.response_id is None:
        return None
    key = key_of(body.response_id)
    return f"{key}#{body.choice}" if body.choice else key

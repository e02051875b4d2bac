"""Where a version, or an answer, came from; which answers are kept; asking the same again."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from llmos.library.answers import KeptAnswer
from llmos.library.lineage import lineage_of
from llmos.sdk.wire import KeepAnswersBody, ReplayBody
from llmos.security import policy
from llmos.security.actors import Actor
from llmos.server.access import allow
from llmos.server.anonymise import refuse_where_hidden
from llmos.server.asking import served_for
from llmos.server.bodies import BodyRoute
from llmos.server.sse import answer as answered
from llmos.tasks.generate import GENERATE_TASKS, generate
from llmos.tasks.replay import again, replay

if TYPE_CHECKING:
    from llmos.system import System


def router(system: System) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/api/v1", tags=["lineage"], route_class=BodyRoute)
    answers = system.answers

    async def versions_of(model: str, actor: Actor) -> list[dict[str, Any]]:
        """Return the lineage of a version, or of a base and the adapter over it."""
        found = []
        for name in model.split("+"):
            version = await asyncio.to_thread(system.library.resolve, name)
            policy.check(actor, "models.read", version.ref)
            found.append(await asyncio.to_thread(lineage_of, system.database, version, actor))
        return found

    @routes.get("/lineage/answers/{response_id}")
    async def answer_lineage(
        response_id: str, actor: Annotated[Actor, allow("responses.read")]
    ) -> JSONResponse:
        """A kept answer: which version gave it, what that was made from, and how it was asked."""
        found = await answers.get(response_id, actor)
        versions = await versions_of(found.model, actor)
        return JSONResponse({"answer": answer_json(found), "versions": versions})

    @routes.get("/lineage/models/{ref:path}")
    async def model_lineage(
        ref: str, actor: Annotated[Actor, allow("models.read")]
    ) -> JSONResponse:
        """A version, the job that made it, and its inputs likewise."""
        return JSONResponse({"versions": await versions_of(ref, actor)})

    @routes.get("/lineage/datasets/{ref:path}")
    async def dataset_lineage(
        ref: str, actor: Annotated[Actor, allow("datasets.read")]
    ) -> JSONResponse:
        """A version of a dataset, the job that made it, and its inputs likewise."""
        version = await asyncio.to_thread(system.library.resolve, ref, "dataset")
        policy.check(actor, "datasets.read", version.ref, owner=version.owner)
        found = await asyncio.to_thread(lineage_of, system.database, version, actor)
        return JSONResponse({"versions": [found]})

    @routes.get("/answers")
    async def read_keeping(actor: Annotated[Actor, allow("responses.read")]) -> JSONResponse:
        """Whether the answers of the key's owner are kept."""
        return JSONResponse({"owner": actor.owner, "keeps": answers.keeps(actor.owner)})

    @routes.put("/answers")
    async def switch_keeping(
        body: KeepAnswersBody, actor: Annotated[Actor, allow("responses.write")]
    ) -> JSONResponse:
        """Keep the owner's answers from now on; or keep no more, and forget those kept."""
        await answers.switch(actor, body.keeps)
        return JSONResponse({"owner": actor.owner, "keeps": body.keeps})

    @routes.post("/answers/replay")
    async def replay_answer(
        body: ReplayBody, request: Request, actor: Annotated[Actor, allow("generate")]
    ) -> JSONResponse:
        """Ask the same of the same version again, on the key's own terms, and compare."""
        policy.check(actor, "responses.read")
        refuse_where_hidden(actor, "a kept answer is asked again as it was")
        found = await answers.get(body.id, actor)
        served = await served_for(system.tasks, actor, found.model, GENERATE_TASKS)
        asked = again(found, actor)
        chunks = generate(system.tasks, served, asked, keep=False)
        came = await answered(request, replay(served, found, chunks))
        texts = [served.tokenizer.decode(one["token_ids"]) for one in came.outputs]
        return JSONResponse(
            {
                "id": asked.id,
                "model": found.model,
                "same": came.is_same,
                "first_difference": came.first_difference,
                "texts": texts,
            }
        )

    return routes


def answer_json(found: KeptAnswer) -> dict[str, Any]:
    """Return a kept answer as clients see it."""
    return dataclasses.asdict(found)

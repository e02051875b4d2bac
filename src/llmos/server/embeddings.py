"""Texts to vectors and to ranks: /v1/embeddings as OpenAI's, /v1/rerank as Cohere's and Jina's."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from llmos.sdk.vectors import numbers, to_base64
from llmos.security.actors import Actor
from llmos.server.access import allow, terms_for
from llmos.server.bodies import BodyRoute
from llmos.server.embeddings_wire import EmbeddingsBody, RerankBody
from llmos.server.routing import Explained, answered, need_of
from llmos.server.sse import answer
from llmos.tasks.embed import EMBED_TASKS, Embeddings, EmbedInput, embed
from llmos.tasks.rerank import RERANK_TASKS, Ranked, rerank
from llmos.tasks.suitability import Need
from llmos.types import Usage

if TYPE_CHECKING:
    from llmos.system import System
    from llmos.tasks.context import Served


def router(system: System) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/v1", tags=["embeddings"], route_class=BodyRoute)

    @routes.post("/embeddings")
    async def embeddings(
        body: EmbeddingsBody, request: Request, actor: Annotated[Actor, allow("generate")]
    ) -> Response:
        """Turn texts, or token arrays, into vectors: as numbers, or as base64 of float32."""

        def need() -> Need:
            parts = (part for one in body.input for part in _parts(one))
            return need_of(actor, body.constraints(), body.priority, parts)

        async def answering(served: Served, _: Explained) -> Response:
            terms = terms_for(actor, body.priority, body.deadline_ms)
            work = embed(system.tasks, served, body.input, body.options(), terms)
            made = await answer(request, work)
            as_base64 = body.encoding_format == "base64"
            # Millions of numbers take a while to write down: not on the event loop.
            content = await asyncio.to_thread(_content, made, served.ref, as_base64)
            return Response(content, media_type="application/json")

        return await answered(system, request, actor, body, EMBED_TASKS, need, answering)

    @routes.post("/rerank")
    async def rerank_documents(
        body: RerankBody, request: Request, actor: Annotated[Actor, allow("generate")]
    ) -> Response:
        """Order documents by how well they answer a query, the best first."""

        def need() -> Need:
            return need_of(actor, body.constraints(), body.priority, [body.query, *body.documents])

        async def answering(served: Served, _: Explained) -> Response:
            work = rerank(
                system.tasks,
                served,
                body.query,
                body.documents,
                terms_for(actor, body.priority, body.deadline_ms),
                truncate=body.truncate,
            )
            ranking = await answer(request, work)
            results = [_result(one, body) for one in ranking.results[: body.top_n]]
            head = {"id": f"rerank-{uuid.uuid4().hex}", "model": served.ref}
            return JSONResponse({**head, "results": results, "usage": _usage(ranking.usage)})

        return await answered(system, request, actor, body, RERANK_TASKS, need, answering)

    return routes


def _parts(given: EmbedInput) -> Sequence[str | int]:
    return (given,) if isinstance(given, str) else given


def _content(made: Embeddings, ref: str, as_base64: bool) -> bytes:
    data = [
        msgspec.json.encode(
            {
                "object": "embedding",
                "index": index,
                "embedding": to_base64(vector) if as_base64 else numbers(vector),
            }
        )
        for index, vector in enumerate(made.vectors)
    ]
    rest = msgspec.json.encode({"object": "list", "model": ref, "usage": _usage(made.usage)})
    return rest[:-1] + b',"data":[' + b",".join(data) + b"]}"


def _result(one: Ranked, body: RerankBody) -> dict[str, Any]:
    result: dict[str, Any] = {"index": one.index, "relevance_score": one.score}
    if body.return_documents:
        result["document"] = {"text": body.documents[one.index]}
    return result


def _usage(usage: Usage) -> dict[str, int]:
    return {"prompt_tokens": usage.prompt_tokens, "total_tokens": usage.prompt_tokens}

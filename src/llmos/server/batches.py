"""OpenAI's Batch API: /v1/batches, to begin, list, read and cancel a file of requests."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse

from llmos.apps.batch_files import KEPT_S, Files
from llmos.apps.batch_rows import MAX_FILE_BYTES, BatchFile, check_file
from llmos.apps.batch_store import Batch, NewBatch
from llmos.errors import InvalidRequestError, NotFoundError
from llmos.security import policy
from llmos.security.actors import Actor
from llmos.server.access import allow
from llmos.server.asking import served_for
from llmos.server.batches_wire import BatchBody
from llmos.server.bodies import BodyRoute
from llmos.server.files import page
from llmos.tasks.chat import CHAT_TASKS
from llmos.tasks.embed import EMBED_TASKS
from llmos.tasks.generate import GENERATE_TASKS
from llmos.tasks.suitability import Need

if TYPE_CHECKING:
    from llmos.apps.batch_files import Upload
    from llmos.system import System

TASKS = {
    "/v1/chat/completions": CHAT_TASKS,
    "/v1/completions": GENERATE_TASKS,
    "/v1/embeddings": EMBED_TASKS,
}
"""What a model must be made for to answer at an endpoint."""
_ENDS = ("completed", "failed", "expired", "cancelled")


def router(system: System) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/v1/batches", tags=["OpenAI"], route_class=BodyRoute)
    files = Files(system.database, system.keys.clock)
    batches = system.batches

    async def owned(batch_id: str, actor: Actor, action: str) -> Batch:
        batch = await batches.get(batch_id)
        policy.check(actor, action, batch_id, owner=batch.owner)
        return batch

    @routes.post("")
    async def create_batch(
        body: BatchBody, actor: Annotated[Actor, allow("batches.write")]
    ) -> JSONResponse:
        """Begin a batch, once every row of its file is known to be one that can be asked."""
        policy.check(actor, "batches.read")  # its job asks how it stands
        upload = await _readable(files, body.input_file_id, actor)
        found = await asyncio.to_thread(_check, system, upload, body.endpoint)
        await _check_model(system, actor, found.model, body.endpoint)
        kept = body.output_expires_after
        wanted = NewBatch(
            body.endpoint,
            body.completion_window,
            body.metadata,
            KEPT_S if kept is None else kept.seconds,
        )
        return JSONResponse(batch_json(await batches.create(actor, wanted, upload, found)))

    @routes.get("")
    async def list_batches(
        actor: Annotated[Actor, allow("batches.read")],
        after: str | None = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
    ) -> JSONResponse:
        """One's batches, an admin's everybody's, the newest first; ``after`` is the id of the one
        to go on behind."""
        owner = None if actor.role == "admin" else actor.owner
        found, has_more = await batches.list(owner, after=after, limit=limit)
        return JSONResponse(page([batch_json(batch) for batch in found], has_more))

    @routes.get("/{batch_id}")
    async def retrieve_batch(
        batch_id: str, actor: Annotated[Actor, allow("batches.read")]
    ) -> JSONResponse:
        """How a batch stands."""
        return JSONResponse(batch_json(await owned(batch_id, actor, "batches.read")))

    @routes.post("/{batch_id}/cancel")
    async def cancel_batch(
        batch_id: str, actor: Annotated[Actor, allow("batches.write")]
    ) -> JSONResponse:
        """Let a batch end within seconds, with the rows that are done."""
        await owned(batch_id, actor, "batches.write")
        return JSONResponse(batch_json(await batches.cancel(batch_id, actor)))

    return routes


async def _readable(files: Files, file_id: str, actor: Actor) -> Upload:
    """Return the file of a new batch.

    Raises:
        NotFoundError: there is no such file.
        PermissionDeniedError: it is another owner's.
        InvalidRequestError: it is no file for a batch.
    """
    try:
        upload = await files.get(file_id)
    except NotFoundError as error:
        error.param = "input_file_id"
        raise
    policy.check(actor, "files.read", file_id, owner=upload.owner)
    if upload.purpose != "batch":
        raise InvalidRequestError(
            f"{file_id} was made for {upload.purpose!r}: upload a file with purpose 'batch'.",
            param="input_file_id",
        )
    if upload.size_bytes > MAX_FILE_BYTES:
        raise InvalidRequestError(
            f"{file_id} has {upload.size_bytes} bytes, and a batch at most {MAX_FILE_BYTES}: make "
            "several of it.",
            param="input_file_id",
        )
    return upload


async def _check_model(system: System, actor: Actor, name: str, endpoint: str) -> None:
    """Refuse a name that no row could be answered by: no model's, task's or route's that the actor
    may use. Raises as `served_for` and `Choosing.choose`."""
    kinds, choosing = TASKS[endpoint], system.choosing
    if choosing.may_choose(name):
        need = Need(prompt_tokens=1, is_chat=kinds is CHAT_TASKS)
        if await choosing.choose(actor, name, kinds, need) is not None:
            return
    await served_for(system.tasks, actor, name, kinds)


def _check(system: System, upload: Upload, endpoint: str) -> BatchFile:
    """Read a whole file; blocks for seconds. Raises BatchFileError."""
    with system.blobs.open(upload.digest) as file:
        return check_file(file, endpoint, system.settings.max_body_bytes)


def batch_json(batch: Batch) -> dict[str, Any]:
    """Return a batch as OpenAI's clients see it, and the number of its job."""
    status, counts, job = batch.status, batch.counts, batch.job
    times: dict[str, int | None] = {f"{ended}_at": None for ended in _ENDS}
    if status in _ENDS:
        times[f"{status}_at"] = _time(batch.ended_at or job.finished_at)
    errors = None
    if status == "failed" and job.error is not None:
        fault = {"code": job.error["code"], "message": job.error["message"]}
        errors = {"object": "list", "data": [{**fault, "line": None, "param": None}]}
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "model": job.params["model"],
        "errors": errors,
        "input_file_id": batch.input_file_id,
        "completion_window": batch.completion_window,
        "status": status,
        "output_file_id": batch.output_file_id,
        "error_file_id": batch.error_file_id,
        "created_at": _time(batch.created_at),
        "in_progress_at": _time(job.started_at),
        "expires_at": _time(batch.expires_at),
        "finalizing_at": _time(batch.finalizing_at),
        **times,
        "cancelling_at": _time(batch.cancelling_at),
        "request_counts": {
            "total": batch.total,
            "completed": counts.completed,
            "failed": counts.failed,
        },
        "metadata": batch.notes,
        "job_id": batch.job_id,
    }


def _time(at: float | None) -> int | None:
    return None if at is None else int(at)

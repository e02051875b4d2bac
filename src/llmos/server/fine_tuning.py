"""OpenAI's fine-tuning API: /v1/fine_tuning/jobs, over the models of this home."""

from __future__ import annotations

import asyncio
import importlib.util
import secrets
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse

from llmos.apps.batch_files import Files
from llmos.apps.tuning_files import MAX_FILE_BYTES, TuningFile, check_file
from llmos.apps.tuning_recipe import HELD_BACK, plan, recipe_of
from llmos.apps.tuning_store import NewTuning, Tuning, new_id
from llmos.errors import InvalidRequestError, LlmosError, NotFoundError
from llmos.security import policy
from llmos.security.actors import Actor
from llmos.server.access import allow
from llmos.server.bodies import BodyRoute
from llmos.server.files import page
from llmos.server.fine_tuning_told import checkpoint_json, event_json, event_number, tuning_json
from llmos.server.fine_tuning_wire import FineTuneBody
from llmos.server.shares import Shares

if TYPE_CHECKING:
    from llmos.apps.batch_files import Upload
    from llmos.library.versions import Version
    from llmos.system import System

MAX_BASE_CHARS = 50
"""Of a base's name in the name of what is made of it."""
MAX_OWNER_CHECKS = 2
"""Fine-tunings that one owner can have looked at: all wait for the same thread."""
Limit = Annotated[int, Query(ge=1, le=100)]

_CHECKS = ThreadPoolExecutor(1, thread_name_prefix="tuning-files")
"""Reads files for seconds each, and so keeps to one core and off the threads that all share."""


def router(system: System) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["OpenAI"], route_class=BodyRoute)
    tunings = system.tunings
    checks = Shares(MAX_OWNER_CHECKS, "fine-tunings being checked")

    async def owned(tuning_id: str, actor: Actor, action: str) -> Tuning:
        tuning = await tunings.get(tuning_id)
        policy.check(actor, action, tuning_id, owner=tuning.owner)
        return tuning

    def told(tuning: Tuning) -> JSONResponse:
        return JSONResponse(tuning_json(tuning, tunings.clock()))

    @routes.post("")
    async def create_fine_tuning_job(
        body: FineTuneBody, actor: Annotated[Actor, allow("fine_tuning.write")]
    ) -> JSONResponse:
        """Queue a training over a model, once every row of its files is known to be one that can
        be learned."""
        with checks.taken(actor.owner):
            wanted, params = await _prepared(system, body, actor)
        return told(await tunings.create(actor, wanted, params))

    @routes.get("")
    async def list_fine_tuning_jobs(
        request: Request,
        actor: Annotated[Actor, allow("fine_tuning.read")],
        after: str | None = None,
        limit: Limit = 20,
    ) -> JSONResponse:
        """One's fine-tunings, an admin's everybody's, the newest first; ``metadata[key]=value``
        picks those that have it, ``metadata=null`` those with none."""
        owner = None if actor.role == "admin" else actor.owner
        notes = _notes_wanted(request)
        found, has_more = await tunings.list(
            owner, after=after, limit=limit, notes=notes, without_notes=notes is None
        )
        now = tunings.clock()
        return JSONResponse(page([tuning_json(tuning, now) for tuning in found], has_more))

    @routes.get("/{tuning_id}")
    async def retrieve_fine_tuning_job(
        tuning_id: str, actor: Annotated[Actor, allow("fine_tuning.read")]
    ) -> JSONResponse:
        """How a fine-tuning stands."""
        return told(await owned(tuning_id, actor, "fine_tuning.read"))

    @routes.get("/{tuning_id}/events")
    async def list_fine_tuning_events(
        tuning_id: str,
        actor: Annotated[Actor, allow("fine_tuning.read")],
        after: str | None = None,
        limit: Limit = 20,
    ) -> JSONResponse:
        """What a fine-tuning said, the newest first."""
        tuning = await owned(tuning_id, actor, "fine_tuning.read")
        before = None if after is None else event_number(after)
        events, has_more = await tunings.events(tuning, before, limit)
        return JSONResponse(page([event_json(event, tuning) for event in events], has_more))

    @routes.get("/{tuning_id}/checkpoints")
    async def list_fine_tuning_checkpoints(
        tuning_id: str,
        actor: Annotated[Actor, allow("fine_tuning.read")],
        after: str | None = None,
        limit: Limit = 10,
    ) -> JSONResponse:
        """The versions that a fine-tuning made, the newest first."""
        tuning = await owned(tuning_id, actor, "fine_tuning.read")
        made = [checkpoint_json(tuning, one) for one in _checkpoints(tuning)]
        names = [one["id"] for one in made]
        if after is not None and after not in names:
            raise InvalidRequestError(f"There is no checkpoint {after[:100]!r}.", param="after")
        rest = made if after is None else made[names.index(after) + 1 :]
        return JSONResponse(page(rest[:limit], len(rest) > limit))

    @routes.post("/{tuning_id}/cancel")
    async def cancel_fine_tuning_job(
        tuning_id: str, actor: Annotated[Actor, allow("fine_tuning.write")]
    ) -> JSONResponse:
        """End a fine-tuning within seconds; nothing is made of it."""
        tuning = await owned(tuning_id, actor, "fine_tuning.write")
        return told(await tunings.cancel(tuning, actor))

    @routes.post("/{tuning_id}/pause")
    async def pause_fine_tuning_job(
        tuning_id: str, actor: Annotated[Actor, allow("fine_tuning.write")]
    ) -> JSONResponse:
        """Hold a fine-tuning that runs."""
        tuning = await owned(tuning_id, actor, "fine_tuning.write")
        return told(await tunings.set_paused(tuning, True, actor))

    @routes.post("/{tuning_id}/resume")
    async def resume_fine_tuning_job(
        tuning_id: str, actor: Annotated[Actor, allow("fine_tuning.write")]
    ) -> JSONResponse:
        """Let a fine-tuning go on that was held."""
        tuning = await owned(tuning_id, actor, "fine_tuning.write")
        return told(await tunings.set_paused(tuning, False, actor))

    return routes


async def _prepared(
    system: System, body: FineTuneBody, actor: Actor
) -> tuple[NewTuning, dict[str, Any]]:
    """Return a fine-tuning, and the params of the train job that it is.

    Raises:
        NotFoundError: there is no such model or file.
        PermissionDeniedError: it is not the actor's to use.
        InvalidRequestError: something cannot be; of a file, `TrainingFileError`.
    """
    hyperparameters, suffix = body.wanted(), body.checked_suffix()
    seed = secrets.randbelow(2**31) if body.seed is None else body.seed
    base = await _base(system, body.model, actor)
    names = [("training_file", body.training_file)]
    if body.validation_file is not None:
        names.append(("validation_file", body.validation_file))
    files = Files(system.database, system.keys.clock)
    uploads = [await _readable(files, file_id, param, actor) for param, file_id in names]
    seen: dict[str, TuningFile] = {}
    for upload, (param, _) in zip(uploads, names, strict=True):
        if upload.digest not in seen:
            seen[upload.digest] = await _checked(system, upload, param, base, body, seed)
    checked = [seen[upload.digest] for upload in uploads]
    paths = [f"{upload.id}/{upload.filename}" for upload in uploads]
    train, *validation = zip(paths, checked, strict=True)
    try:
        whole = len(checked[0].fractions)
        num_examples = whole if validation else checked[0].num_trained(HELD_BACK, "training_file")
    except LlmosError as error:
        error.param = "training_file"
        raise
    planned = plan(
        body.method_type,
        hyperparameters,
        num_examples,
        base.manifest.get("parameters", 0),
        is_adapter=importlib.util.find_spec("peft") is not None,
    )
    tuning_id = new_id()
    short = base.name[:MAX_BASE_CHARS].rstrip(".")
    name = f"{short}-{suffix or 'ft'}-{tuning_id.removeprefix('ftjob-')[:8]}"
    recipe = recipe_of(planned, base, name, seed, train, validation[0] if validation else None)
    data = {path: upload.digest for path, upload in zip(paths, uploads, strict=True)}
    wanted = NewTuning(
        tuning_id,
        base.ref,
        body.training_file,
        body.validation_file,
        body.method_type,
        planned.told(),
        suffix,
        seed,
        body.metadata,
    )
    return wanted, {"recipe": recipe, "name": name, "data": data}


async def _base(system: System, name: str, actor: Actor) -> Version:
    """Return the model to go on from.

    Raises:
        ModelNotFoundError, InvalidNameError: there is none.
        PermissionDeniedError: the actor may not read it.
        InvalidRequestError: it is no model that learns to chat here.
    """
    try:
        version = await asyncio.to_thread(system.library.resolve, name)
    except LlmosError as error:
        error.param = "model"
        raise
    policy.check(actor, "models.read", version.ref)
    manifest = version.manifest
    if version.kind == "adapter":
        raise InvalidRequestError(
            f"{version.ref} is an adapter: fine-tune its base, {manifest['base']}.", param="model"
        )
    if (manifest["engine"], manifest["task"]) != ("native", "chat"):
        raise InvalidRequestError(
            f"{version.ref} cannot be fine-tuned here: it must be a model that chats, run by the "
            f"engine native, and this one is for {manifest['task']!r} ({manifest['engine']}); "
            "`llmos train` trains others.",
            param="model",
        )
    return version


async def _readable(files: Files, file_id: str, param: str, actor: Actor) -> Upload:
    """Return a file to learn from.

    Raises:
        NotFoundError: there is no such file.
        PermissionDeniedError: it is another owner's.
        InvalidRequestError: it is for something else, or too large.
    """
    try:
        upload = await files.get(file_id)
    except NotFoundError as error:
        error.param = param
        raise
    policy.check(actor, "files.read", file_id, owner=upload.owner)
    if upload.purpose != "fine-tune":
        raise InvalidRequestError(
            f"{file_id} was made for {upload.purpose!r}: upload a file with purpose 'fine-tune'.",
            param=param,
        )
    if upload.size_bytes > MAX_FILE_BYTES:
        raise InvalidRequestError(
            f"{file_id} has {upload.size_bytes} bytes, and this takes {MAX_FILE_BYTES}: "
            "`llmos train` takes as much as there is.",
            param=param,
        )
    return upload


async def _checked(
    system: System, upload: Upload, param: str, base: Version, body: FineTuneBody, seed: int
) -> TuningFile:
    """Read a whole file. Raises TrainingFileError."""
    tokenizer = await system.tasks.tokenizers.get(base.files)
    context_tokens = base.manifest["context_tokens"]

    def count(text: str) -> int:
        return len(tokenizer.encode_now(text, special_tokens=False).ids)

    def check() -> TuningFile:
        with system.blobs.open(upload.digest) as file:
            return check_file(file, body.method_type, seed, count, context_tokens, param)

    return await asyncio.get_running_loop().run_in_executor(_CHECKS, check)


def _checkpoints(tuning: Tuning) -> list[dict[str, Any]]:
    """Return ``{"ref", "step", …}`` of the versions it made, the newest first."""
    result = tuning.job.result or {}
    told = result.get("checkpoints", [])
    refs = result.get("artifacts", [])[-len(told) :] if told else []
    return [{**one, "ref": ref} for one, ref in zip(told, refs, strict=True)][::-1]


def _notes_wanted(request: Request) -> dict[str, str] | None:
    """Return what metadata is asked for; None: that there be none."""
    wanted = {}
    for name, value in request.query_params.multi_items():
        if name == "metadata" and value == "null":
            return None
        if name.startswith("metadata[") and name.endswith("]"):
            key = name.removeprefix("metadata[")[:-1]
            if '"' in key:  # which no path of the database's can name
                raise InvalidRequestError(f"No metadata is found by {key!r}.", param="metadata")
            wanted[key] = value
        elif name.startswith("metadata"):
            raise InvalidRequestError(
                "metadata is asked for as metadata[key]=value, or metadata=null.", param="metadata"
            )
    return wanted

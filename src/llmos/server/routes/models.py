"""Models and the files they are made of."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Literal

import msgspec
import psutil
from fastapi import APIRouter
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse

from llmos.errors import NotFoundError
from llmos.library import cards, catalog
from llmos.library.evaluations import read_evaluations
from llmos.library.files import select
from llmos.sdk.wire import AliasBody, ImportBody, ImportPlanBody, JobBody, PullBody
from llmos.security import policy
from llmos.security.actors import Actor
from llmos.server.access import allow
from llmos.server.bodies import BodyRoute
from llmos.server.routes.jobs import job_json

if TYPE_CHECKING:
    from llmos.library.versions import Version
    from llmos.system import System

PIECE_BYTES = 2**20


def router(system: System) -> APIRouter:
    """Return the routes. Those with a longer path come first, since a reference may hold a "/"."""
    routes = APIRouter(prefix="/api/v1", tags=["models"], route_class=BodyRoute)
    library = system.library

    async def resolved(ref: str, actor: Actor, action: str) -> Version:
        version = await asyncio.to_thread(library.resolve, ref)
        policy.check(actor, action, version.ref, owner=version.owner)
        return version

    @routes.get("/models")
    async def list_models(
        actor: Annotated[Actor, allow("models.read")],
        kind: Literal["model", "adapter", "dataset"] = "model",
    ) -> JSONResponse:
        """Every version that was not removed, the newest first; of the key's models alone."""
        versions = await asyncio.to_thread(library.list, kind)
        shown = [one for one in versions if _may_see(actor, one)]
        newest_first = sorted(shown, key=lambda version: -version.id)
        return JSONResponse({"data": [version_json(version) for version in newest_first]})

    @routes.get("/catalog")
    async def list_catalog(actor: Annotated[Actor, allow("catalog.read")]) -> JSONResponse:
        """Well-known hub models, each with whether it fits this machine's free memory now."""
        free_bytes = psutil.virtual_memory().available
        return JSONResponse({"data": [_entry(one, free_bytes) for one in catalog.CATALOG]})

    @routes.post("/models/import", status_code=202)
    async def import_model(
        body: ImportBody, actor: Annotated[Actor, allow("models.write")]
    ) -> JSONResponse:
        """Start making a model of uploaded files; returns the job."""
        params = body.model_dump(exclude_none=True)
        return await _submitted(system, actor, "import", params, body.name)

    @routes.post("/models/import/plan")
    async def plan_import(
        body: ImportPlanBody, actor: Annotated[Actor, allow("models.write")]
    ) -> JSONResponse:
        """Which of a directory's files to upload for an import, or what is wrong with them."""
        selection = select(body.filenames)
        await asyncio.to_thread(library.check_name, body.name, actor.owner, selection.kind)
        return JSONResponse({"kept": selection.kept, "skipped": selection.skipped})

    @routes.post("/models/pull", status_code=202)
    async def pull_model(
        body: PullBody, actor: Annotated[Actor, allow("models.write")]
    ) -> JSONResponse:
        """Start pulling a model from the hub; returns the job."""
        params = body.model_dump(exclude_none=True)
        return await _submitted(system, actor, "pull", params, body.name or body.repo)

    @routes.get("/models/{ref:path}/files/{filename}")
    async def read_file(
        ref: str, filename: str, actor: Annotated[Actor, allow("models.read")]
    ) -> StreamingResponse:
        """One file of a version, checked against its digest before the first byte."""
        version = await resolved(ref, actor, "models.read")
        file = version.files.get(filename)
        if file is None:
            known = ", ".join(sorted(version.files))
            raise NotFoundError(f"{version.ref} has no file {filename[:100]!r}: it has {known}.")
        stream = await asyncio.to_thread(system.blobs.open, file.digest)
        headers = {
            "Content-Length": str(file.size),
            "Content-Disposition": "attachment",
            "ETag": f'"{file.digest}"',
        }
        return StreamingResponse(
            _pieces(stream), headers=headers, media_type="application/octet-stream"
        )

    @routes.get("/models/{ref:path}/card")
    async def read_card(
        ref: str, actor: Annotated[Actor, allow("models.read")]
    ) -> PlainTextResponse:
        """The model card, as Markdown."""
        version = await resolved(ref, actor, "models.read")
        running = await asyncio.to_thread(system.tasks.running, version)
        found = await system.database.read(lambda conn: read_evaluations(conn, version))
        card = cards.render(version, running, [_told(actor, one) for one in found])
        return PlainTextResponse(card, media_type="text/markdown")

    @routes.post("/models/{ref:path}/aliases")
    async def set_alias(
        ref: str, body: AliasBody, actor: Annotated[Actor, allow("models.write")]
    ) -> JSONResponse:
        """Point an alias of the name at this version."""
        version = await resolved(ref, actor, "models.write")
        moved = await asyncio.to_thread(
            library.set_alias, version.ref, body.alias, actor, version.kind
        )
        return JSONResponse(version_json(moved))

    @routes.get("/models/{ref:path}")
    async def read_model(ref: str, actor: Annotated[Actor, allow("models.read")]) -> JSONResponse:
        """One version, by reference or by task name, the version that ``runs_as`` it, and its
        evaluations; ``base+adapter`` gives the adapter, whose ``ref`` then names both."""
        base, plus, name = ref.partition("+")
        version = await resolved(name or ref, actor, "models.read")
        if not plus:
            running = await asyncio.to_thread(system.tasks.running, version)
            found = await system.database.read(lambda conn: read_evaluations(conn, version))
            told = [_told(actor, one) for one in found]
            more = {"runs_as": running.ref, "evaluations": told}
            return JSONResponse(version_json(version) | more)
        under = await resolved(base, actor, "models.read")
        return JSONResponse(version_json(version) | {"ref": f"{under.ref}+{version.ref}"})

    @routes.delete("/models/{ref:path}")
    async def remove_model(
        ref: str, actor: Annotated[Actor, allow("models.write")]
    ) -> JSONResponse:
        """Remove a version. Its number is never used again; `gc` frees the space."""
        version = await resolved(ref, actor, "models.write")
        removed = await asyncio.to_thread(library.remove, ref, actor, version.kind)
        system.kernel.fleet.retire(removed.digest)
        return JSONResponse(version_json(removed))

    return routes


def _may_see(actor: Actor, version: Version) -> bool:
    if version.kind == "dataset":
        return policy.is_of(actor, version.owner)
    return policy.has_model(actor, version.full_name)


def version_json(version: Version) -> dict[str, Any]:
    """Return a version as clients see it."""
    return {
        "ref": version.ref,
        "kind": version.kind,
        "namespace": version.namespace,
        "name": version.name,
        "number": version.number,
        "aliases": list(version.aliases),
        "digest": version.digest,
        "task": version.manifest.get("task"),
        "size_bytes": version.size_bytes,
        "owner": version.owner,
        "created_at": version.created_at,
        "removed_at": version.removed_at,
        "job_id": version.job_id,
        "inputs": list(version.inputs),
        "files": {name: msgspec.to_builtins(file) for name, file in version.files.items()},
        "manifest": version.manifest,
    }


def _told(actor: Actor, evaluation: dict[str, Any]) -> dict[str, Any]:
    """Return an evaluation as an actor may see it: on which file, and by which job, is between
    those who had it made."""
    if policy.is_of(actor, evaluation["owner"]):
        return evaluation
    return evaluation | dict.fromkeys(("data_digest", "job_id", "owner"))


async def _submitted(
    system: System, actor: Actor, kind: str, params: dict[str, Any], name: str
) -> JSONResponse:
    job = await system.submitter.submit(actor, JobBody(kind=kind, name=name, params=params))
    return JSONResponse(job_json(job), status_code=202)


def _pieces(stream: BinaryIO) -> Iterator[bytes]:
    with stream:
        while piece := stream.read(PIECE_BYTES):
            yield piece


def _entry(entry: catalog.CatalogEntry, free_bytes: int) -> dict[str, Any]:
    return {
        "name": entry.name,
        "repo": entry.repo,
        "task": entry.task,
        "parameters": entry.parameters,
        "size_bytes": entry.download_bytes,
        "memory_bytes": entry.memory_bytes,
        "license": entry.license,
        "languages": list(entry.languages),
        "description": entry.summary,
        "gated": entry.gated,
        "fits": entry.fits(free_bytes),
    }

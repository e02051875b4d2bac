"""Datasets: add, list, look at, compare and remove them, run pipelines of operators over them."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse

from llmos.data.datasets import jobs
from llmos.data.datasets.card import render
from llmos.data.datasets.publishing import HEAD, HEAD_ROWS
from llmos.data.pipeline import registry
from llmos.errors import NotFoundError
from llmos.sdk.dataset_wire import (
    AddDatasetBody,
    CrawlBody,
    DiffBody,
    KAnonymityBody,
    MixBody,
    RunPipelineBody,
    SplitBody,
)
from llmos.sdk.wire import JobBody
from llmos.security import policy
from llmos.security.actors import Actor
from llmos.server.access import allow
from llmos.server.bodies import BodyRoute
from llmos.server.downloads import attachment, pieces
from llmos.server.routes.jobs import job_json

if TYPE_CHECKING:
    from llmos.library.versions import Version
    from llmos.system import System

KIND = "dataset"


def router(system: System) -> APIRouter:
    """Return the routes. Those with a longer path come first, since a reference may hold a "/"."""
    routes = APIRouter(prefix="/api/v1", tags=["datasets"], route_class=BodyRoute)
    library = system.library

    async def found(ref: str, actor: Actor, action: str) -> Version:
        version = await asyncio.to_thread(library.resolve, ref, KIND)
        policy.check(actor, action, version.ref, owner=version.owner)
        return version

    async def submitted(actor: Actor, kind: str, params: dict[str, Any], name: str) -> JSONResponse:
        body = JobBody(kind=kind, name=name, params=params)
        return JSONResponse(job_json(await system.submitter.submit(actor, body)), status_code=202)

    @routes.get("/datasets")
    async def list_datasets(actor: Annotated[Actor, allow("datasets.read")]) -> JSONResponse:
        """Every version that was not removed and that one may read, the newest first."""
        versions = await asyncio.to_thread(library.list, KIND)
        shown = [one for one in versions if policy.is_of(actor, one.owner)]
        newest_first = sorted(shown, key=lambda version: -version.id)
        return JSONResponse({"data": [summary_json(version) for version in newest_first]})

    @routes.post("/datasets", status_code=202)
    async def add_dataset(
        body: AddDatasetBody, actor: Annotated[Actor, allow("datasets.write")]
    ) -> JSONResponse:
        """Start making a dataset of uploaded files, or of what lies elsewhere; returns the job."""
        params = body.model_dump(exclude_none=True)
        return await submitted(actor, jobs.ADD, params, body.name)

    @routes.post("/datasets/crawl", status_code=202)
    async def crawl_site(
        body: CrawlBody, actor: Annotated[Actor, allow("datasets.write")]
    ) -> JSONResponse:
        """Start making a dataset of the pages of a site; returns the job."""
        params = body.model_dump(exclude_none=True)
        return await submitted(actor, jobs.CRAWL, params, body.name)

    @routes.post("/datasets/run", status_code=202)
    async def run_pipeline(
        body: RunPipelineBody, actor: Annotated[Actor, allow("datasets.write")]
    ) -> JSONResponse:
        """Start a pipeline of operators, which makes a dataset of another; returns the job."""
        name = body.pipeline.get("name")
        return await submitted(actor, jobs.RUN, body.params(), str(name)[:200])

    @routes.post("/datasets/diff", status_code=202)
    async def diff_datasets(
        body: DiffBody, actor: Annotated[Actor, allow("datasets.read")]
    ) -> JSONResponse:
        """Start comparing two datasets; returns the job, whose result says what differs."""
        params = body.model_dump()
        return await submitted(actor, jobs.DIFF, params, f"{body.before[:90]} {body.after[:90]}")

    @routes.post("/datasets/k_anonymity", status_code=202)
    async def check_k_anonymity(
        body: KAnonymityBody, actor: Annotated[Actor, allow("datasets.read")]
    ) -> JSONResponse:
        """Start counting who is alike; returns the job, whose result says which are too few."""
        params = body.model_dump(exclude_none=True)
        return await submitted(actor, jobs.K_ANONYMITY, params, body.input[:200])

    @routes.post("/datasets/split", status_code=202)
    async def split_dataset(
        body: SplitBody, actor: Annotated[Actor, allow("datasets.write")]
    ) -> JSONResponse:
        """Start splitting a dataset into parts, each a dataset of its own; returns the job."""
        params = body.model_dump(exclude_none=True)
        return await submitted(actor, jobs.SPLIT, params, body.input[:200])

    @routes.post("/datasets/mix", status_code=202)
    async def mix_datasets(
        body: MixBody, actor: Annotated[Actor, allow("datasets.write")]
    ) -> JSONResponse:
        """Start mixing datasets by weights into one; returns the job."""
        params = body.model_dump(exclude_none=True)
        return await submitted(actor, jobs.MIX, params, body.name[:200])

    @routes.get("/operators")
    async def list_operators(actor: Annotated[Actor, allow("datasets.read")]) -> JSONResponse:
        """Every operator with its options and an example."""
        return JSONResponse({"data": await asyncio.to_thread(registry.described)})

    @routes.get("/datasets/{ref:path}/head")
    async def read_head(
        ref: str,
        actor: Annotated[Actor, allow("datasets.read")],
        rows: Annotated[int, Query(ge=1, le=HEAD_ROWS)] = 10,
    ) -> JSONResponse:
        """Its first rows; long texts are cut."""
        version = await found(ref, actor, "datasets.read")
        content = await asyncio.to_thread(_read_file, system, version, HEAD)
        lines = content.split(b"\n")[:rows]
        return JSONResponse({"data": [json.loads(line) for line in lines if line]})

    @routes.get("/datasets/{ref:path}/card")
    async def read_card(
        ref: str, actor: Annotated[Actor, allow("datasets.read")]
    ) -> PlainTextResponse:
        """Its card, as Markdown."""
        version = await found(ref, actor, "datasets.read")
        return PlainTextResponse(render(version), media_type="text/markdown")

    @routes.get("/datasets/{ref:path}/files/{filename}")
    async def read_file(
        ref: str, filename: str, actor: Annotated[Actor, allow("datasets.read")]
    ) -> StreamingResponse:
        """One of its files, checked against its digest before the first byte: a shard as Parquet,
        or the table of dropped or rejected rows."""
        version = await found(ref, actor, "datasets.read")
        file = _file(version, filename)
        stream = await asyncio.to_thread(system.blobs.open, file.digest)
        headers = {"Content-Length": str(file.size), "ETag": f'"{file.digest}"'}
        return StreamingResponse(
            pieces(stream),
            headers=headers | attachment(filename),
            media_type="application/octet-stream",
        )

    @routes.get("/datasets/{ref:path}")
    async def read_dataset(
        ref: str, actor: Annotated[Actor, allow("datasets.read")]
    ) -> JSONResponse:
        """One version: its schema, statistics, files and how it was made."""
        return JSONResponse(dataset_json(await found(ref, actor, "datasets.read")))

    @routes.delete("/datasets/{ref:path}")
    async def remove_dataset(
        ref: str, actor: Annotated[Actor, allow("datasets.write")]
    ) -> JSONResponse:
        """Remove a version. Its number is never used again; `gc` frees the space."""
        version = await found(ref, actor, "datasets.write")
        removed = await asyncio.to_thread(library.remove, version.ref, actor, KIND)
        return JSONResponse(dataset_json(removed))

    return routes


def summary_json(version: Version) -> dict[str, Any]:
    """Return a dataset as a list shows it."""
    manifest = version.manifest
    return {
        "ref": version.ref,
        "namespace": version.namespace,
        "name": version.name,
        "number": version.number,
        "aliases": list(version.aliases),
        "digest": version.digest,
        "rows": manifest.get("rows"),
        "schema": manifest.get("schema"),
        "license": manifest.get("license"),
        "size_bytes": version.size_bytes,
        "owner": version.owner,
        "created_at": version.created_at,
        "removed_at": version.removed_at,
        "job_id": version.job_id,
        "inputs": list(version.inputs[:100]),
    }


def dataset_json(version: Version) -> dict[str, Any]:
    """Return a dataset as clients see it."""
    files = {name: msgspec.to_builtins(file) for name, file in version.files.items()}
    return summary_json(version) | {"files": files, "manifest": version.manifest}


def _file(version: Version, filename: str) -> Any:
    file = version.files.get(filename)
    if file is None:
        known = ", ".join(sorted(version.files)[:20])
        raise NotFoundError(f"{version.ref} has no file {filename[:100]!r}: it has {known}.")
    return file


def _read_file(system: System, version: Version, filename: str) -> bytes:
    return system.blobs.read_bytes(_file(version, filename).digest)

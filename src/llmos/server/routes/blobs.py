"""Uploads: bytes in, a digest back. Nothing is kept of an upload that is not whole.

Whose it is, and the audit event, follow the blob: one stored without them answers with an error,
can be named by nobody and goes with the next ``gc``.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from starlette.requests import ClientDisconnect

from llmos.security.actors import Actor
from llmos.server.access import allow
from llmos.server.errors import ClientGoneError
from llmos.server.receiving import received

if TYPE_CHECKING:
    from llmos.storage.blobs import BlobStore, BlobWriter
    from llmos.system import System
    from llmos.types import FileRef

WRITE_BYTES = 2**20
"""Bytes gathered before they are written, in a thread."""

_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


def router(system: System) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/api/v1", tags=["blobs"])
    owners = system.library.blob_owners

    @routes.post("/blobs", status_code=201, openapi_extra=_BODY)
    async def upload(
        request: Request, actor: Annotated[Actor, allow("blobs.write")]
    ) -> JSONResponse:
        """Store the body; returns its digest and size."""
        async with received(system.kernel.room, request, actor.owner) as limited:
            file = await _store(system.blobs, limited)
            await owners.add(actor, file, system.keys.clock())
        return JSONResponse(msgspec.to_builtins(file), status_code=201)

    @routes.head("/blobs/{digest}")
    async def has_blob(digest: str, actor: Annotated[Actor, allow("blobs.read")]) -> Response:
        """200 when the blob is stored and one may name it, because one has uploaded it or may read
        a model that has it (it is then spared by `gc` for a while); else 404."""
        found = await owners.keep(actor, [digest])
        return Response(status_code=200 if found else 404)

    @routes.delete("/blobs/{digest}")
    async def forget_blob(
        digest: str, actor: Annotated[Actor, allow("blobs.write")]
    ) -> JSONResponse:
        """Take back an upload that no model has; `gc` frees the space."""
        await owners.forget(actor, digest, system.keys.clock())
        return JSONResponse({"digest": digest, "removed": True})

    return routes


async def _store(blobs: BlobStore, request: Request) -> FileRef:
    with blobs.writer() as writer:
        try:
            await _write_body(writer, request)
        except ClientDisconnect as error:
            raise ClientGoneError from error
        return await asyncio.to_thread(writer.commit)


async def _write_body(writer: BlobWriter, request: Request) -> None:
    waiting = bytearray()
    async for piece in request.stream():
        waiting += piece
        if len(waiting) >= WRITE_BYTES:
            await asyncio.to_thread(writer.write, bytes(waiting))
            waiting.clear()
    await asyncio.to_thread(writer.write, bytes(waiting))

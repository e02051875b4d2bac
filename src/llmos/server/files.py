"""OpenAI's Files API, as far as batches and fine-tuning need it: /v1/files, to upload, list, read
and delete."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast, get_args

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.datastructures import FormData, UploadFile
from starlette.requests import ClientDisconnect

from llmos.apps.batch_files import KEPT_S, Files, Sent, Upload
from llmos.errors import InvalidRequestError
from llmos.security import policy
from llmos.security.actors import Actor
from llmos.server.access import allow
from llmos.server.batches_wire import ExpiryBody
from llmos.server.downloads import attachment, pieces
from llmos.server.errors import ClientGoneError
from llmos.server.receiving import received
from llmos.storage.files import disk_errors

if TYPE_CHECKING:
    from llmos.storage.blobs import BlobStore
    from llmos.system import System
    from llmos.types import FileRef

PURPOSES = get_args(Sent)
MAX_FIELDS = 8
MAX_FIELD_BYTES = 1024
COPY_BYTES = 2**20
_FIELDS = frozenset({"file", "purpose", "expires_after[anchor]", "expires_after[seconds]"})
_FORM = {
    "type": "object",
    "required": ["file", "purpose"],
    "properties": {
        "file": {"type": "string", "format": "binary"},
        "purpose": {"type": "string", "enum": list(PURPOSES)},
        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
        "expires_after[seconds]": {"type": "integer", "minimum": 3600, "maximum": 2592000},
    },
}
_BODY = {
    "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _FORM}}},
}


def router(system: System) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/v1/files", tags=["OpenAI"])
    files = Files(system.database, system.keys.clock)

    async def owned(file_id: str, actor: Actor, action: str) -> Upload:
        upload = await files.get(file_id)
        policy.check(actor, action, file_id, owner=upload.owner)
        return upload

    @routes.post("", openapi_extra=_BODY)
    async def upload_file(
        request: Request, actor: Annotated[Actor, allow("files.write")]
    ) -> JSONResponse:
        """Store a file for a batch or for fine-tuning; it is kept for 30 days unless told."""
        limits = {"max_fields": MAX_FIELDS, "max_part_size": MAX_FIELD_BYTES}
        async with received(system.kernel.room, request, actor.owner) as limited:
            try:
                with disk_errors():  # what is large is first written to a temporary file
                    async with limited.form(max_files=1, **limits) as form:
                        file, purpose, kept_s = _checked(form)
                        ref = await asyncio.to_thread(_store, system.blobs, file)
            except ClientDisconnect as error:
                raise ClientGoneError from error
            upload = await files.add(actor, file.filename or "", purpose, ref, kept_s)
        return JSONResponse(file_json(upload))

    @routes.get("")
    async def list_files(
        actor: Annotated[Actor, allow("files.read")],
        purpose: str | None = None,
        after: str | None = None,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
        order: Literal["asc", "desc"] = "desc",
    ) -> JSONResponse:
        """One's files, an admin's everybody's; ``after`` is the id of the one to go on behind."""
        found, has_more = await files.list(
            None if actor.role == "admin" else actor.owner,
            purpose=purpose,
            after=after,
            limit=limit,
            newest_first=order == "desc",
        )
        return JSONResponse(page([file_json(upload) for upload in found], has_more))

    @routes.get("/{file_id}")
    async def retrieve_file(
        file_id: str, actor: Annotated[Actor, allow("files.read")]
    ) -> JSONResponse:
        """What is known of a file."""
        return JSONResponse(file_json(await owned(file_id, actor, "files.read")))

    @routes.get("/{file_id}/content")
    async def read_content(
        file_id: str, actor: Annotated[Actor, allow("files.read")]
    ) -> StreamingResponse:
        """A file, checked against its digest before the first byte."""
        upload = await owned(file_id, actor, "files.read")
        stream = await asyncio.to_thread(system.blobs.open, upload.digest)
        headers = attachment(upload.filename) | {"Content-Length": str(upload.size_bytes)}
        return StreamingResponse(
            pieces(stream), headers=headers, media_type="application/octet-stream"
        )

    @routes.delete("/{file_id}")
    async def delete_file(
        file_id: str, actor: Annotated[Actor, allow("files.write")]
    ) -> JSONResponse:
        """Forget a file; a batch or a fine-tuning that reads it goes on."""
        await owned(file_id, actor, "files.write")
        await files.delete(file_id, actor)
        return JSONResponse({"id": file_id, "object": "file", "deleted": True})

    return routes


def file_json(upload: Upload) -> dict[str, Any]:
    """Return a file as OpenAI's clients see it."""
    return {
        "id": upload.id,
        "object": "file",
        "bytes": upload.size_bytes,
        "created_at": int(upload.created_at),
        "expires_at": None if upload.expires_at is None else int(upload.expires_at),
        "filename": upload.filename,
        "purpose": upload.purpose,
        "status": "processed",
    }


def page(data: list[dict[str, Any]], has_more: bool) -> dict[str, Any]:
    """Return one page of a list, in OpenAI's form."""
    ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {}
    first_and_last = {"first_id": None, "last_id": None} | ends
    return {"object": "list", "data": data, **first_and_last, "has_more": has_more}


def _checked(form: FormData) -> tuple[UploadFile, Sent, float]:
    """Return the file of a form, what it is for, and how many seconds to keep it.

    Raises:
        InvalidRequestError: one of them is missing or wrong.
    """
    if unknown := sorted(set(form) - _FIELDS):
        known = ", ".join(sorted(_FIELDS))
        raise InvalidRequestError(
            f"There is no field {unknown[0][:80]!r} here: use {known}.", param=unknown[0][:80]
        )
    file, purpose = form.get("file"), form.get("purpose")
    if not isinstance(file, UploadFile):
        raise InvalidRequestError(
            "The field 'file' is missing: send a file as multipart/form-data.", param="file"
        )
    if purpose not in PURPOSES:
        raise InvalidRequestError(
            f"purpose is {str(purpose)[:80]!r}, but llmos keeps files for batches and fine-tuning "
            "alone: send 'batch' or 'fine-tune'.",
            param="purpose",
        )
    return file, cast(Sent, purpose), _kept_s(form)


def _kept_s(form: FormData) -> float:
    given = {name: form.get(f"expires_after[{name}]") for name in ("anchor", "seconds")}
    if given == {"anchor": None, "seconds": None}:
        return KEPT_S
    seconds = str(given["seconds"])
    if given["anchor"] != "created_at" or not (seconds.isascii() and seconds.isdecimal()):
        raise InvalidRequestError(
            "expires_after has the anchor 'created_at', and seconds as a number.",
            param="expires_after",
        )
    return ExpiryBody.checked(int(seconds[:12])).seconds


def _store(blobs: BlobStore, file: UploadFile) -> FileRef:
    """Store what was uploaded. Blocks on the disk."""
    with blobs.writer() as writer:
        while data := file.file.read(COPY_BYTES):
            writer.write(data)
        return writer.commit()

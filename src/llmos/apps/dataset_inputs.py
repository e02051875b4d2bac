"""What a dataset is made of that only the server has: what its owner asked and was answered, and
said of answers, gathered when the job is submitted. Of owners alone who keep their answers
(`llmos answers on`) there is any.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from llmos.data.datasets.jobs import ADD
from llmos.data.fetching.sources import FEEDBACK, SAID, check_reads, model_named
from llmos.errors import DataError
from llmos.library.lessons import READS
from llmos.security import policy
from llmos.storage.blobs import is_digest

if TYPE_CHECKING:
    from llmos.library.artifacts import Library
    from llmos.library.feedback import FeedbackStore
    from llmos.security.actors import Actor
    from llmos.storage.blobs import BlobStore
    from llmos.types import FileRef

NOT_YET = "sha256:" + "0" * 64
"""Stands for rows that are gathered when the job begins."""


class DatasetInputs:
    """Completes requests to add a dataset."""

    def __init__(self, library: Library, blobs: BlobStore, feedback: FeedbackStore) -> None:
        self._library = library
        self._blobs = blobs
        self._feedback = feedback

    async def sizes(self, kind: str, params: dict[str, Any]) -> dict[str, Any]:
        """Return ``{"bytes"}`` of the files that a request to add some names, which are there."""
        files = params.get("files")
        if kind != ADD or not isinstance(files, dict):
            return {}

        def total() -> int:
            paths = [self._blobs.path(one) for one in files.values() if is_digest(one)]
            return sum(path.stat().st_size for path in paths)

        return {"bytes": await asyncio.to_thread(total)}

    async def said(self, actor: Actor, params: dict[str, Any], *, stores: bool) -> dict[str, Any]:
        """Return ``{"files"}`` of a dataset of the actor's feedback or kept answers, empty of
        another; rows that the request names by their digest are taken as they are.

        Args:
            stores: whether the rows are stored; else something stands for their digest.

        Raises:
            InvalidRequestError, InvalidNameError: the request names no model, or what its feedback
                cannot be made into.
            DataError: there is nothing.
            PermissionDeniedError: the actor may not read that, or not of that model.
        """
        url = params.get("url")
        if not isinstance(url, str) or not url.startswith(SAID) or params.get("files"):
            return {}
        name, kind = model_named(url), url.partition(":")[0]
        policy.check(actor, "feedback.read" if url.startswith(FEEDBACK) else "responses.read")
        policy.check(actor, "models.read", name)
        rows = await self._rows(actor, kind, name, check_reads(params.get("reads")))
        digest = NOT_YET
        if stores:
            at = self._feedback.now()
            digest = (await stored(self._library, self._blobs, actor, rows, at)).digest
        return {"files": {f"{kind}-{name.replace('/', '-')}.jsonl": digest}}

    async def _rows(self, actor: Actor, kind: str, name: str, reads: str) -> list[dict[str, Any]]:
        if f"{kind}:" == FEEDBACK:
            rows = (await self._feedback.lessons(actor.owner, name, reads)).rows
            wanted = "corrections" if reads == READS[1] else "corrections or good answers"
            hint = ", and `llmos feedback --response ID` says what they should have been"
        else:
            rows = await self._feedback.conversations(actor.owner, name)
            wanted, hint = "kept conversations", " to come"
        if not rows:
            raise DataError(
                f"there are no {wanted} of {name}: `llmos answers on` keeps answers{hint}",
                param="params.url",
            )
        return rows


async def stored(
    library: Library,
    blobs: BlobStore,
    actor: Actor,
    rows: Collection[dict[str, Any]],
    at: float,
) -> FileRef:
    """Store rows as a file of the actor's, JSON lines. ``at``: Unix seconds."""

    def put() -> FileRef:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        return blobs.put_bytes(text.encode())

    file = await asyncio.to_thread(put)
    await library.blob_owners.add(actor, file, at)
    return file

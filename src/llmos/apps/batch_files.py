"""Uploaded files and those that batches make: rows that name blobs, each with its owner.

A file whose time is over is gone for everybody at once; `sweep` takes its row away, and the next
sweep of the library its blob.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import sqlalchemy as sa

from llmos.errors import InvalidRequestError, NotFoundError
from llmos.security import audit
from llmos.storage.schema import uploads

if TYPE_CHECKING:
    from llmos.security.actors import Actor
    from llmos.storage.database import Database
    from llmos.types import FileRef

Sent = Literal["batch", "fine-tune"]
"""What clients send files for."""
Purpose = Literal["batch", "batch_output", "fine-tune", "fine-tune-results"]
KEPT_S = 30 * 86400.0
MAX_NAME_CHARS = 255


@dataclass(frozen=True, slots=True)
class Upload:
    """A file. Times are Unix seconds."""

    id: str
    filename: str
    purpose: Purpose
    digest: str
    size_bytes: int
    owner: str
    created_at: float
    expires_at: float | None


def new_upload(
    filename: str, purpose: Purpose, file: FileRef, owner: str, now: float, kept_s: float = KEPT_S
) -> Upload:
    """Return a file that is kept from now on for so many seconds."""
    return Upload(
        id=f"file-{uuid.uuid4().hex}",
        filename=plain_name(filename),
        purpose=purpose,
        digest=file.digest,
        size_bytes=file.size,
        owner=owner,
        created_at=now,
        expires_at=now + kept_s,
    )


def plain_name(filename: str) -> str:
    """Return a file's name without folders and without what cannot be printed."""
    name = filename.replace("\\", "/").rpartition("/")[2]
    return "".join(char for char in name if char.isprintable())[-MAX_NAME_CHARS:] or "file"


def insert_upload(conn: sa.Connection, upload: Upload, actor: str) -> None:
    """Write a file down, in the caller's transaction."""
    values = {column: getattr(upload, column) for column in uploads.c.keys()}  # noqa: SIM118
    conn.execute(uploads.insert().values(values))
    detail = {"purpose": upload.purpose, "digest": upload.digest, "size": upload.size_bytes}
    audit.record(conn, actor, "files.create", upload.id, detail, upload.created_at)


class Files:
    """The files of a home. Whose one may be touched, the caller checks."""

    def __init__(self, db: Database, clock: Callable[[], float]) -> None:
        self._db = db
        self._clock = clock

    async def add(
        self, actor: Actor, filename: str, purpose: Sent, file: FileRef, kept_s: float = KEPT_S
    ) -> Upload:
        """Write down an upload; its blob is stored already."""
        upload = new_upload(filename, purpose, file, actor.owner, self._clock(), kept_s)
        await self._db.write(lambda conn: insert_upload(conn, upload, actor.id))
        return upload

    async def get(self, file_id: str) -> Upload:
        """Return a file. Raises NotFoundError."""
        query = sa.select(uploads).where(self._is_live(), uploads.c.id == file_id)
        row = await self._db.read(lambda conn: conn.execute(query).first())
        if row is None:
            raise _not_found(file_id)
        return _upload(row)

    async def list(
        self,
        owner: str | None,
        *,
        purpose: str | None = None,
        after: str | None = None,
        limit: int = 10_000,
        newest_first: bool = True,
    ) -> tuple[Sequence[Upload], bool]:
        """Return the files of an owner, or of all, behind the one named ``after``; and whether
        there are more.

        Raises:
            InvalidRequestError: there is no file ``after``.
        """
        at, by_id = uploads.c.created_at, uploads.c.id
        query = sa.select(uploads).where(self._is_live()).limit(limit + 1)
        if newest_first:
            query = query.order_by(at.desc(), by_id.desc())
        else:
            query = query.order_by(at, by_id)
        if owner is not None:
            query = query.where(uploads.c.owner == owner)
        if purpose is not None:
            query = query.where(uploads.c.purpose == purpose)
        if after is not None:
            last = sa.tuple_(*await self._place(after))
            place = sa.tuple_(at, by_id)
            query = query.where(place < last if newest_first else place > last)
        rows = await self._db.read(lambda conn: conn.execute(query).all())
        return [_upload(row) for row in rows[:limit]], len(rows) > limit

    async def delete(self, file_id: str, actor: Actor) -> None:
        """Forget a file; a batch that reads it goes on. Raises NotFoundError."""
        now = self._clock()

        def change(conn: sa.Connection) -> None:
            gone = uploads.delete().where(self._is_live(), uploads.c.id == file_id)
            if conn.execute(gone).rowcount == 0:
                raise _not_found(file_id)
            audit.record(conn, actor.id, "files.delete", file_id, {}, now)

        await self._db.write(change)

    async def sweep(self, actor: Actor) -> int:
        """Forget every file whose time is over; return how many."""
        now = self._clock()

        def change(conn: sa.Connection) -> int:
            removed = conn.execute(uploads.delete().where(uploads.c.expires_at <= now)).rowcount
            if removed:
                audit.record(conn, actor.id, "files.sweep", "", {"removed": removed}, now)
            return removed

        return await self._db.write(change)

    def _is_live(self) -> sa.ColumnElement[bool]:
        return sa.or_(uploads.c.expires_at.is_(None), uploads.c.expires_at > self._clock())

    async def _place(self, file_id: str) -> tuple[float, str]:
        try:
            upload = await self.get(file_id)
        except NotFoundError as error:
            raise InvalidRequestError(error.message, param="after") from error
        return upload.created_at, upload.id


def _upload(row: sa.Row[Any]) -> Upload:
    return Upload(**row._mapping)


def _not_found(file_id: str) -> NotFoundError:
    return NotFoundError(
        f"There is no file {file_id[:100]!r}: it was deleted, its time is over, or it was never "
        "uploaded."
    )

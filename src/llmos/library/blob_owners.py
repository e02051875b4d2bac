"""Whose the stored files are. Who merely knows a digest may neither name nor find it.

A file is its uploader's, of /v1/files too, and of whoever may read a version that has it. Once a
version of the uploader's has it, the upload itself is forgotten.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import sqlalchemy as sa

from llmos.errors import NotFoundError
from llmos.library.refs import ModelRef
from llmos.security import audit, policy
from llmos.security.actors import Actor
from llmos.storage.blobs import BlobStore, parse_digest
from llmos.storage.database import Database
from llmos.storage.schema import blob_owners, uploads, version_files, versions
from llmos.types import FileRef


class BlobOwners:
    """The owners of uploads in one home."""

    def __init__(self, db: Database, blobs: BlobStore) -> None:
        self._db = db
        self._blobs = blobs

    async def add(self, actor: Actor, file: FileRef, at: float) -> None:
        """Note that an actor uploaded a file, which is stored already. ``at``: Unix seconds."""

        def change(conn: sa.Connection) -> None:
            if not _has_uploaded(conn, actor.owner, file.digest):
                row = {"owner": actor.owner, "digest": file.digest, "size_bytes": file.size}
                conn.execute(blob_owners.insert().values(row))
            audit.record(conn, actor.id, "blobs.create", file.digest, {"size": file.size}, at)

        await self._db.write(change)

    async def keep(self, actor: Actor, digests: Iterable[str]) -> frozenset[str]:
        """Keep files from being swept for another grace period; return those that are there and
        that the actor may name.

        Raises:
            InvalidRequestError: one is no digest.
        """
        wanted = list(dict.fromkeys(digests))
        for digest in wanted:
            parse_digest(digest)

        def may_name(conn: sa.Connection) -> list[str]:
            return [digest for digest in wanted if _may_name(conn, actor, digest)]

        def touch(named: Iterable[str]) -> frozenset[str]:
            return frozenset(digest for digest in named if self._blobs.touch(digest))

        return await asyncio.to_thread(touch, await self._db.read(may_name))

    async def forget(self, actor: Actor, digest: str, at: float) -> None:
        """Take back an upload of the actor's owner; its bytes go with the next sweep.

        Raises:
            InvalidRequestError: that is no digest.
            NotFoundError: there is no such upload, or a version has it by now.
        """
        parse_digest(digest)

        def change(conn: sa.Connection) -> None:
            if not forget_uploads(conn, actor.owner, [digest]):
                raise NotFoundError(
                    f"{actor.owner} has no upload {digest} that is not part of a model."
                )
            audit.record(conn, actor.id, "blobs.remove", digest, {}, at)

        await self._db.write(change)


def forget_uploads(conn: sa.Connection, owner: str, digests: Iterable[str]) -> int:
    """Forget that an owner uploaded files; returns how many there were."""
    uploaded = blob_owners.delete().where(
        blob_owners.c.owner == owner, blob_owners.c.digest == sa.bindparam("gone")
    )
    return sum(conn.execute(uploaded, {"gone": digest}).rowcount for digest in set(digests))


def _may_name(conn: sa.Connection, actor: Actor, digest: str) -> bool:
    if actor.role == "admin" or _has_uploaded(conn, actor.owner, digest):
        return True
    sent = sa.select(uploads.c.id).where(uploads.c.owner == actor.owner, uploads.c.digest == digest)
    if conn.execute(sent).first() is not None:
        return True
    holders = (
        sa.select(versions.c.kind, versions.c.namespace, versions.c.name, versions.c.owner)
        .join(version_files, version_files.c.version_id == versions.c.id)
        .where(version_files.c.digest == digest, versions.c.removed_at.is_(None))
    )
    return any(
        policy.is_of(actor, row.owner)
        if row.kind == "dataset"
        else policy.has_model(actor, ModelRef(row.namespace, row.name).full_name)
        for row in conn.execute(holders)
    )


def _has_uploaded(conn: sa.Connection, owner: str, digest: str) -> bool:
    row = (blob_owners.c.owner == owner, blob_owners.c.digest == digest)
    return conn.execute(sa.select(blob_owners.c.digest).where(*row)).first() is not None

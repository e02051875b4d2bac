"""Whose the stored files are. Who merely knows a digest may neither name nor find it.

A file is its uploader's, of /v1/files too, and of whoever may read a version that has it. Once a
version of the uploader's has it, the upload itself is forgotten.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import sqlalchemy as sa

from llmos.errors import NotFoundError
from llmos.library.refs import ModelRef
from llmos.security import audit, policy
from llmos.security.actors import Actor
from llmos.storage.blobs import BlobStore, parse_digest
from llmos.storage.database import Database
from llmos.storage.schema import blob_owners, uploads, version_files, versions
from llmos.types import FileRef

BATCH = 500
"""Digests of one statement."""


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

        def touch(named: Iterable[str]) -> frozenset[str]:
            return frozenset(digest for digest in named if self._blobs.touch(digest))

        named = await self._db.read(lambda conn: _nameable(conn, actor, wanted))
        return await asyncio.to_thread(touch, named)

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
    return sum(
        conn.execute(
            blob_owners.delete().where(blob_owners.c.owner == owner, blob_owners.c.digest.in_(some))
        ).rowcount
        for some in _batched(dict.fromkeys(digests))
    )


def _nameable(conn: sa.Connection, actor: Actor, digests: Sequence[str]) -> set[str]:
    """Return the digests of files that an actor may name."""
    if actor.role == "admin":
        return set(digests)
    own = [
        sa.select(table.c.digest).where(table.c.owner == actor.owner)
        for table in (blob_owners, uploads)
    ]
    held = (
        sa.select(
            version_files.c.digest,
            versions.c.kind,
            versions.c.namespace,
            versions.c.name,
            versions.c.owner,
        )
        .join(versions, version_files.c.version_id == versions.c.id)
        .where(versions.c.removed_at.is_(None))
    )
    found: set[str] = set()
    for some in _batched(digests):
        for query in own:
            found.update(conn.scalars(query.where(query.selected_columns.digest.in_(some))))
        left = [digest for digest in some if digest not in found]
        for digest, *version in conn.execute(held.where(version_files.c.digest.in_(left))):
            if digest not in found and _may_read(actor, *version):
                found.add(digest)
    return found


def _may_read(actor: Actor, kind: str, namespace: str, name: str, owner: str) -> bool:
    if kind == "dataset":
        return policy.is_of(actor, owner)
    return policy.has_model(actor, ModelRef(namespace, name).full_name)


def _batched(digests: Iterable[str]) -> Iterator[list[str]]:
    """Yield digests in lists that one statement takes."""
    waiting = iter(digests)
    while some := list(islice(waiting, BATCH)):
        yield some


def _has_uploaded(conn: sa.Connection, owner: str, digest: str) -> bool:
    row = (blob_owners.c.owner == owner, blob_owners.c.digest == digest)
    return conn.execute(sa.select(blob_owners.c.digest).where(*row)).first() is not None

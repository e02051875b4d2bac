"""Garbage collection: which blobs and model directories nothing needs any more."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from llmos.kernel.jobs import FINAL_STATES
from llmos.library.blob_owners import forget_uploads
from llmos.storage.blobs import BlobStore
from llmos.storage.database import Database
from llmos.storage.schema import (
    blob_owners,
    jobs,
    runs,
    schedules,
    uploads,
    version_files,
    versions,
)

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class SweepReport:
    """What a sweep removed."""

    blobs: int
    bytes: int
    directories: int


@dataclass(frozen=True, slots=True)
class _Needs:
    blobs: set[tuple[str, str]]  # whose, and the digest
    versions: set[str]
    oldest_job_at: float | None


def sweep(
    db: Database, blobs: BlobStore, models_dir: Path, grace_s: float, now: float
) -> SweepReport:
    """Remove what nothing refers to and is older than the grace period.

    Kept are blobs of versions that are not removed and of uploaded files, those named in the params
    of unfinished jobs and in pipelines that run or are scheduled, and whatever was stored since the
    oldest unfinished job began, as it may be about to commit it.

    Args:
        grace_s: seconds. now: Unix seconds.
    """
    needs = db.read_sync(_needs)
    grace_s = max(grace_s, 0.0)
    if needs.oldest_job_at is not None:
        grace_s = max(grace_s, now - needs.oldest_job_at)
    removed = blobs.sweep({digest for _, digest in needs.blobs}, grace_s, now)
    _sweep_owners(db, blobs, needs.blobs, now - grace_s)
    directories = _sweep_directories(models_dir, needs.versions, now - grace_s)
    return SweepReport(len(removed), sum(file.size for file in removed), directories)


def _needs(conn: sa.Connection) -> _Needs:
    live = versions.c.removed_at.is_(None)
    join = version_files.join(versions, versions.c.id == version_files.c.version_id)
    files = sa.select(versions.c.owner, version_files.c.digest).select_from(join).where(live)
    sent = sa.select(uploads.c.owner, uploads.c.digest)
    kept = {(owner, digest) for owner, digest in conn.execute(files.union(sent))}
    digests = set(conn.execute(sa.select(versions.c.digest).where(live)).scalars())
    unfinished = conn.execute(
        sa.select(jobs.c.owner, jobs.c.params, jobs.c.created_at).where(
            jobs.c.state.not_in(FINAL_STATES)
        )
    ).all()
    running = sa.select(runs.c.owner, runs.c.pipeline).where(runs.c.state == "running")
    scheduled = sa.select(schedules.c.owner, schedules.c.pipeline)
    pipelines = conn.execute(running.union_all(scheduled)).all()
    for owner, value in [*((row.owner, row.params) for row in unfinished), *pipelines]:
        kept.update((owner, digest) for digest in digests_in(value))
    return _Needs(kept, digests, min((row.created_at for row in unfinished), default=None))


def _sweep_owners(
    db: Database, blobs: BlobStore, needed: set[tuple[str, str]], before: float
) -> None:
    """Forget the uploads that their owners do not need and that were stored before a time (Unix
    seconds), though another owner may keep the blob."""
    rows = db.read_sync(lambda conn: conn.execute(sa.select(blob_owners)).all())
    stale = [
        (row.owner, row.digest)
        for row in rows
        if (row.owner, row.digest) not in needed and not blobs.is_newer(row.digest, before)
    ]

    def change(conn: sa.Connection) -> None:
        for owner, digest in stale:
            if not blobs.is_newer(digest, before):  # as it may be by now
                forget_uploads(conn, owner, [digest])

    if stale:
        db.write_sync(change)


def digests_in(value: Any) -> Iterator[str]:
    """Yield every blob digest in a JSON value, in keys and inside longer strings too."""
    match value:
        case str():
            yield from _DIGEST.findall(value)
        case dict():
            for key, item in value.items():
                yield from digests_in(key)
                yield from digests_in(item)
        case list() | tuple():
            for item in value:
                yield from digests_in(item)


def _sweep_directories(models_dir: Path, kept_versions: set[str], before: float) -> int:
    """Remove the laid-out directories of versions that are gone; return how many."""
    if not models_dir.is_dir():
        return 0
    gone = [
        entry
        for entry in models_dir.iterdir()
        if f"sha256:{entry.name}" not in kept_versions and entry.lstat().st_mtime < before
    ]
    for entry in gone:
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    return len(gone)

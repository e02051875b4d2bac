"""Where a version came from: the job that made it, from which inputs, by which recipe; and theirs.

Blocks on the database: call it off the event loop.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from llmos.errors import LlmosError
from llmos.kernel.job_rows import get_job
from llmos.kernel.jobs import Job
from llmos.library import finding
from llmos.library.refs import ModelRef
from llmos.library.versions import Version
from llmos.security import policy
from llmos.security.actors import Actor
from llmos.storage.blobs import is_digest
from llmos.storage.database import Database

DATASET = "dataset:"
"""How an input begins that is a dataset."""
MAX_DEPTH = 16
"""Of versions made from versions; what lies further back is named, not followed."""
KINDS = ("model", "adapter")


def lineage_of(db: Database, version: Version, actor: Actor) -> dict[str, Any]:
    """Return a version with what made it, and each of its inputs likewise, as plain JSON.

    An input that is a version still there, or removed, is followed where the actor's key is for its
    model, or the dataset is the actor's; any other is only named: a digest of data, or something
    outside. The job, with the names of its files, is told to its owner alone.
    """
    return db.read_sync(lambda conn: _lineage(conn, version, actor, MAX_DEPTH))


def _lineage(conn: sa.Connection, version: Version, actor: Actor, depth: int) -> dict[str, Any]:
    manifest = version.manifest
    return {
        "ref": version.ref,
        "kind": version.kind,
        "digest": version.digest,
        "aliases": list(version.aliases),
        "created_at": version.created_at,
        "removed_at": version.removed_at,
        "owner": version.owner,
        "source": manifest.get("source"),
        "recipe": manifest.get("recipe"),
        "pipeline": manifest.get("pipeline"),
        "made_by": _made_by(conn, version, actor),
        "inputs": [_input(conn, source, actor, depth) for source in version.inputs],
    }


def _made_by(conn: sa.Connection, version: Version, actor: Actor) -> dict[str, Any] | None:
    if version.job_id is None:
        return None
    job: Job = get_job(conn, version.job_id)
    if not policy.is_of(actor, job.owner):
        return None
    data = job.params.get("data")
    return {
        "job": job.id,
        "kind": job.kind,
        "owner": job.owner,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "threads": job.threads,
        "data": dict(data) if isinstance(data, dict) else {},
    }


def _input(conn: sa.Connection, source: str, actor: Actor, depth: int) -> dict[str, Any]:
    found = _version(conn, source) if depth else None
    if found is not None and _may_follow(actor, found):
        return _lineage(conn, found, actor, depth - 1)
    return {"ref": source}


def _may_follow(actor: Actor, version: Version) -> bool:
    if version.kind == "dataset":
        return policy.is_of(actor, version.owner)
    return policy.has_model(actor, version.ref)


def _version(conn: sa.Connection, source: str) -> Version | None:
    """Return the version that an input names, if it names one."""
    if is_digest(source):
        return None
    for kind in ("dataset",) if source.startswith(DATASET) else KINDS:
        try:
            return finding.find(conn, ModelRef.parse(source.removeprefix(DATASET)), kind)
        except LlmosError:  # it names none of this kind
            continue
    return None

"""What was measured of versions: by the training that made them, and on datasets since."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from llmos.kernel.jobs import Job
from llmos.library import finding
from llmos.library.gates import Measured, numbers_of
from llmos.library.refs import ModelRef
from llmos.library.versions import Version
from llmos.security import audit
from llmos.storage.schema import evaluations
from llmos.types import JobResult


def measured(conn: sa.Connection, version: Version) -> Measured:
    """Return the numbers there are of a version, as ``dataset/metric`` or a bare name: those of its
    manifest, and of each dataset it was evaluated on the newest."""
    metrics = numbers_of(version.manifest.get("metrics") or {})
    for row in read_evaluations(conn, version):
        metrics |= numbers_of(row["metrics"], f"{row['dataset']}/")
    return Measured(version.ref, metrics)


def read_evaluations(conn: sa.Connection, version: Version) -> list[dict[str, Any]]:
    """Return the evaluations of a version, the oldest first, as plain JSON."""
    query = (
        sa.select(evaluations)
        .where(
            evaluations.c.namespace == version.namespace,
            evaluations.c.name == version.name,
            evaluations.c.number == version.number,
        )
        .order_by(evaluations.c.id)
    )
    shown = ("dataset", "data_digest", "metrics", "num_rows", "job_id", "owner", "at")
    return [{name: row[name] for name in shown} for row in conn.execute(query).mappings()]


def commit(conn: sa.Connection, job: Job, result: JobResult, at: float) -> None:
    """Keep what an evaluate job measured, inside the transaction that ends it.

    Raises:
        ModelNotFoundError: the version was removed meanwhile.
    """
    params, summary = job.params, result.summary
    version = finding.find(conn, ModelRef.parse(params["model"]), "model")
    (digest,) = params["data"].values()
    values = {
        "namespace": version.namespace,
        "name": version.name,
        "number": version.number,
        "dataset": params["dataset"],
        "data_digest": digest,
        "metrics": summary["metrics"],
        "num_rows": summary["rows"],
        "job_id": job.id,
        "owner": job.owner,
        "at": at,
    }
    conn.execute(evaluations.insert().values(values))
    detail = {"dataset": params["dataset"], "job_id": job.id}
    audit.record(conn, job.owner, "models.evaluate", version.ref, detail, at)

"""What was measured of versions: by the training that made them, and on datasets since."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import sqlalchemy as sa

from llmos.kernel.jobs import Job
from llmos.library import finding
from llmos.library.gates import Measured, numbers_of
from llmos.library.refs import ModelRef
from llmos.library.versions import Version
from llmos.security import audit
from llmos.security.actors import OPERATORS
from llmos.storage.schema import evaluations
from llmos.types import JobResult


def measured(conn: sa.Connection, version: Version, believed: Collection[str] = ()) -> Measured:
    """Return the numbers there are of a version, as ``dataset/metric`` or a bare name: those of its
    manifest, and of each dataset it was evaluated on the newest, see `counted`."""
    metrics = numbers_of(version.manifest.get("metrics") or {})
    data: dict[str, str] = {}
    for row in counted(conn, version, believed):
        found = numbers_of(row["metrics"], f"{row['dataset']}/")
        metrics |= found
        data |= dict.fromkeys(found, data_of(row))
    return Measured(version.ref, metrics, data, tasks_of(version.manifest))


def counted(
    conn: sa.Connection, version: Version, believed: Collection[str] = ()
) -> list[dict[str, Any]]:
    """Return the evaluations of a version that count, the oldest first: anybody may evaluate what
    they may read, but only the version's owner, operators and ``believed`` owners are believed."""
    owners = {version.owner, *OPERATORS, *believed}
    return read_evaluations(conn, version, evaluations.c.owner.in_(owners))


def dataset_of(manifest: Mapping[str, Any], task: str, dataset: str) -> str:
    """Return what gates call a dataset: of a model's further tasks, ``task/dataset``."""
    return f"{task}/{dataset}" if task in tasks_of(manifest)[1:] else dataset


def tasks_of(manifest: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the tasks of a model of several, the first one first; of others none."""
    heads = manifest.get("heads") or ()
    return (
        (manifest["task"], *(task for task in heads if task != manifest["task"])) if heads else ()
    )


def data_of(row: Mapping[str, Any]) -> str:
    """Return what an evaluation was of: the same for those of the same rows."""
    return f"{row['data_digest']} {row['num_rows']}"


def read_evaluations(
    conn: sa.Connection, version: Version, *conditions: sa.ColumnElement[bool]
) -> list[dict[str, Any]]:
    """Return the evaluations of a version that fit ``conditions``, the oldest first, as plain
    JSON."""
    query = (
        sa.select(evaluations)
        .where(
            evaluations.c.namespace == version.namespace,
            evaluations.c.name == version.name,
            evaluations.c.number == version.number,
            *conditions,
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
        "dataset": dataset_of(version.manifest, params["task"], params["dataset"]),
        "data_digest": digest,
        "metrics": summary["metrics"],
        "num_rows": summary["rows"],
        "job_id": job.id,
        "owner": job.owner,
        "at": at,
    }
    conn.execute(evaluations.insert().values(values))
    detail = {"dataset": values["dataset"], "job_id": job.id}
    audit.record(conn, job.owner, "models.evaluate", version.ref, detail, at)

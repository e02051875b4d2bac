"""The job kinds of annotation: rows read for a task, labels suggested by a model, labels made a
dataset. Torch-free; the handlers are only named here.

Each asks the server's own routes, on the terms of whoever submitted it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmos.apps.inputs import datasets_for, readable
from llmos.errors import InvalidRequestError
from llmos.kernel.jobs import JobKind
from llmos.library.refs import ModelRef, parse_name
from llmos.plugins.hookspecs import hookimpl
from llmos.storage.blobs import is_digest
from llmos.storage.parquet import check_packages

if TYPE_CHECKING:
    from llmos.library.artifacts import Library
    from llmos.security.actors import Actor

FILL, SUGGEST, EXPORT = "annotation_fill", "annotation_suggest", "annotation_export"
KINDS = frozenset({FILL, SUGGEST, EXPORT})
MAX_ITEMS = 100_000
"""Of one task."""
TASKS = "/api/v1/annotation/tasks"
_KEYS = {
    FILL: {"annotation", "dataset", "rows", "seed", "datasets"},
    SUGGEST: {"annotation", "model"},
    EXPORT: {"annotation", "dataset", "name", "upto", "partial", "description", "datasets"},
}
_BYTES = {FILL: 400_000_000, SUGGEST: 150_000_000, EXPORT: 500_000_000}


def check_fill(params: dict[str, Any]) -> dict[str, Any]:
    """Check a request to give a task its items: ``{"annotation", "dataset", "rows", "seed"}``,
    ``rows`` at most, drawn by the seed and their ids where the dataset has more.

    Raises:
        InvalidRequestError, InvalidNameError, DataError: something is missing, unknown or wrong.
    """
    check_packages()
    task, rows = _task(FILL, params), params.get("rows")
    if rows is not None and not 1 <= _whole(params, "rows") <= MAX_ITEMS:
        raise InvalidRequestError(f"rows must be from 1 to {MAX_ITEMS}", param="rows")
    seed = _whole(params, "seed") if "seed" in params else 0
    return {**task, **_dataset(params), "rows": rows, "seed": seed}


def check_suggest(params: dict[str, Any]) -> dict[str, Any]:
    """Check a request to have a model label the items of a task: ``{"annotation", "model"}``; the
    server makes the model a version.

    Raises:
        InvalidRequestError, InvalidNameError: something is missing, unknown or wrong.
    """
    model = params.get("model")
    if not isinstance(model, str):
        raise InvalidRequestError("model must be the name of a model", param="model")
    return {**_task(SUGGEST, params), "model": str(ModelRef.parse(model))}


def check_export(params: dict[str, Any]) -> dict[str, Any]:
    """Check a request to make the labels of a task a dataset: ``{"annotation", "dataset", "name",
    "upto", "partial", "description"}``: labels with numbers up to one; ``partial``, of items that
    have not all of theirs, too.

    Raises:
        InvalidRequestError, InvalidNameError, DataError: something is missing, unknown or wrong.
    """
    check_packages()
    name, description = params.get("name"), params.get("description") or ""
    if not isinstance(name, str) or not isinstance(description, str):
        raise InvalidRequestError("name must be the name of the dataset to make", param="name")
    return {
        **_task(EXPORT, params),
        **_dataset(params),
        "name": parse_name(name).full_name,
        "upto": _whole(params, "upto"),
        "partial": bool(params.get("partial", False)),
        "description": description,
    }


async def inputs_of(
    library: Library, actor: Actor, kind: str, params: dict[str, Any]
) -> dict[str, Any]:
    """Return what the server fills in of an unchecked request: the dataset that the job reads, or
    the version of the model that it asks.

    Raises:
        InvalidRequestError: the request brings a dataset of its own.
        NotFoundError, InvalidNameError: there is no such dataset, or model.
        PermissionDeniedError: the actor may not read it.
    """
    model, dataset = params.get("model"), params.get("dataset")
    if kind == SUGGEST:
        if not isinstance(model, str):
            return {}
        return {"model": (await readable(library, actor, model, "model")).ref}
    wanted = {"input": dataset} if isinstance(dataset, str) else {}
    return await datasets_for(library, actor, params, wanted)


def _task(kind: str, params: dict[str, Any]) -> dict[str, Any]:
    if unknown := sorted(set(params) - _KEYS[kind]):
        raise InvalidRequestError(f"unknown parameter {unknown[0][:80]}", param=unknown[0])
    return {"annotation": _whole(params, "annotation")}


def _dataset(params: dict[str, Any]) -> dict[str, Any]:
    try:
        given = params["datasets"]["input"]
        if not all(is_digest(one) for one in (given["digest"], *given["shards"])):
            raise ValueError
        return {"dataset": str(params["dataset"]), "datasets": {"input": given}}
    except (KeyError, TypeError, ValueError):
        raise InvalidRequestError(
            "datasets is the server's to fill in: name a dataset", param="datasets"
        ) from None


def _whole(params: dict[str, Any], key: str) -> int:
    value = params.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InvalidRequestError(f"{key} must be a whole number", param=key)
    return value


def _kind(name: str, handler: str, schema: Any) -> JobKind:
    return JobKind(
        name,
        f"llmos.apps.{handler}:run",
        schema,
        lambda _: _BYTES[name],
        light=True,
        gives_way=False,
        resumes=True,
    )


@hookimpl
def llmos_job_kinds() -> list[JobKind]:
    """Return the job kinds of annotation."""
    return [
        _kind(FILL, "annotation_filling", check_fill),
        _kind(SUGGEST, "annotation_suggesting", check_suggest),
        _kind(EXPORT, "annotation_exporting", check_export),
    ]

"""The `evaluate` job kind: what a request must look like. Torch-free."""

from __future__ import annotations

import re
from typing import Any

from llmos.data.record import FIELDS
from llmos.data.sources import FORMATS
from llmos.errors import InvalidRequestError
from llmos.kernel.jobs import JobKind
from llmos.library.refs import ModelRef, is_name
from llmos.plugins.hookspecs import hookimpl

EVALUATE = "evaluate"
"""The job kind's name."""
METRICS = {
    "generate": re.compile(r"loss|perplexity|tokens"),
    "chat": re.compile(r"loss|perplexity|tokens"),
    "translate": re.compile(r"bleu(_[\w-]+)?|exact_match"),
    "classify": re.compile(r"accuracy|f1|f1_by_class/.+"),
    "entities": re.compile(r"precision|recall|f1"),
}
"""The numbers that evaluating a model of a task leaves, as gates name them."""
TASKS = frozenset(METRICS)
"""Tasks whose answers can be held against a dataset."""
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_PARAMS = frozenset({"model", "task", "data", "dataset", "rows", "fields"})


@hookimpl
def llmos_job_kinds() -> list[JobKind]:
    """The kinds of job that evaluation adds."""
    handler = "llmos.evaluation.handler:run"
    return [JobKind(EVALUATE, handler, validate, lambda _: 0, light=True)]


def validate(params: dict[str, Any]) -> dict[str, Any]:
    """Check an evaluate request.

    Args:
        params: ``model``; ``data``, one file name -> digest of an uploaded blob; ``dataset``, the
            name under which gates know what is measured (left out: the file's, without its
            suffix); ``rows``, how many of the first to use; ``fields``, our field names -> the
            file's. The server fills in ``task``, and the version that ``model`` means.

    Raises:
        InvalidRequestError, InvalidNameError: something is missing, unknown or of the wrong type.
    """
    if unknown := sorted(set(params) - _PARAMS):
        raise InvalidRequestError(
            f"unknown parameter {unknown[0][:80]} of an evaluate job", param=unknown[0]
        )
    model, task = params.get("model"), params.get("task")
    if not isinstance(model, str):
        raise InvalidRequestError("model must be the name of a model", param="model")
    ModelRef.parse(model)
    path, digest = _data(params.get("data"))
    dataset = dataset_of(params)
    if not isinstance(dataset, str) or not is_name(dataset):
        raise InvalidRequestError(
            f"{str(dataset)[:80]!a} cannot name a dataset: use letters, digits, '.', '_' and '-'",
            param="dataset",
        )
    rows = params.get("rows")
    if rows is not None and (type(rows) is not int or rows < 1):
        raise InvalidRequestError("rows must be a whole number above 0", param="rows")
    fields = _fields(params.get("fields"))
    # Judged last: before a pipeline runs, the model may be all that is not known.
    if not isinstance(task, str) or task not in TASKS:
        raise InvalidRequestError(
            f"a model for {str(task)[:80]!r} cannot be evaluated on a dataset: only those for "
            f"{', '.join(sorted(TASKS))}",
            param="model",
        )
    return {
        "model": model,
        "task": task,
        "data": {path: digest},
        "dataset": dataset,
        "rows": rows,
        "fields": fields,
    }


def dataset_of(params: dict[str, Any]) -> Any:
    """Return what an evaluate request calls its dataset: by name, else by its one file's.

    Raises:
        InvalidRequestError: it has not one file.
    """
    return params.get("dataset") or _stem(_data(params.get("data"))[0])


def _data(data: Any) -> tuple[str, str]:
    if not isinstance(data, dict) or len(data) != 1:
        raise InvalidRequestError("data must map one file name to its digest", param="data")
    ((path, digest),) = data.items()
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise InvalidRequestError(f"{path[:80]} must be sha256:<64 hex digits>", param="data")
    return path, digest


def _fields(fields: Any) -> dict[str, str]:
    given = {} if fields is None else fields
    if not isinstance(given, dict) or not all(isinstance(name, str) for name in given.values()):
        raise InvalidRequestError("fields must map our field names to the file's", param="fields")
    if unknown := sorted(set(given) - FIELDS):
        raise InvalidRequestError(
            f"{unknown[0][:80]!r} is no field: there are {', '.join(sorted(FIELDS))}",
            param="fields",
        )
    return dict(given)


def _stem(path: str) -> str:
    name = path.replace("\\", "/").rpartition("/")[2]
    suffix = name[name.rfind(".") :]
    return name.removesuffix(suffix) if suffix in FORMATS else name

"""The `evaluate` job kind: what a request must look like. Torch-free."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from llmos.data.record import FIELDS
from llmos.data.sources import FORMATS
from llmos.errors import InvalidRequestError
from llmos.kernel.jobs import JobKind
from llmos.library.refs import ModelRef, is_name
from llmos.plugins.hookspecs import hookimpl

EVALUATE = "evaluate"
"""The job kind's name."""
_WRITTEN = re.compile(r"loss|perplexity|bits_per_character|tokens")
_COMPARED = "pearson|spearman"
METRICS = {
    "generate": _WRITTEN,
    "chat": _WRITTEN,
    "reconstruct": re.compile(
        r"exact|character_error|token_accuracy|code_bytes|text_bytes|texts|elbo|kl"
    ),
    "translate": re.compile(r"bleu(_[\w-]+)?|exact_match"),
    "classify": re.compile(r"accuracy|f1|f1_by_class/.+"),
    "entities": re.compile(r"precision|recall|f1"),
    "fill_mask": re.compile(r"accuracy(_at_5)?|masked"),
    "answer": re.compile(r"exact_match|f1"),
    "rate": re.compile(rf"mse|{_COMPARED}"),
    "parse": re.compile(r"[ul]as(_without_punctuation)?|upos"),
    "embed": re.compile(rf"accuracy|recall_at_(5|10)|mrr|{_COMPARED}"),
    "rerank": re.compile(r"ndcg_at_10|mrr|accuracy"),
    "word_vectors": re.compile(rf"accuracy(_at_5)?|known|{_COMPARED}"),
}
"""The numbers that evaluating a model leaves, as gates name them, by what is asked of it: its task,
or another where that says too little (see `asked_of`)."""
TASKS = frozenset(METRICS)
"""What can be held against a dataset."""
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
            file's; ``task``, one of a model's several. The server fills in what is asked of the
            model (see `asked_of`) as ``task``, and the version that ``model`` means.

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


def asked_of(manifest: Mapping[str, Any], task: Any = None) -> str:
    """Return what a model is asked when it is evaluated: its task, where its kind of network does
    not say more; of several tasks the one that is wanted, else the first.

    Raises:
        InvalidRequestError: ``task`` is none of the model's.
    """
    match manifest.get("model_type"):
        case "autoencoder" | "vae":
            own = "reconstruct"
        case "word_vectors":
            own = "word_vectors"
        case _:
            own = str(manifest["task"])
    tasks = {own: None} | dict.fromkeys(manifest.get("heads") or ())
    if task is not None and task not in tasks:
        raise InvalidRequestError(
            f"the model is not evaluated for the task {str(task)[:80]!r}, but for "
            f"{', '.join(tasks)}",
            param="task",
        )
    return task or own


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

"""The job kinds of datasets: what a request must look like. The handlers are only named here."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any, get_args

from pydantic import BaseModel

from llmos.data.datasets.encodings import check_encoding
from llmos.data.datasets.readers import FORMATS, PART_BYTES, Unit, format_of
from llmos.data.datasets.requests import (
    KAnonymityRequest,
    MixRequest,
    SplitRequest,
    requested,
)
from llmos.data.datasets.sampled import PACKAGES as SAMPLE_PACKAGES
from llmos.data.fetching.sources import SAID, check_reads, check_source, without_secrets
from llmos.data.pipeline import spec
from llmos.data.pipeline.consulting import named_datasets
from llmos.data.pipeline.options import wrong_field
from llmos.data.pipeline.registry import find_operator
from llmos.data.pipeline.shard import StepSpec
from llmos.errors import InvalidRequestError
from llmos.kernel.jobs import JobKind
from llmos.library.refs import ModelRef, parse_name
from llmos.plugins.hookspecs import hookimpl
from llmos.storage.blobs import is_digest
from llmos.storage.parquet import PACKAGES, check_packages

MAKING = {**PACKAGES, **SAMPLE_PACKAGES}
"""What making a dataset takes, with its card."""
ADD, CRAWL, RUN, DIFF = "data_add", "data_crawl", "data_run", "data_diff"
SPLIT, MIX, K_ANONYMITY = "data_split", "data_mix", "data_k_anonymity"
KINDS = frozenset({ADD, CRAWL, RUN, DIFF, SPLIT, MIX, K_ANONYMITY})
MAKES_A_DATASET = frozenset({ADD, CRAWL, RUN, SPLIT, MIX})
"""Kinds of job whose checked ``name`` is that of the dataset they add to."""
MAX_FILES = 20_000
MAX_COLUMNS = 1000
MAX_PATH_CHARS = 1000
BAD_SHARE = 0.01
"""Of the rows of files; more bad ones are an error, unless it is told."""
_ADD_KEYS = frozenset(
    ("name", "files", "format", "encoding", "unit", "columns", "on_bad", "max_bad")
) | frozenset(("license", "source", "description", "url", "reads", "bytes"))
JOB_BYTES = 400_000_000
"""Of a job's own process, which draws the card's plots."""
PROCESS_BYTES = 250_000_000
"""Of each process that does its shards, as was measured; one may take more, and a job that has is
expected to the next time."""
_CRAWL_BOUNDS: dict[str, tuple[float, float, float]] = {
    "depth": (2, 0, 20),
    "pages": (100, 1, 10_000),
    "rate": (1.0, 0.01, 10.0),
}
"""What is taken where nothing is told, and from where to where it may be."""


def check_add(params: dict[str, Any]) -> dict[str, Any]:
    """Check a request to add files as a dataset.

    Args:
        params: ``name``; ``files``, what each is called -> digest of an uploaded blob, or ``url``,
            where they lie (see `check_source`; of feedback ``reads``, what it is made into; of it
            and of answers the server fills in ``files``); where they do not tell, their ``format``
            and ``encoding``; ``unit``, what of a text or a document is a row (paragraph, line,
            document, page);
            ``columns`` of files of cells without a header, of CoNLL those of its lines; ``on_bad``
            (skip, stop) and ``max_bad``, the share of bad rows to bear; ``license``, ``source``,
            ``description``. The server fills in ``bytes``, those of the files together.

    Raises:
        InvalidRequestError, InvalidNameError, DataError: something is missing, unknown or wrong.
    """
    check_packages(MAKING)
    if unknown := sorted(set(params) - _ADD_KEYS):
        raise InvalidRequestError(f"unknown parameter {unknown[0][:80]}", param=unknown[0])
    name = parse_name(_text(params, "name")).full_name
    given = _text(params, "format", "") or None
    if given is not None and given not in FORMATS:
        raise InvalidRequestError(f"format must be one of {', '.join(FORMATS)}", param="format")
    encoding = _text(params, "encoding", "") or None
    url = _text(params, "url", "")
    if url and params.get("files") and not check_source(url).startswith(SAID):
        raise InvalidRequestError("give files, or the url where they lie, not both", param="url")
    is_fetched = bool(url) and not check_source(url).startswith(SAID)
    return {
        "name": name,
        "files": {} if is_fetched else _files(params.get("files"), given),
        "bytes": _count(params, "bytes"),
        "url": url,
        "reads": check_reads(params.get("reads")),
        "format": given,
        "encoding": check_encoding(encoding) if encoding else None,
        "unit": _one_of(params, "unit", get_args(Unit)) if params.get("unit") else None,
        "columns": _columns(params.get("columns")),
        "on_bad": _one_of(params, "on_bad", ("skip", "stop")),
        "max_bad": _share(params.get("max_bad", BAD_SHARE), "max_bad"),
        "license": _text(params, "license", ""),
        "source": _text(params, "source", "") or without_secrets(url),
        "description": _text(params, "description", ""),
    }


def check_crawl(params: dict[str, Any]) -> dict[str, Any]:
    """Check a request to crawl a site: ``name``, ``url`` of its first page, ``depth`` (links from
    there), ``pages`` at most, ``rate`` (pages a second at most), and what a dataset is told of.

    Raises:
        InvalidRequestError, InvalidNameError, DataError: something is missing, unknown or wrong.
    """
    if not str(params.get("url")).startswith(("http://", "https://")):
        raise InvalidRequestError("url must begin with https:// or http://", param="url")
    others = {key: value for key, value in params.items() if key not in _CRAWL_BOUNDS}
    checked = check_add(others | {"format": "jsonl"})
    for key, (default, least, most) in _CRAWL_BOUNDS.items():
        value = default if params.get(key) is None else params[key]
        is_number = isinstance(value, type(default) | int) and not isinstance(value, bool)
        if not is_number or not least <= value <= most:
            what = "number" if isinstance(default, float) else "whole number"
            raise InvalidRequestError(f"{key} must be a {what}, {least:g} to {most:g}", param=key)
        checked[key] = type(default)(value)
    return checked


def check_run(params: dict[str, Any]) -> dict[str, Any]:
    """Check a request to run a pipeline: ``{"pipeline", "datasets", "models"}``; the server
    fills in ``datasets``, the versions that it reads, and ``models``, the files that operators read
    of models.

    Raises:
        PipelineError, InvalidNameError, InvalidRequestError, DataError: something is missing,
            unknown or wrong.
    """
    check_packages(MAKING)
    _only(params, "pipeline", "datasets", "models")
    wanted = spec.parse(params.get("pipeline"))
    steps = spec.steps_of(wanted)
    datasets = versions(params, "input", *named_datasets(steps))
    spec.check_fields(wanted, steps, datasets)
    return {
        "pipeline": wanted.model_dump(mode="json"),
        "name": parse_name(wanted.name).full_name,
        "datasets": datasets,
        "models": _models(params, steps),
    }


def check_diff(params: dict[str, Any]) -> dict[str, Any]:
    """Check a request to compare two datasets: ``{"before", "after", "datasets"}``; the server
    fills in ``datasets``, the versions.

    Raises:
        InvalidNameError, InvalidRequestError, DataError: something is missing, unknown or wrong.
    """
    check_packages()
    _only(params, "before", "after", "datasets")
    names = {role: str(ModelRef.parse(_text(params, role))) for role in ("before", "after")}
    return {**names, "datasets": versions(params, "before", "after")}


def check_split(params: dict[str, Any]) -> dict[str, Any]:
    """Check a request to split a dataset, as `SplitRequest` has it; the server fills in
    ``datasets``. ``names`` are those of the parts' datasets.

    Raises:
        InvalidNameError, InvalidRequestError, DataError: something is missing, unknown or wrong.
    """
    check_packages(MAKING)
    wanted = requested(SplitRequest, params)
    name = parse_name(wanted.name or ModelRef.parse(wanted.input).full_name).full_name
    names = [parse_name(f"{name}-{part}").full_name for part in wanted.parts]
    told = {"name": name, "names": names, "datasets": _with_fields(params, wanted)}
    return wanted.model_dump(mode="json") | told


def check_mix(params: dict[str, Any]) -> dict[str, Any]:
    """Check a request to mix datasets, as `MixRequest` has it; the server fills in ``datasets``.

    Raises:
        InvalidNameError, InvalidRequestError, DataError: something is missing, unknown or wrong.
    """
    check_packages(MAKING)
    wanted = requested(MixRequest, params)
    for ref in wanted.inputs:
        ModelRef.parse(ref)
    told = {"name": parse_name(wanted.name).full_name}
    return wanted.model_dump(mode="json") | told | {"datasets": versions(params, *wanted.inputs)}


def check_k_anonymity(params: dict[str, Any]) -> dict[str, Any]:
    """Check a request to count who is alike, as `KAnonymityRequest` has it; the server fills in
    ``datasets``.

    Raises:
        InvalidNameError, InvalidRequestError, DataError: something is missing, unknown or wrong.
    """
    check_packages()
    wanted = requested(KAnonymityRequest, params)
    ModelRef.parse(wanted.input)
    return wanted.model_dump(mode="json") | {"datasets": _with_fields(params, wanted)}


def wanted_datasets(kind: str, params: dict[str, Any]) -> dict[str, str]:
    """Return the datasets that an unchecked request reads, by what each is for.

    Raises:
        PipelineError, InvalidNameError, DataError: it has a pipeline that is wrong.
    """
    if kind == RUN:
        pipeline = spec.parse(params.get("pipeline"))
        return {"input": pipeline.input, **named_datasets(spec.steps_of(pipeline))}
    if kind == MIX and isinstance(weights := params.get("inputs"), dict):
        return {ref: ref for ref in weights if isinstance(ref, str)}
    of_input = dict.fromkeys((SPLIT, K_ANONYMITY), ("input",))
    roles = {DIFF: ("before", "after"), **of_input}.get(kind, ())
    return {role: params[role] for role in roles if isinstance(params.get(role), str)}


def _only(params: dict[str, Any], *keys: str) -> None:
    # "name" follows from the pipeline: a request checked before has it.
    if unknown := sorted(set(params) - {*keys, "name"}):
        raise InvalidRequestError(f"unknown parameter {unknown[0][:80]}", param=unknown[0])


def _text(params: dict[str, Any], key: str, default: str | None = None) -> str:
    value = params.get(key)
    value = default if value is None else value
    if not isinstance(value, str) or (default is None and not value):
        raise InvalidRequestError(f"{key} must be a text", param=key)
    return value


def _one_of(params: dict[str, Any], key: str, known: tuple[str, ...]) -> str:
    value = params.get(key) or known[0]
    if value not in known:
        raise InvalidRequestError(f"{key} must be one of {', '.join(known)}", param=key)
    return str(value)


def _share(value: Any, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise InvalidRequestError(f"{key} must be a share from 0 to 1", param=key)
    return float(value)


def _count(params: dict[str, Any], key: str) -> int:
    value = params.get(key, 0)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InvalidRequestError(f"{key} must be a whole number, not below 0", param=key)
    return value


def _columns(value: Any) -> list[str]:
    names = [] if value is None else value
    is_list = isinstance(names, list) and len(names) <= MAX_COLUMNS
    if not is_list or not all(isinstance(name, str) and name for name in names):
        raise InvalidRequestError("columns must be a list of names", param="columns")
    if len(set(names)) < len(names):
        raise InvalidRequestError("columns has a name twice", param="columns")
    return list(names)


def _files(files: Any, given_format: str | None) -> dict[str, str]:
    if not isinstance(files, dict) or not 1 <= len(files) <= MAX_FILES:
        raise InvalidRequestError(
            f"files must map 1 to {MAX_FILES} file names to digests", param="files"
        )
    formats = set()
    for shown, digest in files.items():
        path = PurePosixPath(shown)
        if not shown or len(shown) > MAX_PATH_CHARS or path.is_absolute() or ".." in path.parts:
            raise InvalidRequestError(
                f"{shown[:80]!r} is no name of a file within a folder", param="files"
            )
        if not is_digest(digest):
            raise InvalidRequestError(
                f"the digest of {shown[:80]} must be 'sha256:' and 64 hex digits", param="files"
            )
        formats.add(format_of(shown, given_format))
    for name in sorted(formats):
        check_packages(FORMATS[name].needs)
    return dict(sorted(files.items()))


def versions(params: dict[str, Any], *roles: str) -> dict[str, Any]:
    """Return the versions that the server filled in."""
    given: Any = params.get("datasets")
    try:
        return {role: _version(given[role]) for role in roles}
    except (AttributeError, KeyError, TypeError, ValueError):
        raise InvalidRequestError(
            "datasets is the server's to fill in: name a dataset", param="datasets"
        ) from None


def _with_fields(params: dict[str, Any], wanted: BaseModel) -> dict[str, Any]:
    """Return the version that is read, which has the fields that a request names."""
    datasets = versions(params, "input")
    columns = datasets["input"]["columns"]
    wrong = wrong_field(wanted, columns, datasets["input"]["ref"]) if columns else None
    if wrong is not None:
        raise InvalidRequestError(wrong, param="params")
    return datasets


def _version(given: Any) -> dict[str, Any]:
    """Return ``{"ref", "digest", "rows", "license", "shards": [digest], "columns": {name:
    kind}, "tokenizer": files}``.
    Raises ValueError."""
    if not all(is_digest(one) for one in (given["digest"], *given["shards"])):
        raise ValueError
    return {
        "ref": str(given["ref"]),
        "digest": given["digest"],
        "rows": int(given["rows"]),
        "license": str(given["license"]),
        "shards": list(given["shards"]),
        "columns": {str(name): str(kind) for name, kind in given.get("columns", {}).items()},
        "tokenizer": _file_refs(given.get("tokenizer") or {}),
    }


def _models(params: dict[str, Any], steps: list[StepSpec]) -> dict[str, Any]:
    """Return the files that operators read of models, as the server filled them in."""
    given: Any = params.get("models") or {}
    names = [step.options[option] for step in steps for option in find_operator(step.name).reads]
    try:
        return {name: _file_refs(given[name]) for name in names}
    except (AttributeError, KeyError, TypeError, ValueError):
        raise InvalidRequestError(
            "models is the server's to fill in: name a model in the step", param="models"
        ) from None


def _file_refs(files: dict[str, Any]) -> dict[str, Any]:
    """Return ``{filename: {"digest", "size"}}``. Raises ValueError."""
    if not all(is_digest(told["digest"]) for told in files.values()):
        raise ValueError
    return {
        name: {"digest": told["digest"], "size": int(told["size"])} for name, told in files.items()
    }


def estimate_bytes(params: dict[str, Any]) -> int:
    """Return the memory that a job of shards, or of files, may take: by its processes, of which
    there are as many as threads, and no more than shards, or files and parts of large ones."""
    shards = sum(len(told["shards"]) for told in params.get("datasets", {}).values())
    files = len(params.get("files", ())) or (MAX_FILES if params.get("url") else 0)
    parts = int(params.get("bytes", 0)) // PART_BYTES
    processes = min(os.cpu_count() or 1, max(1, shards + files + parts))
    return JOB_BYTES + processes * PROCESS_BYTES


def _kind(
    name: str,
    handler: str,
    schema: Any,
    estimate: Callable[[dict[str, Any]], int] = estimate_bytes,
    subject: Callable[[dict[str, Any]], str] = lambda params: "",
) -> JobKind:
    return JobKind(name, handler, schema, estimate, resumes=True, subject=subject)


def _diff_bytes(params: dict[str, Any]) -> int:
    return JOB_BYTES


def _operators_of(params: dict[str, Any]) -> str:
    """Return the operators of a pipeline, which what its processes take hangs on."""
    steps = params["pipeline"]["steps"]
    names = [step if isinstance(step, str) else next(iter(step)) for step in steps]
    return " ".join(sorted(set(names)))[:200]


@hookimpl
def llmos_job_kinds() -> list[JobKind]:
    """Return the job kinds of datasets."""
    return [
        _kind(ADD, "llmos.data.datasets.adding:run", check_add),
        replace(_kind(CRAWL, "llmos.data.datasets.adding:run", check_crawl), light=True),
        _kind(RUN, "llmos.data.pipeline.handler:run", check_run, subject=_operators_of),
        _kind(DIFF, "llmos.data.datasets.diffing:run", check_diff, _diff_bytes),
        _kind(SPLIT, "llmos.data.datasets.splitting:run", check_split),
        _kind(MIX, "llmos.data.datasets.mixing:run", check_mix),
        _kind(K_ANONYMITY, "llmos.data.datasets.k_anonymity:run", check_k_anonymity),
    ]

"""The library's job kinds: import and pull. Torch-free; the handlers are only named here.

They are ``compression``'s, which quantises what `importers` and `hub` made where that is wanted.
"""

from __future__ import annotations

import re
from typing import Any, get_args

from llmos.errors import InvalidNameError, InvalidRequestError
from llmos.kernel.jobs import JobKind
from llmos.library import catalog
from llmos.library.architectures import AskedTask
from llmos.library.files import ADAPTER_FILE, TOKENIZER_FILE, check_filename, select
from llmos.library.quantized import DTYPES
from llmos.library.refs import parse_name
from llmos.plugins.hookspecs import hookimpl

IMPORT_DTYPES = ("auto", "stored", *DTYPES)
"""Which weights an import makes: those stored alone, or quantised ones as well; auto decides."""
MAX_FILES = 1000
_CHECKING_BYTES = 400_000_000
"""Memory to check a model: headers and a tokenizer."""
_CONVERTING_BYTES = 1_000_000_000
"""Memory to check a model whose tokenizer transformers may have to convert."""
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9_][A-Za-z0-9._-]{0,95}")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")


def check_import(params: dict[str, Any]) -> dict[str, Any]:
    """Return ``{"name", "files"}`` of an import, checked as far as names go.

    Args:
        params: ``name`` of the model and ``files``, file name -> digest of an uploaded blob; for an
            adapter also ``base``, which the server fills in (``bases.base_params``); ``task``
            where the model is to be used for another than its files say; ``dtype`` for which
            weights to keep beside the stored ones (`IMPORT_DTYPES`; left out: auto).

    Raises:
        InvalidNameError, InvalidRequestError: a name, file name or digest is not valid.
        InvalidModelError, UnsafeFileError: the files cannot be a model llmos can run safely.
    """
    _check_keys(params, required={"name", "files"}, optional={"base", "task", "dtype"})
    name, files = params["name"], params["files"]
    if not isinstance(files, dict) or not 1 <= len(files) <= MAX_FILES:
        raise InvalidRequestError(
            f"files must map 1 to {MAX_FILES} file names to digests", param="files"
        )
    for filename, digest in files.items():
        check_filename(filename)
        if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
            raise InvalidRequestError(
                f"the digest of {filename} must be 'sha256:' and 64 hex digits", param="files"
            )
    select(files)
    checked = {"name": parse_name(_text(name, "name")).full_name, "files": dict(files)}
    return checked | _base(params) | _task(params) | _dtype(params)


def check_pull(params: dict[str, Any]) -> dict[str, Any]:
    """Return ``{"repo", "name", "revision"}`` of a pull, the defaults filled in.

    Args:
        params: ``repo`` is ORG/NAME on the hub or a catalog name; ``name`` defaults to NAME or the
            catalog's, ``revision`` to main; ``base``, ``task`` and ``dtype`` as for an
            import.

    Raises:
        InvalidNameError, InvalidRequestError: one of them is not valid.
    """
    _check_keys(params, required={"repo"}, optional={"name", "revision", "base", "task", "dtype"})
    given = _text(params["repo"], "repo")
    entry = catalog.find(given) if "/" not in given else None
    repo = given if entry is None else entry.repo
    if not _REPO.fullmatch(repo) or ".." in repo or "--" in repo:
        raise InvalidNameError(
            f"{given[:80]!a} is neither ORG/NAME of a hub repository nor a catalog name: "
            "`llmos list --catalog` shows those",
            param="repo",
        )
    name = params.get("name") or (entry.name if entry else repo.partition("/")[2])
    revision = _text(params.get("revision") or "main", "revision")
    if not _REVISION.fullmatch(revision) or ".." in revision:
        raise InvalidRequestError(
            f"{revision[:80]!a} is not a valid revision: give a branch, a tag or a commit",
            param="revision",
        )
    checked = {"repo": repo, "name": parse_name(_text(name, "name")).full_name}
    return checked | {"revision": revision} | _base(params) | _task(params) | _dtype(params)


def _base(params: dict[str, Any]) -> dict[str, Any]:
    """Return ``{"base": …}`` as the server filled it in; empty without one."""
    base = params.get("base")
    if base is None:
        return {}
    if not isinstance(base, dict) or not {"ref", "digest", "files"} <= base.keys():
        raise InvalidRequestError("base is the server's to fill in", param="base")
    return {"base": base}


def _task(params: dict[str, Any]) -> dict[str, Any]:
    """Return ``{"task": …}``; empty where none was asked for."""
    task, known = params.get("task"), get_args(AskedTask)
    if task is not None and task not in known:
        raise InvalidRequestError(
            f"{str(task)[:80]!r} is no task to import a model for: use one of {', '.join(known)}, "
            "or leave it out",
            param="task",
        )
    return {} if task is None else {"task": task}


def _dtype(params: dict[str, Any]) -> dict[str, Any]:
    """Return ``{"dtype": …}``; empty where none was asked for, which is auto."""
    dtype = params.get("dtype")
    if dtype is not None and dtype not in IMPORT_DTYPES:
        raise InvalidRequestError(
            f"{str(dtype)[:80]!r} is no dtype to import with: use one of "
            f"{', '.join(IMPORT_DTYPES)}",
            param="dtype",
        )
    return {} if dtype is None else {"dtype": dtype}


def _check_keys(params: dict[str, Any], required: set[str], optional: set[str]) -> None:
    if missing := sorted(required - set(params)):
        raise InvalidRequestError(f"{missing[0]} is missing", param=missing[0])
    if unknown := sorted(set(params) - required - optional):
        known = ", ".join(sorted(required | optional))
        raise InvalidRequestError(f"unknown key {unknown[0][:80]!r}: use {known}", param=unknown[0])


def _text(value: Any, param: str) -> str:
    if not isinstance(value, str):
        raise InvalidRequestError(f"{param} must be a text", param=param)
    return value


def _import_bytes(params: dict[str, Any]) -> int:
    needs_tokenizer = not {TOKENIZER_FILE, ADAPTER_FILE} & params["files"].keys()
    return _CONVERTING_BYTES if needs_tokenizer else _CHECKING_BYTES


def _pull_bytes(params: dict[str, Any]) -> int:
    return _CONVERTING_BYTES


IMPORT = JobKind(
    name="import",
    handler="llmos.compression.importing:run_import",
    schema=check_import,
    estimate=_import_bytes,
    light=True,
)
PULL = JobKind(
    name="pull",
    handler="llmos.compression.importing:run_pull",
    schema=check_pull,
    estimate=_pull_bytes,
    max_attempts=5,
    light=True,
)


@hookimpl
def llmos_job_kinds() -> list[JobKind]:
    """Return the library's job kinds."""
    return [IMPORT, PULL]

"""The library's job kinds: import and pull. Torch-free; the handlers are only named here."""

from __future__ import annotations

import re
from typing import Any

from llmos.errors import InvalidNameError, InvalidRequestError
from llmos.kernel.jobs import JobKind
from llmos.library import catalog
from llmos.library.files import TOKENIZER_FILE, check_filename, select
from llmos.library.refs import parse_name
from llmos.plugins.hookspecs import hookimpl

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
        params: ``name`` of the model and ``files``, file name -> digest of an uploaded blob.

    Raises:
        InvalidNameError, InvalidRequestError: a name, file name or digest is not valid.
        InvalidModelError, UnsafeFileError: the files cannot be a model llmos can run safely.
    """
    _check_keys(params, required={"name", "files"}, optional=frozenset())
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
    return {"name": parse_name(_text(name, "name")).full_name, "files": dict(files)}


def check_pull(params: dict[str, Any]) -> dict[str, Any]:
    """Return ``{"repo", "name", "revision"}`` of a pull, the defaults filled in.

    Args:
        params: ``repo`` is ORG/NAME on the hub or a catalog name; ``name`` defaults to NAME or the
            catalog's, ``revision`` to main.

    Raises:
        InvalidNameError, InvalidRequestError: one of them is not valid.
    """
    _check_keys(params, required={"repo"}, optional=frozenset({"name", "revision"}))
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
    return {"repo": repo, "name": parse_name(_text(name, "name")).full_name, "revision": revision}


def _check_keys(
    params: dict[str, Any], required: frozenset[str] | set[str], optional: frozenset[str]
) -> None:
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
    return _CHECKING_BYTES if TOKENIZER_FILE in params["files"] else _CONVERTING_BYTES


def _pull_bytes(params: dict[str, Any]) -> int:
    return _CONVERTING_BYTES


IMPORT = JobKind(
    name="import",
    handler="llmos.library.importers:run",
    schema=check_import,
    estimate=_import_bytes,
    light=True,
)
PULL = JobKind(
    name="pull",
    handler="llmos.library.hub:run",
    schema=check_pull,
    estimate=_pull_bytes,
    max_attempts=5,
    light=True,
)


@hookimpl
def llmos_job_kinds() -> list[JobKind]:
    """Return the library's job kinds."""
    return [IMPORT, PULL]

"""The `quantize` job kind: what a request must look like and what it will need. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from llmos.engines.native.extension import is_likely
from llmos.errors import InvalidRequestError
from llmos.kernel.jobs import Job, JobKind
from llmos.library.jobs import IMPORT, PULL
from llmos.library.manifest import version_digest
from llmos.library.quantized import DTYPES
from llmos.library.refs import parse_name
from llmos.library.variants import is_quantized, variant_name
from llmos.plugins.hookspecs import hookimpl
from llmos.types import JobResult

if TYPE_CHECKING:
    from llmos.library.versions import Version

QUANTIZE = "quantize"
"""The job kind's name."""
AUTO = "auto"
RUNTIME_BYTES = 600 * 2**20
_BYTES_PER_PARAMETER = 2
"""Of copies: the largest matrix as float32, which is rarely half a model. Weights stay on disk."""
_MOST_BYTES_PER_TOKEN = 4 * 8192
"""The largest matrix is the embedding, and few are wider."""
_PARAMS = frozenset({"model", "dtype", "name", "base"})
_BASE = frozenset({"ref", "name", "digest", "files", "manifest"})


@hookimpl
def llmos_job_kinds() -> list[JobKind]:
    """The kinds of job that compression adds."""
    return [JobKind(QUANTIZE, "llmos.compression.handler:run", validate, estimate_bytes)]


def validate(params: dict[str, Any]) -> dict[str, Any]:
    """Check a quantize request: ``{"model", "dtype" = "int8", "name", "base"}``.

    With the dtype "auto" the job chooses, and the name follows from that; what cannot be quantised
    then stays as it is. ``base`` is what `base_params` says of the version that ``model`` names;
    the server fills it in.

    Raises:
        InvalidRequestError, InvalidNameError: something is missing, unknown or of the wrong type.
    """
    if unknown := sorted(set(params) - _PARAMS):
        raise InvalidRequestError(
            f"unknown parameter {unknown[0][:80]} of a quantize job", param=unknown[0]
        )
    dtype = params.get("dtype") or "int8"
    if dtype not in (AUTO, *DTYPES):
        raise InvalidRequestError(
            f"{str(dtype)[:80]!r} is nothing to quantise to: use {' or '.join(DTYPES)}",
            param="dtype",
        )
    base = params.get("base")
    if not isinstance(base, dict) or not base.keys() >= _BASE:
        raise InvalidRequestError("base is the server's to fill in: name a model", param="model")
    checked = {"model": base["ref"], "dtype": dtype, "base": base}
    if dtype == AUTO:
        if params.get("name") is not None:
            raise InvalidRequestError("name needs a dtype: int8 or int4", param="name")
        return checked
    name = params.get("name") or variant_name(base["name"], dtype)
    if not isinstance(name, str):
        raise InvalidRequestError("name must be a text", param="name")
    return {**checked, "name": parse_name(name).full_name}


def base_params(version: Version) -> dict[str, Any]:
    """Return what the job needs to know of the version to quantise.

    Raises:
        InvalidRequestError: it is quantised already, or not a model that generates text.
    """
    if is_quantized(version.manifest):
        raise InvalidRequestError(
            f"{version.ref} is quantised already ({version.manifest['dtype']}): quantise the model "
            "it was made of",
            param="model",
        )
    if version.manifest.get("engine") != "native":
        raise InvalidRequestError(
            f"{version.ref} cannot be quantised: only models that generate text token by token can",
            param="model",
        )
    return {
        "ref": version.ref,
        "name": version.full_name,
        "digest": version.digest,
        "files": msgspec.to_builtins(version.files),
        "manifest": version.manifest,
    }


def next_job(job: Job, result: JobResult, refs: Sequence[str]) -> tuple[str, dict[str, Any]] | None:
    """Return kind and params of the job that quantises what an import or a pull has made; None: it
    stays as it is."""
    wanted = result.summary.get(QUANTIZE) if job.kind in (IMPORT.name, PULL.name) else None
    if wanted is None:
        return None
    (new,), (ref,) = result.artifacts, refs
    base = {
        "ref": ref,
        "name": new.name,
        "digest": version_digest(new.files, new.manifest),
        "files": msgspec.to_builtins(new.files),
        "manifest": new.manifest,
    }
    return QUANTIZE, {"dtype": wanted, "base": base}


def estimate_bytes(params: dict[str, Any]) -> int:
    """Memory the job may take."""
    return working_bytes(params["base"]["manifest"])


def working_bytes(manifest: dict[str, Any]) -> int:
    """Return the memory that quantising a model takes; its weights are read from disk as needed."""
    parameters = int(manifest.get("parameters") or 0)
    vocab = int(manifest.get("vocab_size") or 0)
    copies = _BYTES_PER_PARAMETER * parameters
    copies = min(copies, _MOST_BYTES_PER_TOKEN * vocab) if vocab else copies
    checked = 0 if is_likely() else parameters  # by torch, which holds it as int8
    return RUNTIME_BYTES + copies + checked

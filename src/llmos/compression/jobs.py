"""The `quantize` job kind: what a request must look like and what it will need. Torch-free."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from llmos.engines.native.extension import is_likely
from llmos.errors import InvalidRequestError
from llmos.kernel.jobs import JobKind
from llmos.library.quantized import DTYPES
from llmos.library.refs import parse_name
from llmos.library.variants import is_quantized, variant_name
from llmos.plugins.hookspecs import hookimpl

if TYPE_CHECKING:
    from llmos.library.versions import Version

QUANTIZE = "quantize"
"""The job kind's name."""
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

    ``base`` is what `base_params` says of the version that ``model`` names; the server fills it in.

    Raises:
        InvalidRequestError, InvalidNameError: something is missing, unknown or of the wrong type.
    """
    if unknown := sorted(set(params) - _PARAMS):
        raise InvalidRequestError(
            f"unknown parameter {unknown[0][:80]} of a quantize job", param=unknown[0]
        )
    dtype = params.get("dtype") or "int8"
    if dtype not in DTYPES:
        raise InvalidRequestError(
            f"{str(dtype)[:80]!r} is nothing to quantise to: use {' or '.join(DTYPES)}",
            param="dtype",
        )
    base = params.get("base")
    if not isinstance(base, dict) or not base.keys() >= _BASE:
        raise InvalidRequestError("base is the server's to fill in: name a model", param="model")
    name = params.get("name") or variant_name(base["name"], dtype)
    if not isinstance(name, str):
        raise InvalidRequestError("name must be a text", param="name")
    return {"model": base["ref"], "dtype": dtype, "name": parse_name(name).full_name, "base": base}


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

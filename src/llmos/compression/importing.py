"""Import and pull, and where it pays the same model quantised as a second version of the job."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import psutil

from llmos.compression.choice import fitting_dtype, is_worth_it
from llmos.compression.jobs import working_bytes
from llmos.engines.base import find_device
from llmos.engines.native.extension import is_likely
from llmos.errors import InvalidRequestError, OutOfMemoryError, UnsupportedTaskError
from llmos.kernel.ledger import format_bytes
from llmos.library import hub, importers
from llmos.library.manifest import version_digest
from llmos.library.variants import is_quantized, variant_name
from llmos.types import JobResult, NewVersion

if TYPE_CHECKING:
    from llmos.kernel.context import JobContext


def run_import(context: JobContext) -> JobResult:
    """As `importers.run`, then as ``params["dtype"]`` says."""
    return with_variant(context, importers.run(context))


def run_pull(context: JobContext) -> JobResult:
    """As `hub.run`, then as ``params["dtype"]`` says."""
    return with_variant(context, hub.run(context))


def with_variant(context: JobContext, result: JobResult) -> JobResult:
    """Add a quantised version of what was made, if one is wanted.

    Raises:
        InvalidRequestError, UnsupportedTaskError, OutOfMemoryError: it was asked for and cannot be.
    """
    (new,) = result.artifacts
    wanted = context.params.get("dtype") or "auto"
    is_asked = wanted not in ("auto", "stored")
    if is_asked and (new.kind != "model" or is_quantized(new.manifest)):
        raise InvalidRequestError(
            f"{new.name} cannot be quantised: it is an adapter, or quantised already", param="dtype"
        )
    dtype = wanted if is_asked else _chosen(new) if wanted == "auto" else None
    if dtype is None:
        return result
    try:
        variant = _make(context, new, dtype) if is_asked else _make_any(context, new, dtype)
    except (UnsupportedTaskError, OutOfMemoryError) as error:
        if is_asked:
            raise
        context.log(f"{new.name} stays as it is. {error.message}")
        return result
    return JobResult(result.summary, (new, variant))


def _chosen(new: NewVersion) -> str | None:
    """Return what to quantise to without being asked; None where it would not pay."""
    if new.kind != "model" or not is_worth_it(new.manifest):
        return None
    if find_device(os.environ.get("LLMOS_DEVICE", "cpu")) != "cpu":
        return None
    if not is_likely():  # torch computes int4 as int8
        return "int8"
    return fitting_dtype(new.manifest, psutil.virtual_memory().available)


def _make_any(context: JobContext, new: NewVersion, dtype: str) -> NewVersion:
    """Quantise to ``dtype``, or where the network cannot be int4 to int8."""
    try:
        return _make(context, new, dtype)
    except UnsupportedTaskError:
        if dtype == "int8":
            raise
        return _make(context, new, "int8")


def _make(context: JobContext, new: NewVersion, dtype: Any) -> NewVersion:
    needed, free = working_bytes(new.manifest), psutil.virtual_memory().available
    if needed > free:
        raise OutOfMemoryError(
            f"Quantising it takes {format_bytes(needed)} of memory and {format_bytes(free)} is "
            "free: `llmos quantize` does it later."
        )
    from llmos.compression.handler import Base, make_variant

    context.log(f"quantising to {dtype} as {variant_name(new.name, dtype)}")
    directory = context.checkpoint_dir / "base"
    context.blobs.materialize(new.files, directory)
    digest = version_digest(new.files, new.manifest)
    base = Base(new.name, digest, new.manifest, directory)
    return make_variant(context, base, dtype, variant_name(new.name, dtype))

"""Import and pull, and what their model is to be quantised to by the job that follows."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from llmos.compression.choice import is_worth_it
from llmos.compression.jobs import QUANTIZE
from llmos.engines.base import is_cpu
from llmos.errors import InvalidRequestError
from llmos.library import hub, importers
from llmos.library.variants import is_quantized
from llmos.types import JobResult

if TYPE_CHECKING:
    from llmos.kernel.context import JobContext


def run_import(context: JobContext) -> JobResult:
    """As `importers.run`, then as ``params["dtype"]`` says."""
    return with_wish(context, importers.run(context))


def run_pull(context: JobContext) -> JobResult:
    """As `hub.run`, then as ``params["dtype"]`` says."""
    return with_wish(context, hub.run(context))


def with_wish(context: JobContext, result: JobResult) -> JobResult:
    """Add to the summary what the model is to be quantised to, if it is: `jobs.next_job` reads it.

    Raises:
        InvalidRequestError: it was asked for and cannot be.
    """
    (new,) = result.artifacts
    wanted = context.params.get("dtype") or "auto"
    if wanted == "stored":
        return result
    if wanted == "auto":
        pays = new.kind == "model" and is_worth_it(new.manifest)
        if not pays or not is_cpu(os.environ.get("LLMOS_DEVICE", "cpu")):
            return result
    elif new.kind != "model" or is_quantized(new.manifest):
        raise InvalidRequestError(
            f"{new.name} cannot be quantised: it is an adapter, or quantised already", param="dtype"
        )
    elif new.manifest.get("engine") != "native":
        raise InvalidRequestError(
            f"{new.name} cannot be quantised: only models that generate text token by token can",
            param="dtype",
        )
    return JobResult({**result.summary, QUANTIZE: wanted}, result.artifacts)

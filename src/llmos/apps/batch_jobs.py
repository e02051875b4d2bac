"""The job kind "batch": a file of requests, each asked of the server at batch class.

Torch-free; the handler (`apps.batch`) is only named here. Batches are made by POST /v1/batches.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import msgspec

from llmos.errors import InvalidRequestError
from llmos.kernel.jobs import JobKind
from llmos.plugins.hookspecs import hookimpl

BATCH = "batch"
ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")
FINALIZING = "finalizing"
_HANDLER_BYTES = 150_000_000
"""The rows under way, their answers, and which rows are done."""
_COUNTS = re.compile(r"([0-9]+) completed, ([0-9]+) failed")


class BatchParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a batch's job is told."""

    batch: str
    """Its id."""
    endpoint: str
    model: str
    digest: str
    """Of the input file's blob."""
    num_rows: int
    expires_at: float
    """Unix seconds."""
    output_expires_s: float


@dataclass(frozen=True, slots=True)
class Counts:
    """How many rows were answered well, or not."""

    completed: int = 0
    failed: int = 0
    is_finalizing: bool = False
    """No more rows are asked."""

    def __str__(self) -> str:
        counts = f"{self.completed} completed, {self.failed} failed"
        return f"{FINALIZING}: {counts}" if self.is_finalizing else counts

    @classmethod
    def of(cls, progress: dict[str, Any] | None) -> Counts:
        """Return what a job's progress says, by its message, which is `str` of this."""
        message = str((progress or {}).get("message", ""))
        found = _COUNTS.search(message)
        if found is None:
            return cls()
        return cls(int(found[1]), int(found[2]), message.startswith(FINALIZING))


def check_batch(params: dict[str, Any]) -> dict[str, Any]:
    """Return the params. Raises InvalidRequestError when they are not those of a batch."""
    try:
        checked = msgspec.convert(params, BatchParams)
    except msgspec.ValidationError as error:
        raise InvalidRequestError(f"The params are not a batch's: {error}.") from error
    if checked.endpoint not in ENDPOINTS:
        raise InvalidRequestError(f"No batch can ask {checked.endpoint[:80]!r}.", param="endpoint")
    return params


def _handler_bytes(params: dict[str, Any]) -> int:
    return _HANDLER_BYTES


KIND = JobKind(
    name=BATCH,
    handler="llmos.apps.batch:run",
    schema=check_batch,
    estimate=_handler_bytes,
    max_attempts=10,
    light=True,
    gives_way=False,
    resumes=True,
)


@hookimpl
def llmos_job_kinds() -> list[JobKind]:
    """Return the job kind of batches."""
    return [KIND]

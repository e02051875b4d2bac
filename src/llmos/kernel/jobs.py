"""What a job is: its states, its row as a value, its events, and what a job kind promises."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from llmos.errors import InvalidRequestError
from llmos.kernel.protocol import UnsendableError, pack
from llmos.types import Priority


class JobState(enum.StrEnum):
    """waiting -> queued -> running <-> paused -> succeeded | failed | cancelled.

    A job is paused by its user, until that user resumes it: where its attempt ends before, as it
    does with the server, it stays paused without one.
    """

    WAITING = "waiting"
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        return self in FINAL_STATES


ACTIVE_STATES = (JobState.RUNNING, JobState.PAUSED)
"""In which an attempt may hold a job, see `Job.is_active`."""
FINAL_STATES = (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)
BACKOFF_LIMIT_S = 60.0
"""What a job waits at most after a failure."""


@dataclass(frozen=True, slots=True)
class Job:
    """One row of the jobs table. Times are Unix seconds."""

    id: int
    kind: str
    name: str
    params: dict[str, Any]
    state: JobState
    priority: Priority
    owner: str
    created_at: float
    queued_at: float | None
    started_at: float | None
    finished_at: float | None
    not_before: float
    attempt: int
    """Starts so far."""
    failures: int
    """Attempts that ended by the job's own fault; ``max_attempts`` of them end the job."""
    max_attempts: int
    fence: int
    """Rises with every start and takeover; only the attempt that holds the newest may commit."""
    lease_expires_at: float | None
    cancel_requested: bool
    reserved_bytes: int
    threads: int
    """CPU threads, fixed at the first start; 0 before it."""
    progress: dict[str, Any] | None
    """``{"step", "total", "message"}``"""
    error: dict[str, str] | None
    """``{"code", "message"}`` of the last attempt that failed; None once one has succeeded."""
    result: dict[str, Any] | None
    """The handler's summary and ``"artifacts"``, the refs that were committed with it."""
    idempotency_key: str | None = None
    """Who submits with the same one again gets this job."""
    request_digest: str | None = None
    """Of what was asked for with that key."""
    run_id: int | None = None
    """The pipeline run it is a step of."""
    compute_s: float = 0.0
    """Seconds of all attempts, pauses left out."""
    joules: float | None = None
    """None: the machine does not tell."""
    asker: dict[str, Any] | None = None
    """Whose terms hold for what it asks of the server, an `Actor`'s `to_dict`; None: it may not."""
    after: tuple[int, ...] = ()

    @property
    def is_active(self) -> bool:
        """Whether an attempt holds it, which a paused job need not have."""
        return self.state in ACTIVE_STATES and self.lease_expires_at is not None

    def summary(self) -> dict[str, Any]:
        """Return what whoever is told of a change of this job is told: no params, no logs."""
        return {
            "id": self.id,
            "kind": self.kind,
            "name": self.name,
            "state": str(self.state),
            "attempt": self.attempt,
            "run_id": self.run_id,
            "created_at": self.created_at,
            "started_at": self.started_at,
            "finished_at": self.finished_at,
            "error": self.error,
            "artifacts": (self.result or {}).get("artifacts", []),
        }


@dataclass(frozen=True, slots=True)
class JobEvent:
    """Something that happened to a job.

    ``data`` by type: state ``{"state", "attempt", "error"?, …}``, log ``{"line"}``,
    metric ``{"step", <name>: value, …}``, progress ``{"step", "total", "message"}``. Progress is
    only live: it has id 0, and the newest lies in the job's row.
    """

    id: int
    job_id: int
    type: Literal["state", "log", "metric", "progress"]
    data: dict[str, Any]
    at: float
    owner: str = ""


@dataclass(frozen=True, slots=True)
class JobKind:
    """A kind of job. Torch-free: the handler is only named here and imported by the worker.

    Attributes:
        handler: ``"package.module:function"``, called with a JobContext, returns a JobResult.
        schema: returns the params made complete; raises InvalidRequestError for bad ones.
        estimate: bytes of memory a job with these params needs.
        max_attempts: failures by the job's own fault after which it is failed.
        light: it mostly waits for a disk or a network: it takes no ordinary job's worker, and as
            many light jobs may run as ordinary ones.
        gives_way: it computes, so it is held while interactive requests are under way; see
            `yielding`. A light one never is, and what works for the server's own answers must not.
        resumes: an attempt goes on from where the last one left off, so that a job may be taken
            off its worker for the sake of another. Its handler looks at `JobContext.is_leaving`.
            One of another kind only is where its owner's compute seconds of the day are spent.
        offloads: its handler calls `JobContext.on_hold` before its first step, so that on a device
            of its own memory it gives that up, and not its worker, when it is preempted.
        subject: what these params are of, among the jobs of the kind: those of one subject share
            what was measured, and so what is expected of the next.
        devices: how many of those with memory of their own a job with these params would use.
    """

    name: str
    handler: str
    schema: Callable[[dict[str, Any]], dict[str, Any]]
    estimate: Callable[[dict[str, Any]], int]
    max_attempts: int = 3
    light: bool = False
    gives_way: bool = True
    resumes: bool = False
    offloads: bool = False
    subject: Callable[[dict[str, Any]], str] = lambda params: ""
    devices: Callable[[dict[str, Any]], int] = lambda params: 1


def check_sendable(name: str, params: dict[str, Any]) -> None:
    """Raise InvalidRequestError for a name or params that a worker process cannot be told."""
    try:
        pack([name, params])
    except UnsendableError as error:
        raise InvalidRequestError(f"The params cannot be used: {error}.", param="params") from error

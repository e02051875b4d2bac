"""Every error llmos raises on purpose.

An error's docstring is its default message. Each class carries the HTTP status, the OpenAI-style
``type`` and ``code``, and the CLI's exit code. A message says what was wrong and what to do.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any


class LlmosError(Exception):
    """Something went wrong inside llmos; see `llmos logs`."""

    status = 500
    type = "server_error"
    code = "internal_error"
    exit_code = 1
    retryable = False

    def __init__(self, message: str | None = None, *, param: str | None = None) -> None:
        self.message = message or inspect.getdoc(type(self)) or ""
        self.param = param
        super().__init__(self.message)


class InvalidRequestError(LlmosError):
    """The request is not valid."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_request"
    exit_code = 2


class InvalidNameError(InvalidRequestError):
    """The name is not valid: use letters, digits, '.', '_' and '-'."""

    code = "invalid_name"


class RecipeError(InvalidRequestError):
    """The recipe is not valid."""

    code = "invalid_recipe"


class PipelineError(InvalidRequestError):
    """The pipeline is not valid."""

    code = "invalid_pipeline"


class DataError(InvalidRequestError):
    """The data cannot be used."""

    code = "invalid_data"


class FileRowsError(InvalidRequestError):
    """The file has rows that cannot be used."""

    code = "invalid_rows"

    def __init__(
        self,
        message: str | None = None,
        *,
        param: str | None = None,
        lines: Sequence[dict[str, Any]] = (),
    ) -> None:
        super().__init__(message, param=param)
        self.lines = list(lines)
        """``{"line", "code", "message"}`` of the first few."""


class BatchFileError(FileRowsError):
    """The batch file has rows that cannot be run."""

    code = "invalid_batch_file"


class TrainingFileError(FileRowsError):
    """The training file has rows that cannot be learned."""

    code = "invalid_training_file"


class UnsafeFileError(InvalidRequestError):
    """The file could run code when loaded; llmos reads safetensors only."""

    code = "unsafe_file"


class InvalidModelError(InvalidRequestError):
    """The files are not a usable model."""

    code = "invalid_model"


class ContextLengthError(InvalidRequestError):
    """The prompt is longer than the model's context."""

    code = "context_length_exceeded"


class UnsupportedTaskError(InvalidRequestError):
    """The model cannot do this task."""

    code = "unsupported_task"


class ForbiddenAddressError(InvalidRequestError):
    """llmos sends nothing to this address."""

    code = "forbidden_address"


class GrammarError(InvalidRequestError):
    """The output cannot be made to follow this grammar."""

    code = "invalid_grammar"


class NoModelFitsError(InvalidRequestError):
    """No model meets the request's constraints: relax them."""

    code = "no_model_fits"


class AuthenticationError(LlmosError):
    """No valid API key was given: pass `Authorization: Bearer <key>`."""

    status = 401
    type = "authentication_error"
    code = "invalid_api_key"
    exit_code = 3


class PermissionDeniedError(LlmosError):
    """This key may not do that."""

    status = 403
    type = "permission_error"
    code = "permission_denied"
    exit_code = 3


class NotFoundError(LlmosError):
    """There is no such thing."""

    status = 404
    type = "invalid_request_error"
    code = "not_found"
    exit_code = 4


class ModelNotFoundError(NotFoundError):
    """There is no such model: `llmos list` shows those there are."""

    code = "model_not_found"


class DatasetNotFoundError(NotFoundError):
    """There is no such dataset: `llmos data ls` shows those there are."""

    code = "dataset_not_found"


class JobNotFoundError(NotFoundError):
    """There is no such job: `llmos jobs` shows those there are."""

    code = "job_not_found"


class RunNotFoundError(NotFoundError):
    """There is no such pipeline run: `llmos pipeline list` shows those there are."""

    code = "run_not_found"


class ConflictError(LlmosError):
    """That is not possible in the present state."""

    status = 409
    type = "invalid_request_error"
    code = "conflict"
    exit_code = 5


class NothingNewError(ConflictError):
    """There is too little new to learn from: a micro-update waits for more."""

    code = "nothing_new"


class HomeLockedError(ConflictError):
    """Another llmos process owns this home."""

    code = "home_locked"


class FencedError(ConflictError):
    """A newer attempt of this job has taken over."""

    code = "fenced"


class PortInUseError(ConflictError):
    """The port is in use: stop the other program or pass `--port`."""

    code = "port_in_use"


class TooLargeError(LlmosError):
    """The request is too large."""

    status = 413
    type = "invalid_request_error"
    code = "request_too_large"
    exit_code = 2


class OverloadedError(LlmosError):
    """llmos is busy: try again shortly."""

    status = 429
    type = "rate_limit_error"
    code = "overloaded"
    exit_code = 6
    retryable = True

    def __init__(
        self, message: str | None = None, *, param: str | None = None, retry_after_s: int = 1
    ) -> None:
        super().__init__(message, param=param)
        self.retry_after_s = retry_after_s


class ModelLoadingError(OverloadedError):
    """The model is still being loaded: ask again in a while."""

    status = 503
    type = "server_error"
    code = "model_loading"


class RateLimitError(OverloadedError):
    """This key's owner sends too many requests: slow down."""

    code = "rate_limit_exceeded"


class QuotaExceededError(OverloadedError):
    """The quota of this key's owner is used up: try again later, or ask an admin for more."""

    code = "quota_exceeded"
    retryable = False


class DeadlineExceededError(LlmosError):
    """The request's deadline passed before it was done: give it more time, or ask for less."""

    status = 504
    type = "timeout_error"
    code = "deadline_exceeded"
    exit_code = 8

    def __init__(self, message: str | None = None, *, param: str | None = "deadline_ms") -> None:
        super().__init__(message, param=param)


class CorruptBlobError(LlmosError):
    """A stored file no longer matches its digest and was set aside: import or pull it again."""

    code = "corrupt_blob"


class OutOfMemoryError(LlmosError):
    """There is not enough memory for this."""

    status = 503
    code = "out_of_memory"


class EngineError(LlmosError):
    """The engine failed."""

    status = 503
    code = "engine_error"
    retryable = True


class AnonymiseError(LlmosError):
    """Personal data could not be looked for, so that nothing was passed on: try again."""

    status = 503
    code = "anonymise_failed"


class JobFailedError(LlmosError):
    """The job failed: `llmos jobs logs N` says why."""

    code = "job_failed"


class DependencyFailedError(JobFailedError):
    """A job that this one waited for did not succeed."""

    code = "dependency_failed"


class CancelledError(LlmosError):
    """The job was cancelled."""

    code = "cancelled"


class DiskFullError(LlmosError):
    """The disk is full: free some space (`llmos gc` may help), then try again."""

    status = 507
    code = "disk_full"


class OutboundError(LlmosError):
    """The other server did not take what was sent to it."""

    status = 502
    code = "outbound_failed"
    retryable = True


class UnreachableError(LlmosError):
    """The server cannot be reached: start it with `llmos up`."""

    status = 503
    code = "unreachable"
    exit_code = 7
    retryable = True


class DatabaseVersionError(ConflictError):
    """The database was written by a newer llmos: upgrade llmos or use another LLMOS_HOME."""

    code = "database_too_new"


class AuditError(LlmosError):
    """The audit trail no longer matches its hashes."""

    code = "audit_broken"


def by_code(code: str) -> type[LlmosError]:
    """Return the error class with this ``code`` (LlmosError itself when none has it)."""

    def walk(cls: type[LlmosError]) -> type[LlmosError] | None:
        if cls.__dict__.get("code") == code:
            return cls
        return next((found for sub in cls.__subclasses__() if (found := walk(sub))), None)

    return walk(LlmosError) or LlmosError


def told_error(code: str, message: str) -> LlmosError:
    """Return the error that another process tells of: it keeps its ``code``, also where its class
    is one that only that process knows."""
    error = by_code(code)(message)
    error.code = code
    return error


def by_status(status: int) -> type[LlmosError]:
    """Return the most general error class with this ``status`` (LlmosError itself when none has
    it)."""
    classes: list[type[LlmosError]] = [LlmosError]
    for cls in classes:
        if cls.status == status:
            return cls
        classes += cls.__subclasses__()
    return LlmosError

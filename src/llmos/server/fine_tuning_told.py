"""Fine-tunings, their events and checkpoints as OpenAI's clients see them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from llmos.errors import InvalidRequestError
from llmos.kernel.jobs import JobState
from llmos.training.curve import OPENAI_NAMES

if TYPE_CHECKING:
    from llmos.apps.tuning_store import Tuning
    from llmos.kernel.jobs import JobEvent

EVENT, CHECKPOINT = "ftevent-", "ftckpt-"
_NUMBER = re.compile(r"[1-9][0-9]{0,17}")
_STATES = {
    JobState.WAITING: "Fine-tuning job is waiting",
    JobState.QUEUED: "Fine-tuning job is queued",
    JobState.RUNNING: "Fine-tuning job started",
    JobState.PAUSED: "Fine-tuning job is paused",
    JobState.FAILED: "Fine-tuning job failed",
    JobState.CANCELLED: "Fine-tuning job was cancelled",
}


def tuning_json(tuning: Tuning, now: float) -> dict[str, Any]:
    """Return a fine-tuning; ``now`` in Unix seconds. Ours: `job_id`."""
    job = tuning.job
    error = None
    if job.state is JobState.FAILED and job.error is not None:
        error = {"code": job.error["code"], "message": job.error["message"], "param": None}
    hyperparameters = tuning.hyperparameters
    return {
        "id": tuning.id,
        "object": "fine_tuning.job",
        "created_at": int(tuning.created_at),
        "error": error,
        "fine_tuned_model": tuning.made,
        "finished_at": _time(job.finished_at),
        "hyperparameters": {
            name: hyperparameters[name] for name in hyperparameters.keys() - {"beta"}
        },
        "model": tuning.model,
        "organization_id": tuning.owner,
        "result_files": [] if tuning.result_file is None else [tuning.result_file],
        "seed": tuning.seed,
        "status": tuning.status,
        "trained_tokens": tuning.trained_tokens,
        "training_file": tuning.training_file,
        "validation_file": tuning.validation_file,
        "estimated_finish": _time(tuning.finishes_at(now)),
        "integrations": [],
        "metadata": tuning.notes,
        "method": {
            "type": tuning.method,
            tuning.method: {"hyperparameters": hyperparameters},
        },
        "suffix": tuning.suffix,
        "job_id": tuning.job_id,
    }


def event_json(event: JobEvent, tuning: Tuning) -> dict[str, Any]:
    """Return something that happened to a fine-tuning's job."""
    level, kind, data = "info", "message", {}
    match event.type:
        case "metric":
            kind, data = "metrics", metrics_json(event.data)
            message = f"Step {data['step']}: training loss={data['train_loss']:.4f}"
            if "valid_loss" in data:
                message += f", validation loss={data['valid_loss']:.4f}"
        case "state":
            message, level = _state_told(event, tuning)
        case _:
            message = str(event.data.get("line", ""))
    return {
        "id": f"{EVENT}{event.id}",
        "object": "fine_tuning.job.event",
        "created_at": int(event.at),
        "level": level,
        "message": message,
        "type": kind,
        "data": data,
    }


def event_number(event_id: str) -> int:
    """Return which of all events an id means. Raises InvalidRequestError where it is none."""
    number = event_id.removeprefix(EVENT)
    if not event_id.startswith(EVENT) or not _NUMBER.fullmatch(number):
        raise InvalidRequestError(f"There is no event {event_id[:100]!r}.", param="after")
    return int(number)


def checkpoint_json(tuning: Tuning, made: dict[str, Any]) -> dict[str, Any]:
    """Return a version that a fine-tuning made, of ``{"ref", "step", "loss", …}``."""
    return {
        "id": f"{CHECKPOINT}{tuning.id.removeprefix('ftjob-')}-{made['step']}",
        "object": "fine_tuning.job.checkpoint",
        "created_at": _time(tuning.job.finished_at),
        "fine_tuned_model_checkpoint": made["ref"],
        "fine_tuning_job_id": tuning.id,
        "metrics": metrics_json({name: made[name] for name in made.keys() - {"ref"}}),
        "step_number": made["step"],
    }


def metrics_json(values: dict[str, Any]) -> dict[str, Any]:
    """Return measurements by OpenAI's names where it has one."""
    return {OPENAI_NAMES.get(name, name): value for name, value in values.items()}


def _state_told(event: JobEvent, tuning: Tuning) -> tuple[str, str]:
    """Return what a change of the job's state means, and how grave it is."""
    state = JobState(event.data["state"])
    error = event.data.get("error")
    if state is JobState.SUCCEEDED:
        return f"The job has successfully completed: {tuning.made}", "info"
    if event.data.get("cancel_requested"):
        return "Fine-tuning job is being cancelled", "info"
    if error is None:
        return _STATES[state], "info"
    is_final = state is JobState.FAILED
    return f"{_STATES[state]}: {error['message']}", "error" if is_final else "warn"


def _time(at: float | None) -> int | None:
    return None if at is None else int(at)

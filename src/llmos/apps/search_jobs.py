"""The job kind "search": trains a recipe many times over, each trial an ordinary train job.

Torch-free; the handler (`apps.search`) is only named here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from llmos.errors import ConflictError, InvalidRequestError
from llmos.kernel.jobs import Job, JobKind, JobState
from llmos.kernel.transitions import KERNEL_ACTOR
from llmos.library.refs import is_name
from llmos.plugins.hookspecs import hookimpl
from llmos.training import jobs as training_jobs
from llmos.training.recipe import parse
from llmos.training.search_space import (
    check_section,
    check_size,
    metric_of,
    ranked,
    trial_recipe,
)

if TYPE_CHECKING:
    from llmos.kernel.queue import JobQueue

SEARCH = "search"
FINAL = frozenset({"succeeded", "failed", "cancelled"})
"""States in which a trial is over."""
PARAMS = frozenset({"recipe", "name", "data", "search", "alias"})
_HANDLER_BYTES = 100_000_000


def trial_key(search: int, rung: int, trial: int) -> str:
    """Return the idempotency key of a trial's job: the search that is taken up again finds it."""
    return f"{trial_prefix(search)}{rung}:{trial}"


def trial_prefix(search: int) -> str:
    """Return how the keys of a search's trials begin."""
    return f"search:{search}:"


def trial_row(
    job: Mapping[str, Any], rung: int, trial: int, settings: Mapping[str, Any], metric: str
) -> dict[str, Any]:
    """Return what is known of a trial by its job, as clients see that."""
    result = job["result"] or {}
    is_good = job["state"] == "succeeded"
    return {
        "trial": trial,
        "rung": rung,
        "settings": dict(settings),
        "job": job["id"],
        "state": job["state"],
        "steps": job["params"]["recipe"]["steps"],
        "value": metric_of(result.get("metrics", {}), metric) if is_good else None,
        "version": next(reversed(result.get("artifacts", [])), None),
        "seconds": result.get("seconds"),
        "error": job["error"]["message"] if job["error"] and not is_good else None,
    }


def trial_rows(
    search: Mapping[str, Any], jobs: Iterable[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return the trials of a search so far, the best of the last rung first.

    Args:
        search: its job, and ``jobs`` those of its owner, as clients see them.
    """
    section = check_section(search["params"]["search"])
    settings, rows = section.settings(), []
    for job in jobs:
        key = job["idempotency_key"] or ""
        if key.startswith(trial_prefix(search["id"])):
            rung, trial = map(int, key.removeprefix(trial_prefix(search["id"])).split(":"))
            rows.append(trial_row(job, rung, trial, settings[trial], section.metric))
    rows.sort(key=lambda row: (-row["rung"], row["trial"]))
    order = ranked([row["value"] for row in rows], section.goal)
    return sorted((rows[place] for place in order), key=lambda row: -row["rung"])


def check_search(params: dict[str, Any]) -> dict[str, Any]:
    """Check a search: ``{"recipe", "name", "data", "search", "alias"}``; every trial's recipe is.

    Raises:
        InvalidRequestError: something is missing, unknown or of the wrong type; or some trial could
            not be trained.
    """
    if unknown := sorted(set(params) - PARAMS):
        raise InvalidRequestError(
            f"unknown parameter {unknown[0][:80]} of a search", param=unknown[0]
        )
    section = check_section(params.get("search"))
    alias = params.get("alias")
    if alias is not None and not (isinstance(alias, str) and is_name(alias)):
        raise InvalidRequestError("alias must be a name", param="alias")
    recipe = params.get("recipe")
    check_size(recipe, "the recipe of a search")
    parse(recipe)
    assert isinstance(recipe, dict)
    checked: dict[str, Any] = {}
    for settings in section.settings():
        trial = trial_recipe(recipe, settings, 1.0)
        given: dict[str, Any] = {"recipe": trial.model_dump(mode="json", exclude_defaults=True)}
        given |= {"name": params.get("name"), "data": params.get("data") or {}}
        for role in training_jobs.ROLES:  # which the server fills in, for each trial
            if (model := training_jobs.wanted_model(given, role)) is not None:
                given[role] = {"ref": model, "digest": "", "files": {}}
        given["datasets"] = {path: {"shards": []} for path in training_jobs.wanted_data(given)}
        checked = training_jobs.validate(given)
    return {
        "recipe": recipe,
        "name": checked["name"],
        "data": checked["data"],
        "search": section.model_dump(mode="json"),
        "alias": alias,
    }


def listener(queue: JobQueue) -> Callable[[Job], Awaitable[None]]:
    """Return what is to be told of ended jobs, so that the trials of a search that was cancelled,
    or failed, end with it."""

    async def ended(job: Job) -> None:
        if job.kind != SEARCH or job.state is JobState.SUCCEEDED:
            return
        states = [state for state in JobState if not state.is_final]
        for trial in await queue.list(owner=job.owner, states=states, limit=1000):
            if (trial.idempotency_key or "").startswith(trial_prefix(job.id)):
                try:
                    await queue.cancel(trial.id, KERNEL_ACTOR)
                except ConflictError:
                    continue  # it has ended meanwhile

    return ended


def _handler_bytes(params: dict[str, Any]) -> int:
    return _HANDLER_BYTES


@hookimpl
def llmos_job_kinds() -> list[JobKind]:
    """Return the job kind of searches."""
    handler = "llmos.apps.search:run"
    kind = JobKind(
        SEARCH, handler, check_search, _handler_bytes, light=True, gives_way=False, resumes=True
    )
    return [kind]

"""The handler of searches: asks for the trials of each rung, waits for them, picks who goes on.

It keeps nothing: a trial's job is found again by its key, and what is drawn follows from the seed.
So an attempt that goes on after a kill asks for the same trials, and gets the same jobs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from llmos.apps.search_jobs import FINAL, trial_key, trial_row
from llmos.errors import (
    CancelledError,
    InvalidRequestError,
    JobFailedError,
    QuotaExceededError,
    by_code,
)
from llmos.kernel.context import JobContext
from llmos.kernel.protocol import Answer
from llmos.training.search_space import (
    Rung,
    check_section,
    ranked,
    rungs,
    trial_recipe,
)
from llmos.types import JobResult

LOOK_S = 0.5
"""Between looks at the trials that run."""
BUSY = frozenset({429, 503})
"""Of an answer that may be another a moment later; its code says whether."""


@dataclass(slots=True)
class Trial:
    """One training of a rung."""

    number: int
    settings: dict[str, Any]
    job: dict[str, Any] | None = None
    """As the server told it last; None: it was not asked for yet."""

    @property
    def is_over(self) -> bool:
        return self.job is not None and self.job["state"] in FINAL


def run(context: JobContext) -> JobResult:
    """Run a search to its end; the result tells of every trial. Raises as `search`."""
    return search(context, time.sleep)


def search(context: JobContext, sleep: Callable[[float], None]) -> JobResult:
    """Train the trials of each rung; return all of them, and the best.

    Raises:
        JobFailedError: no trial of a rung came to its end with the metric; or the server failed.
        InvalidRequestError: the server refuses a trial: it could never be queued, or its owner's
            quota is used up, and no trial runs that could leave some.
        CancelledError: the search is to end, or to leave its worker.
    """
    params = context.params
    section = check_section(params["search"])
    settings = section.settings()
    going_on = list(range(len(settings)))
    told: list[dict[str, Any]] = []
    plan = rungs(section)
    num_trials, num_over = sum(rung.num_trials for rung in plan), 0
    best: dict[str, Any] = {}
    for number, rung in enumerate(plan):
        trials = [Trial(place, settings[place]) for place in going_on[: rung.num_trials]]
        _train(context, trials, number, rung, (num_over, num_trials), sleep)
        num_over += len(trials)
        rows = [
            trial_row(trial.job, number, trial.number, trial.settings, section.metric)
            for trial in trials
            if trial.job is not None
        ]
        order = ranked([row["value"] for row in rows], section.goal)
        best = rows[order[0]]
        told += rows
        if best["value"] is None:
            reason = best["error"] or f"none has the metric {section.metric!r}"
            raise JobFailedError(f"no trial of {len(trials)} came to an end: {reason}")
        good = [place for place in order if rows[place]["value"] is not None]
        going_on = [trials[place].number for place in good]
        value = f"{section.metric} {best['value']:.6g}"
        context.log(f"rung {number}: best is trial {best['trial']}, {value}")
    if params["alias"] is not None:
        at = f"/api/v1/models/{best['version']}/aliases"
        while _asked(context, at, {"alias": params["alias"]}) is None:
            sleep(LOOK_S)
    summary = {"trials": told, "best": best, "metric": section.metric, "goal": section.goal}
    return JobResult(summary=summary)


def _train(
    context: JobContext,
    trials: list[Trial],
    rung: int,
    of: Rung,
    counted: tuple[int, int],
    sleep: Callable[[float], None],
) -> None:
    """Ask for a rung's trials, and wait until each is over."""
    before, total = counted
    while not all(trial.is_over for trial in trials):
        for trial in trials:
            context.wait_while_paused()
            context.raise_if_cancelled()
            if context.is_leaving:
                raise CancelledError
            if trial.job is None:
                runs = any(one.job is not None and not one.is_over for one in trials)
                trial.job = _begun(context, trial, rung, of.share, makes_room=runs)
                if trial.job is None:
                    break  # the queue is full: those that run make room
            elif not trial.is_over:
                job = _asked(context, f"/api/v1/jobs/{trial.job['id']}")
                if job is None:
                    break
                trial.job = job
        over = sum(trial.is_over for trial in trials)
        context.progress(before + over, total, f"rung {rung}: {over} of {len(trials)} trials")
        if over < len(trials):
            sleep(LOOK_S)


def _begun(
    context: JobContext, trial: Trial, rung: int, share: float, *, makes_room: bool
) -> dict[str, Any] | None:
    """Return a trial's job, that of an earlier attempt where there is one; None: not now.

    Raises as `_asked`.
    """
    params = context.params
    recipe = trial_recipe(params["recipe"], trial.settings, share)
    given = {
        "recipe": recipe.model_dump(mode="json", exclude_defaults=True),
        "name": params["name"],
        "data": params["data"],
    }
    body = {
        "kind": "train",
        "name": f"{params['name']}/trial {trial.number}",
        "params": given,
        "priority": "background",
        "idempotency_key": trial_key(context.job_id, rung, trial.number),
    }
    job = _asked(context, "/api/v1/jobs", body, makes_room=makes_room)
    if job is not None and job["state"] == "cancelled":  # with the search, which was retried
        job = _asked(context, f"/api/v1/jobs/{job['id']}/retry", {}, makes_room=makes_room)
    return job


def _asked(
    context: JobContext, path: str, body: dict[str, Any] | None = None, *, makes_room: bool = False
) -> dict[str, Any] | None:
    """Return what the server answers; None: it is busy, ask again.

    Args:
        makes_room: whether something ends by itself that the owner's quota counts.

    Raises:
        InvalidRequestError: it refuses.
        JobFailedError: it failed.
    """
    answer = context.ask(path, None if body is None else msgspec.json.encode(body)).result()
    told = _told(answer.body)
    if answer.status in BUSY and _is_passing(answer, told, makes_room):
        return None
    if told is None:
        raise JobFailedError(f"the server answered {answer.status} to {path}, and no more")
    if answer.status >= 400:
        raise InvalidRequestError(told["error"]["message"], param=told["error"].get("param"))
    return told


def _told(content: bytes) -> dict[str, Any] | None:
    """Return an answer's object; None where it has none, as before the server is open."""
    try:
        return msgspec.json.decode(content, type=dict[str, Any])
    except msgspec.DecodeError:
        return None


def _is_passing(answer: Answer, told: dict[str, Any] | None, makes_room: bool) -> bool:
    """Return whether asking again later may help."""
    if told is None:
        return answer.retry_after_s is not None
    error = by_code(told["error"]["code"])
    return error.retryable or (makes_room and issubclass(error, QuotaExceededError))

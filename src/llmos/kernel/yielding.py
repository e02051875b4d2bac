"""Giving way: when running jobs are held for interactive requests, and who gets how many threads.

Pure. A job that gives way is held while an interactive request is under way, and for a moment
after it, as one often follows another. That cannot starve it: the time it is held is owed to it,
and once as much is owed as its class may wait, it has a turn, in which it runs beside the requests.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from llmos.kernel.state import ActiveJob, ContinueJob, PauseJob, State

TURN_S = 60.0
"""How long a job runs before it has to give way again, once it has waited for its bound."""
MAX_DOUBLINGS = 6


def yield_actions(state: State) -> list[PauseJob | ContinueJob]:
    """Return which jobs are to be held for interactive requests, and which are to go on.

    A job of class ``p`` may be held for ``p * ageing_s`` seconds in all; then it has a turn of
    `TURN_S`. While it runs, whoever else does, the debt shrinks at the pace at which a turn pays a
    whole one back. So under endless requests a standard job runs 60 of 360 seconds where
    ``ageing_s`` is 300, a batch job 60 of 660, one in the background 60 of 960; and an interactive
    job does not give way at all.
    """
    pressed = is_pressed(state)
    actions: list[PauseJob | ContinueJob] = []
    for job in state.active:
        bound_s = longest_hold_s(job, state)
        if not job.gives_way or job.is_ending or bound_s <= 0:
            continue
        if not is_held(job):
            in_turn = job.has_turn and job.owed_s > 0
            if pressed and not in_turn:
                actions.append(PauseJob(job.id))
        elif not pressed:
            actions.append(ContinueJob(job.id))
        elif job.owed_s >= bound_s:
            actions.append(ContinueJob(job.id, has_turn=True))
    return actions


def next_yield_at(state: State) -> float:
    """Return when time alone changes what `yield_actions` says; infinity: never."""
    giving = [job for job in state.active if job.gives_way and longest_hold_s(job, state) > 0]
    held = [job for job in giving if is_held(job)]
    times = [state.now + longest_hold_s(job, state) - job.owed_s for job in held]
    if held:
        times.append(state.interactive_at + state.yield_s)
    for job in giving:
        if job.has_turn:
            times.append(state.now + job.owed_s * TURN_S / longest_hold_s(job, state))
    return min((time for time in times if time > state.now), default=math.inf)


def is_pressed(state: State) -> bool:
    """Whether an interactive request is under way, or was a moment ago."""
    return state.now < state.interactive_at + state.yield_s


def is_held(job: ActiveJob) -> bool:
    """Whether it is held for interactive requests; it may stand still for other reasons, too."""
    return "interactive" in job.held


def longest_hold_s(job: ActiveJob, state: State) -> float:
    """Return for how many seconds a job may be held before it has a turn."""
    return int(job.priority) * state.ageing_s


def turn_s(job: ActiveJob) -> float:
    """Return how long a job runs before it may be preempted: longer each time, up to an hour, so
    that what it does in one go, and cannot keep a part of, gets done."""
    return TURN_S * float(2 ** min(job.num_preempted, MAX_DOUBLINGS))


def owed_after(owed_s: float, seconds: float, bound_s: float, *, held: bool) -> float:
    """Return what is owed to a job ``seconds`` later, held or let run all the while."""
    if held:
        return owed_s + seconds
    return max(owed_s - seconds * bound_s / TURN_S, 0.0)


def engine_threads(cores: int, jobs: Iterable[ActiveJob]) -> int:
    """Return how many threads an engine computes with: the cores that no running job has.

    A job's number of threads is fixed for its life, as its sums depend on it. One that stands still
    leaves its cores to the engine; a light one has none to speak of.
    """
    taken = sum(job.threads for job in jobs if not job.held and not job.light)
    return max(cores - taken, 1)

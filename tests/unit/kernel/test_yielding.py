from __future__ import annotations

import dataclasses
import math

import pytest

from llmos.kernel.scheduler import decide, look_again_at
from llmos.kernel.state import ActiveJob, ContinueJob, PauseJob, State
from llmos.kernel.yielding import (
    TURN_S,
    engine_threads,
    next_yield_at,
    owed_after,
    yield_actions,
)
from llmos.types import Priority

NOW = 10_000.0
AGEING_S = 300.0
HELD = ("interactive",)


def training(id: int = 1, **changes: object) -> ActiveJob:
    """A running job that gives way."""
    job = ActiveJob(id, 1, "o", NOW + 30, 0, gives_way=True, threads=2)
    return dataclasses.replace(job, **changes)


def state(*jobs: ActiveJob, asked_s_ago: float = math.inf, **changes: object) -> State:
    """A state in which the last interactive request ended so long ago; 0: one is under way."""
    last_at = NOW - asked_s_ago if asked_s_ago else math.inf
    made = State(NOW, 0, 0, 1, 60.0, AGEING_S, active=jobs, interactive_at=last_at)
    return dataclasses.replace(made, **changes)


def test_running_jobs_are_held_while_an_interactive_request_is_under_way() -> None:
    assert yield_actions(state(training(1), training(2), asked_s_ago=0)) == [
        PauseJob(1),
        PauseJob(2),
    ]
    assert yield_actions(state(training())) == []
    assert PauseJob(1) in decide(state(training(), asked_s_ago=0))


def test_they_go_on_a_settable_moment_after_the_last_one() -> None:
    held = training(held=HELD)
    assert yield_actions(state(held, asked_s_ago=1.9)) == []
    assert yield_actions(state(held, asked_s_ago=2.0)) == [ContinueJob(1)]
    assert yield_actions(state(held, asked_s_ago=2.0, yield_s=5.0)) == []
    assert yield_actions(state(held, asked_s_ago=0, yield_s=0.0)) == []
    assert yield_actions(state(held, asked_s_ago=0.1, yield_s=0.0)) == [ContinueJob(1)]


def test_a_job_that_came_within_that_moment_is_held_too() -> None:
    assert yield_actions(state(training(), asked_s_ago=1.9)) == [PauseJob(1)]


@pytest.mark.parametrize(
    "changes",
    [
        {"gives_way": False},
        {"priority": Priority.INTERACTIVE},
        {"cancel_requested": True},
        {"is_leaving": True},
    ],
)
def test_some_jobs_do_not_give_way(changes: dict[str, object]) -> None:
    assert yield_actions(state(training(**changes), asked_s_ago=0)) == []


def test_a_job_that_stands_still_for_another_reason_is_held_for_requests_as_well() -> None:
    paused = training(held=("user",))
    assert yield_actions(state(paused, asked_s_ago=0)) == [PauseJob(1)]


def test_a_job_that_was_held_for_as_long_as_its_class_may_wait_has_a_turn() -> None:
    for priority, bound_s in ((Priority.STANDARD, 300.0), (Priority.BACKGROUND, 900.0)):
        held = training(held=HELD, priority=priority, owed_s=bound_s - 1)
        assert yield_actions(state(held, asked_s_ago=0)) == []
        owed = dataclasses.replace(held, owed_s=bound_s)
        assert yield_actions(state(owed, asked_s_ago=0)) == [ContinueJob(1, has_turn=True)]


def test_a_turn_lasts_until_all_is_paid_back() -> None:
    in_turn = training(has_turn=True, owed_s=1.0)
    assert yield_actions(state(in_turn, asked_s_ago=0)) == []
    paid = dataclasses.replace(in_turn, owed_s=0.0)
    assert yield_actions(state(paid, asked_s_ago=0)) == [PauseJob(1)]


def test_a_turn_pays_back_a_whole_debt_and_so_does_any_running() -> None:
    assert owed_after(10.0, 5.0, 300.0, held=True) == 15.0
    assert owed_after(300.0, TURN_S / 2, 300.0, held=False) == 150.0
    assert owed_after(300.0, TURN_S, 300.0, held=False) == 0.0
    assert owed_after(900.0, 2 * TURN_S, 900.0, held=False) == 0.0


@pytest.mark.parametrize("priority", [Priority.STANDARD, Priority.BATCH, Priority.BACKGROUND])
@pytest.mark.parametrize(("asked_s", "pause_s"), [(math.inf, 0.0), (10.0, 3.0)])
def test_under_endless_requests_a_job_runs_as_much_as_its_class_may_expect(
    priority: Priority, asked_s: float, pause_s: float
) -> None:
    """Whether they come without a break or with breaks that are hardly longer than the moment."""
    bound_s = int(priority) * AGEING_S
    job, ran_s, longest_s, standing_s = training(priority=priority), 0.0, 0.0, 0.0
    num_steps = 5_000
    last_at = NOW
    for step in range(num_steps):
        now = NOW + step
        cycle_s = asked_s + pause_s
        is_asked = math.isinf(asked_s) or (now - NOW) % cycle_s < asked_s
        last_at = now if is_asked else last_at
        ended_at = math.inf if is_asked else last_at
        for action in yield_actions(state(job, now=now, interactive_at=ended_at)):
            is_held = isinstance(action, PauseJob)
            has_turn = isinstance(action, ContinueJob) and action.has_turn
            job = dataclasses.replace(job, held=HELD if is_held else (), has_turn=has_turn)
        owed_s = owed_after(job.owed_s, 1.0, bound_s, held=bool(job.held))
        job = dataclasses.replace(job, owed_s=owed_s)
        ran_s += 0.0 if job.held else 1.0
        standing_s = standing_s + 1.0 if job.held else 0.0
        longest_s = max(longest_s, standing_s)
    assert longest_s <= bound_s + 1.0
    assert ran_s / num_steps >= 0.9 * TURN_S / (bound_s + TURN_S)


def test_it_is_looked_again_when_the_moment_a_hold_or_a_turn_ends() -> None:
    held = training(held=HELD, owed_s=100.0)
    assert next_yield_at(state(training(), asked_s_ago=0)) == math.inf
    assert next_yield_at(state(held, asked_s_ago=0.5)) == NOW + 1.5
    assert next_yield_at(state(held, asked_s_ago=0)) == NOW + 200.0
    in_turn = training(has_turn=True, owed_s=150.0)
    assert next_yield_at(state(in_turn, asked_s_ago=0)) == NOW + TURN_S / 2
    assert look_again_at(state(held, asked_s_ago=0.5)) == NOW + 1.5


def test_an_engine_computes_with_the_cores_that_no_running_job_has() -> None:
    assert engine_threads(8, []) == 8
    assert engine_threads(8, [training(), training(2, threads=3)]) == 3
    assert engine_threads(8, [training(held=HELD), training(2, threads=3)]) == 5
    assert engine_threads(8, [training(held=("user",))]) == 8
    assert engine_threads(8, [training(light=True)]) == 8
    assert engine_threads(2, [training(threads=2)]) == 1

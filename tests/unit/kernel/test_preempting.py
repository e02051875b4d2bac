from __future__ import annotations

import dataclasses

import pytest

from llmos.kernel.scheduler import RECENT_S, decide, look_again_at
from llmos.kernel.state import (
    Action,
    ActiveJob,
    Drain,
    Evict,
    Expire,
    Load,
    Preempt,
    ReadyJob,
    RefuseModel,
    ResidentModel,
    Start,
    State,
    WantedModel,
)
from llmos.kernel.yielding import TURN_S, turn_s
from llmos.types import Priority

NOW = 10_000.0
AGEING_S = 300.0


def training(id: int, num_bytes: int = 50, **changes: object) -> ActiveJob:
    """A background job that resumes, and that has run for a while."""
    job = ActiveJob(id, 1, "o", NOW + 30, num_bytes, priority=Priority.BACKGROUND, resumes=True)
    return dataclasses.replace(job, ran_s=3600.0, **changes)


def ready(id: int, num_bytes: int = 0, **changes: object) -> ReadyJob:
    return dataclasses.replace(ReadyJob(id, "o", Priority.STANDARD, NOW - 1, num_bytes), **changes)


def wanted(key: str, num_bytes: int, **changes: object) -> WantedModel:
    return dataclasses.replace(WantedModel(key, num_bytes, Priority.STANDARD, NOW), **changes)


def resident(key: str, num_bytes: int, **changes: object) -> ResidentModel:
    model = ResidentModel(key, num_bytes, "ready", 0, NOW - 1, 1.0, 1.0)
    return dataclasses.replace(model, **changes)


def decided(**changes: object) -> list[Action]:
    """What is decided where 100 bytes are all there is."""
    made = state(**changes)
    return decide(made)


def state(**changes: object) -> State:
    made = dataclasses.replace(State(NOW, 0, 100, 1, 900.0, AGEING_S), **changes)
    used = sum(job.num_bytes for job in made.active) + sum(m.num_bytes for m in made.models)
    return dataclasses.replace(made, free_bytes=100 - used)


def test_a_model_of_a_better_class_gets_the_memory_of_a_job_that_can_go_on_later() -> None:
    wish = (wanted("a", 60),)
    assert decided(wanted=wish, active=(training(1),)) == [Preempt(1)]
    leaving = training(1, is_leaving=True)
    assert decided(wanted=wish, active=(leaving,)) == []
    assert decided(wanted=wish) == [Load("a", 60)]


def test_memory_that_suffices_already_preempts_nothing() -> None:
    assert decided(wanted=(wanted("a", 50),), active=(training(1),)) == [Load("a", 50)]
    idle = (resident("b", 40),)
    assert decided(wanted=(wanted("a", 50),), active=(training(1),), models=idle) == [Evict("b")]
    small = wanted("a", 80, least_bytes=30)
    assert decided(wanted=(small,), active=(training(1),)) == [Load("a", 43)]


@pytest.mark.parametrize(
    "changes",
    [{"resumes": False}, {"priority": Priority.STANDARD}, {"resumes": False, "held": ("user",)}],
)
def test_a_model_that_cannot_fit_even_so_is_refused(changes: dict[str, object]) -> None:
    wish = (wanted("a", 60),)
    assert decided(wanted=wish, active=(training(1, **changes),)) == [RefuseModel("a")]
    assert decided(wanted=(wanted("a", 101),), active=(training(1),)) == [RefuseModel("a")]


def test_a_job_has_its_turn_before_it_is_preempted_and_who_waits_is_not_refused() -> None:
    wish = (wanted("a", 60),)
    young = dataclasses.replace(training(1), ran_s=TURN_S - 10)
    assert decided(wanted=wish, active=(young,)) == []
    assert look_again_at(state(wanted=wish, active=(young,))) == NOW + 10


def test_its_turn_is_longer_each_time_it_was_preempted() -> None:
    """So that what it does in one go gets done, however often others come."""
    wish = (wanted("a", 60),)
    third = dataclasses.replace(training(1), ran_s=4 * TURN_S - 1, num_preempted=2)
    assert decided(wanted=wish, active=(third,)) == []
    assert decided(wanted=wish, active=(dataclasses.replace(third, ran_s=4 * TURN_S),)) == [
        Preempt(1)
    ]
    assert turn_s(dataclasses.replace(third, num_preempted=1000)) == 64 * TURN_S


def test_one_that_is_held_for_requests_need_not_have_had_its_turn() -> None:
    young = dataclasses.replace(training(1), ran_s=1.0, held=("interactive",))
    assert decided(wanted=(wanted("a", 60),), active=(young,)) == [Preempt(1)]


@pytest.mark.parametrize(
    "changes", [{"held": ("quota",)}, {"held": ("quota",), "resumes": False}, {"held": ("user",)}]
)
def test_one_that_stands_still_maybe_until_tomorrow_is_outranked_by_all(
    changes: dict[str, object],
) -> None:
    spent = training(1, priority=Priority.STANDARD, **changes)
    spent = dataclasses.replace(spent, ran_s=1.0)
    idle = (ready(2, priority=Priority.BACKGROUND),)
    assert decided(ready=idle, active=(spent,)) == [Preempt(1)]
    assert decided(active=(spent,)) == []
    busy = dataclasses.replace(spent, held=())
    assert decided(ready=idle, active=(busy,)) == []


def test_the_worst_class_goes_first_then_who_has_run_the_least_and_no_more_than_needed() -> None:
    jobs = (
        training(1, 30),
        dataclasses.replace(training(2, 30), ran_s=100.0),
        training(3, 30, priority=Priority.BATCH),
    )
    assert decided(wanted=(wanted("a", 30),), active=jobs) == [Preempt(2)]
    assert decided(wanted=(wanted("a", 60),), active=jobs) == [Preempt(2), Preempt(1)]
    assert decided(wanted=(wanted("a", 90),), active=jobs) == [Preempt(2), Preempt(1), Preempt(3)]


def test_a_job_of_a_better_class_gets_worker_and_memory() -> None:
    assert decided(ready=(ready(2),), active=(training(1),)) == [Preempt(1)]
    assert decided(ready=(ready(2),), active=(training(1, is_leaving=True),)) == []
    assert decided(ready=(ready(2),)) == [Start(2)]
    roomy = {"ready": (ready(2, 60),), "active": (training(1),), "max_workers": 2}
    assert decided(**roomy) == [Preempt(1)]


def test_one_worker_is_freed_for_one_job() -> None:
    jobs = (ready(3), ready(4))
    two = (training(1, 10), training(2, 10))
    assert decided(ready=(ready(3),), active=two, max_workers=2) == [Preempt(1)]
    leaving = (training(1, 10, is_leaving=True), training(2, 10))
    assert decided(ready=(ready(3),), active=leaving, max_workers=2) == []
    assert decided(ready=jobs, active=leaving, max_workers=2) == [Preempt(2)]


def test_one_whose_lease_has_run_out_is_taken_back_not_preempted() -> None:
    silent = dataclasses.replace(training(1), lease_expires_at=NOW - 1)
    assert decided(wanted=(wanted("a", 60),), active=(silent,))[0] == Expire(1, 1)
    assert Preempt(1) not in decided(ready=(ready(2),), active=(silent,))


def test_a_light_job_takes_no_ordinary_jobs_worker() -> None:
    downloading = ActiveJob(9, 1, "o", NOW + 30, 0, light=True, priority=Priority.BACKGROUND)
    waiting = (ready(2, light=True),)
    assert decided(ready=waiting, active=(training(1), downloading)) == []


def test_ranks_count_and_the_rank_of_a_running_job_is_its_class() -> None:
    batch = ready(2, priority=Priority.BATCH, queued_at=NOW - AGEING_S)
    standard = training(1, priority=Priority.STANDARD)
    assert decided(ready=(batch,), active=(standard,)) == []
    older = dataclasses.replace(batch, queued_at=NOW - 2 * AGEING_S)
    assert decided(ready=(older,), active=(standard,)) == [Preempt(1)]


def test_nothing_is_preempted_in_vain() -> None:
    fixed = ActiveJob(9, 1, "o", NOW + 30, 30)
    assert decided(ready=(ready(2, 80),), active=(training(1), fixed), max_workers=2) == []
    busy = resident("b", 45, num_users=1, priority=Priority.STANDARD, turn_ends_at=NOW + 5)
    assert decided(wanted=(wanted("a", 60),), active=(training(1),), models=(busy,)) == []


def test_models_in_use_and_jobs_go_together_where_neither_is_enough() -> None:
    busy = resident("b", 45, num_users=1, priority=Priority.STANDARD, turn_ends_at=NOW)
    both = {"active": (training(1),), "models": (busy,)}
    assert decided(wanted=(wanted("a", 90),), **both) == [Drain("b"), Preempt(1)]
    assert decided(wanted=(wanted("a", 55),), **both) == [Preempt(1)]


def test_what_was_preempted_does_not_evict_models_used_of_late_until_it_is_overdue() -> None:
    again = ready(1, 60, was_preempted=True, queued_at=NOW - RECENT_S)
    warm, cold = resident("b", 60), resident("b", 60, last_used_at=NOW - RECENT_S)
    assert decided(ready=(again,), models=(warm,)) == []
    assert decided(ready=(again,), models=(cold,)) == [Evict("b")]
    overdue = dataclasses.replace(again, queued_at=NOW - 2 * AGEING_S)
    assert decided(ready=(overdue,), models=(warm,)) == [Evict("b")]


def test_memory_of_a_job_that_has_ended_is_waited_for_rather_than_anothers_taken() -> None:
    wish = (wanted("a", 50),)
    gone = State(NOW, 10, 100, 1, 900.0, AGEING_S, active=(training(1, 40),), wanted=wish)
    assert decide(gone) == [Preempt(1)]
    assert decide(dataclasses.replace(gone, leaving_bytes=50)) == []

from __future__ import annotations

import dataclasses
import math

from hypothesis import given, settings
from hypothesis import strategies as st

from llmos.kernel.scheduler import DRAIN_S, RECENT_S, decide, look_again_at
from llmos.kernel.state import (
    ActiveJob,
    Drain,
    Evict,
    Expire,
    Load,
    Preempt,
    ReadyJob,
    RefuseJob,
    RefuseModel,
    ResidentModel,
    Resume,
    Start,
    State,
    Stop,
    WantedModel,
)
from llmos.types import Priority

NOW = 10_000.0
AGEING_S = 100.0


def ready(id: int, **changes: object) -> ReadyJob:
    job = ReadyJob(id, "o", Priority.STANDARD, NOW - 1, 0)
    return dataclasses.replace(job, **changes)


def active(id: int, **changes: object) -> ActiveJob:
    return dataclasses.replace(ActiveJob(id, 1, "o", NOW + 30, 0), **changes)


def model(key: str, num_bytes: int = 10, **changes: object) -> ResidentModel:
    return dataclasses.replace(
        ResidentModel(key, num_bytes, "ready", 0, NOW - 1, 1.0, 1.0), **changes
    )


def busy(key: str, num_bytes: int = 10, **changes: object) -> ResidentModel:
    """A model in use, whose turn is over."""
    used = {"num_users": 1, "priority": Priority.STANDARD, "turn_ends_at": NOW}
    return model(key, num_bytes, **(used | changes))


def wanted(key: str, num_bytes: int = 10, **changes: object) -> WantedModel:
    return dataclasses.replace(WantedModel(key, num_bytes, Priority.STANDARD, NOW), **changes)


def state(capacity_bytes: int = 100, **changes: object) -> State:
    """A state whose free bytes are what its jobs and models leave."""
    made = State(NOW, 0, capacity_bytes, 1, 60.0, AGEING_S)
    made = dataclasses.replace(made, **changes)
    used = sum(job.num_bytes for job in made.active) + sum(m.num_bytes for m in made.models)
    return dataclasses.replace(made, free_bytes=capacity_bytes - used)


# -- jobs ----------------------------------------------------------------------------------------


def test_the_better_class_starts_first_then_the_older_job() -> None:
    jobs = (
        ready(1, priority=Priority.BATCH, queued_at=NOW - 50),
        ready(2, queued_at=NOW - 10),
        ready(3, queued_at=NOW - 20),
    )
    assert decide(state(ready=jobs, max_workers=2)) == [Start(3), Start(2)]


def test_no_more_jobs_run_than_there_are_workers() -> None:
    assert decide(state(ready=(ready(2),), active=(active(1),))) == []
    assert decide(state(ready=(ready(2),), max_workers=0)) == []


def test_light_jobs_run_beside_ordinary_ones_and_as_many() -> None:
    training, pulling = active(1), active(2, light=True)
    jobs = (ready(3, queued_at=NOW - 9), ready(4, light=True), ready(5, light=True))
    assert decide(state(ready=jobs, active=(training,))) == [Start(4)]
    assert decide(state(ready=jobs, active=(pulling,))) == [Start(3)]
    assert decide(state(ready=jobs, active=(training, pulling))) == []
    assert decide(state(ready=jobs, max_workers=2)) == [Start(3), Start(4), Start(5)]
    assert decide(state(ready=jobs, max_workers=0)) == []


def test_the_owner_who_used_least_goes_first() -> None:
    jobs = (ready(1, owner="a", queued_at=NOW - 50), ready(2, owner="b"))
    assert decide(state(ready=jobs, usage_s={"a": 5.0, "b": 4.0})) == [Start(2)]
    assert decide(state(ready=jobs, usage_s={"b": 0.1})) == [Start(1)]


def test_owners_with_equal_use_take_turns() -> None:
    jobs = (*(ready(id, owner="a", queued_at=NOW - 50) for id in (1, 2, 3)), ready(4, owner="b"))
    assert decide(state(ready=jobs, max_workers=3)) == [Start(1), Start(4), Start(2)]


def test_a_class_ages_so_that_nothing_starves() -> None:
    old = ready(1, priority=Priority.BACKGROUND, queued_at=NOW - 4 * AGEING_S)
    jobs = (old, *(ready(id, priority=Priority.INTERACTIVE) for id in range(2, 30)))
    assert decide(state(ready=jobs, usage_s={"o": 1e9})) == [Start(1)]


def test_a_job_that_does_not_fit_is_passed_by() -> None:
    jobs = (ready(1, num_bytes=60, queued_at=NOW - 50), ready(2, num_bytes=40))
    occupied = (active(9, num_bytes=50),)
    assert decide(state(ready=jobs, active=occupied, max_workers=2)) == [Start(2)]


def test_room_and_worker_are_kept_for_an_overdue_job() -> None:
    overdue = ready(1, num_bytes=60, queued_at=NOW - 2 * AGEING_S)
    occupied = (active(9, num_bytes=50),)
    small = (ready(2, num_bytes=40), ready(3))
    decided = decide(state(ready=(overdue, *small), active=occupied, max_workers=2))
    assert decided == []
    decided = decide(state(ready=(overdue, *small), active=occupied, max_workers=3))
    assert decided == [Start(3)]


def test_a_job_larger_than_everything_is_refused() -> None:
    assert decide(state(ready=(ready(1, num_bytes=101),))) == [RefuseJob(1)]


def test_expired_leases_are_taken_back_and_cancelled_jobs_stopped() -> None:
    jobs = (
        active(1, lease_expires_at=NOW - 0.1, fence=7),
        active(2, cancel_requested=True, fence=8),
        active(3),
    )
    assert decide(state(active=jobs)) == [Expire(1, 7), Stop(2, 8)]


# -- models --------------------------------------------------------------------------------------


def test_a_wanted_model_is_loaded_into_free_memory() -> None:
    assert decide(state(wanted=(wanted("a"),))) == [Load("a", 10)]


def test_idle_models_are_evicted_for_a_wanted_one_and_it_is_loaded_once_they_are_gone() -> None:
    idle = model("idle", 95)
    assert decide(state(wanted=(wanted("a"),), models=(idle,))) == [Evict("idle")]
    leaving = dataclasses.replace(idle, state="unloading")
    assert decide(state(wanted=(wanted("a"),), models=(leaving,))) == []
    assert decide(state(wanted=(wanted("a"),))) == [Load("a", 10)]


def test_the_model_whose_reload_is_cheapest_per_byte_and_demand_goes_first() -> None:
    models = (
        model("slow", 30, load_s=9.0),
        model("popular", 30, demand=8.0),
        model("cheap", 30, load_s=0.5),
    )
    assert decide(state(90, wanted=(wanted("a"),), models=models)) == [Evict("cheap")]
    assert decide(state(90, wanted=(wanted("a", 40),), models=models)) == [
        Evict("cheap"),
        Evict("popular"),
    ]


def test_of_equal_models_the_least_recently_used_goes_first() -> None:
    models = (model("new", 50), model("old", 50, last_used_at=NOW - 9))
    assert decide(state(wanted=(wanted("a"),), models=models)) == [Evict("old")]


def test_of_models_much_in_demand_the_one_that_is_asked_just_now_stays() -> None:
    """Two that alternate do not replace each other because of a third that once was popular."""
    models = (
        model("popular", 50, demand=50.0, load_s=1.3, last_used_at=NOW - 60),
        model("asked", 50, demand=45.0, last_used_at=NOW - 0.5),
    )
    assert decide(state(wanted=(wanted("a"),), models=models)) == [Evict("popular")]


def test_models_in_use_stay() -> None:
    in_use = model("busy", 95, num_users=1, last_used_at=NOW - 1e6)
    assert decide(state(wanted=(wanted("a"),), models=(in_use,))) == []


def test_a_model_in_use_whose_turn_is_over_is_drained_for_one_that_waits() -> None:
    waiting = (wanted("a"),)
    first = busy("b", 95)
    assert decide(state(wanted=waiting, models=(first,))) == [Drain("b")]
    drained = dataclasses.replace(first, draining_since=NOW)
    assert decide(state(wanted=waiting, models=(drained,))) == []
    empty = dataclasses.replace(drained, num_users=0)
    assert decide(state(wanted=waiting, models=(empty,))) == [Evict("b")]


def test_a_turn_protects_from_those_of_the_same_class_but_not_of_a_better_one() -> None:
    models = (busy("b", 95, turn_ends_at=NOW + 1),)
    assert decide(state(wanted=(wanted("a"),), models=models)) == []
    better = wanted("a", priority=Priority.INTERACTIVE)
    assert decide(state(wanted=(better,), models=models)) == [Drain("b")]
    worse = wanted("a", priority=Priority.BATCH)
    assert decide(state(wanted=(worse,), models=(busy("b", 95),))) == []
    aged = dataclasses.replace(worse, since=NOW - AGEING_S)
    assert decide(state(wanted=(aged,), models=(busy("b", 95),))) == [Drain("b")]


def test_of_models_in_use_the_worst_class_is_drained_first_then_the_oldest_turn() -> None:
    models = (
        busy("old", 50, turn_ends_at=NOW - 9),
        busy("new", 50),
        busy("batch", 50, priority=Priority.BATCH, turn_ends_at=NOW + 9),
    )
    assert decide(state(150, wanted=(wanted("a"),), models=models)) == [Drain("batch")]
    assert decide(state(150, wanted=(wanted("a", 60),), models=models)) == [
        Drain("batch"),
        Drain("old"),
    ]


def test_nothing_is_drained_where_idle_models_do_or_all_of_them_would_not() -> None:
    models = (busy("b", 50), model("idle", 50))
    assert decide(state(wanted=(wanted("a", 50),), models=models)) == [Evict("idle")]
    young = (busy("b", 50), busy("young", 50, turn_ends_at=NOW + 1))
    assert decide(state(wanted=(wanted("a", 60),), models=young)) == []


def test_idle_models_stay_until_the_drained_ones_that_are_needed_too_are_empty() -> None:
    models = (busy("b", 50), model("idle", 50))
    assert decide(state(wanted=(wanted("a", 80),), models=models)) == [Drain("b")]
    empty = (model("b", 50, draining_since=NOW - 1), model("idle", 50))
    evicted = [Evict("b"), Evict("idle")]
    assert decide(state(wanted=(wanted("a", 80),), models=empty)) == evicted


def test_a_better_class_or_an_overdue_one_drains_a_model_for_as_long_as_it_takes() -> None:
    models = (busy("b", 95, draining_since=NOW - 10 * DRAIN_S),)
    for wish in (wanted("a", priority=Priority.INTERACTIVE), wanted("a", since=NOW - AGEING_S)):
        assert decide(state(wanted=(wish,), models=models)) == []


def test_a_model_drained_for_nobody_or_too_long_goes_on() -> None:
    drained = busy("b", 95, draining_since=NOW - 1)
    assert decide(state(models=(drained,))) == [Resume("b")]
    empty = dataclasses.replace(drained, num_users=0)
    assert decide(state(models=(empty,))) == [Resume("b")]
    long_drained = dataclasses.replace(drained, draining_since=NOW - DRAIN_S)
    assert decide(state(wanted=(wanted("a"),), models=(long_drained,))) == [Resume("b")]


def test_no_model_is_drained_for_what_is_laid_over_it_and_what_never_fits_is_refused() -> None:
    adapter = wanted("b+x", over="b")
    both = (busy("b", 50), busy("c", 50))
    assert decide(state(wanted=(adapter,), models=both)) == [Drain("c")]
    assert decide(state(wanted=(adapter,), models=(busy("b", 90),))) == [Load("b+x", 10)]
    assert decide(state(wanted=(adapter,), models=(busy("b", 91),))) == [RefuseModel("b+x")]


def test_a_model_is_loaded_with_a_smaller_cache_before_others_are_drained() -> None:
    small = wanted("a", 40, least_bytes=20)
    assert decide(state(wanted=(small,), models=(busy("b", 68),))) == [Load("a", 28)]  # 7/8 of 32
    assert decide(state(wanted=(small,), models=(busy("b", 80),))) == [Load("a", 20)]
    assert decide(state(wanted=(small,), models=(busy("b", 90),))) == [Drain("b")]


def test_models_used_of_late_stay_where_a_smaller_cache_does() -> None:
    small = wanted("a", 50, least_bytes=20)
    recent, cold = model("idle", 60), model("idle", 60, last_used_at=NOW - RECENT_S)
    assert decide(state(wanted=(small,), models=(recent,), idle_s=900.0)) == [Load("a", 35)]
    assert decide(state(wanted=(small,), models=(cold,), idle_s=900.0)) == [Evict("idle")]
    less = dataclasses.replace(small, least_bytes=41)
    assert decide(state(wanted=(less,), models=(recent,), idle_s=900.0)) == [Evict("idle")]


def test_of_models_in_use_no_more_are_drained_than_the_least_needs() -> None:
    models = (busy("b", 40), busy("young", 60, turn_ends_at=NOW + 1))
    wish = wanted("a", 50, least_bytes=30)
    assert decide(state(wanted=(wish,), models=models)) == [Drain("b")]


def test_a_model_larger_than_the_memory_is_loaded_with_the_cache_that_fits() -> None:
    large = wanted("a", 140, least_bytes=60)
    assert decide(state(wanted=(large,))) == [Load("a", 87)]
    assert decide(state(wanted=(large,), active=(active(1, num_bytes=36),))) == [Load("a", 60)]
    assert decide(state(wanted=(large,), active=(active(1, num_bytes=41),))) == [RefuseModel("a")]


def test_it_is_looked_again_when_a_turn_or_a_drain_ends_or_a_model_was_idle_for_long() -> None:
    models = (model("idle"), busy("b", turn_ends_at=NOW + 5), busy("c", draining_since=NOW - 7))
    assert look_again_at(state(models=models)) == NOW + 59
    assert look_again_at(state(models=models, wanted=(wanted("a"),))) == NOW + DRAIN_S - 7
    assert look_again_at(state(models=models[1:2], wanted=(wanted("a"),))) == NOW + 5


def test_nothing_is_evicted_in_vain() -> None:
    models = (model("busy", 60, num_users=1), model("idle", 30))
    assert decide(state(wanted=(wanted("a", 50),), models=models)) == []


def test_a_model_idle_too_long_is_evicted() -> None:
    models = (model("idle", last_used_at=NOW - 60), model("used", last_used_at=NOW - 59))
    assert decide(state(models=models)) == [Evict("idle")]


def test_a_model_that_cannot_fit_beside_the_jobs_is_refused() -> None:
    assert decide(state(wanted=(wanted("a", 101),))) == [RefuseModel("a")]
    occupied = (active(1, num_bytes=50),)
    assert decide(state(wanted=(wanted("a", 51),), active=occupied)) == [RefuseModel("a")]


def test_a_model_of_the_same_class_goes_before_a_job() -> None:
    demands = {"wanted": (wanted("a", 60),), "ready": (ready(1, num_bytes=60),)}
    assert decide(state(**demands)) == [Load("a", 60)]
    demands["ready"] = (ready(1, num_bytes=60, priority=Priority.INTERACTIVE),)
    assert decide(state(**demands)) == [Start(1)]


def test_an_idle_model_makes_room_for_a_job_whose_worker_is_kept() -> None:
    jobs = (ready(1, num_bytes=60, queued_at=NOW - 50), ready(2))
    assert decide(state(ready=jobs, models=(model("idle", 50),))) == [Evict("idle")]


# -- properties ----------------------------------------------------------------------------------

unhurried = settings(deadline=None)
sizes = st.integers(0, 60)
times = st.floats(NOW - 1000, NOW, allow_nan=False).map(lambda t: round(t, 1))
priorities = st.sampled_from(Priority)
owners = st.sampled_from("abc")


@st.composite
def states(draw: st.DrawFn) -> State:
    """Any state that a kernel could be in: nothing is over-committed, ids and keys are unique."""
    models = [
        ResidentModel(
            f"m{index}",
            draw(sizes),
            draw(st.sampled_from(["loading", "ready", "unloading"])),
            draw(st.integers(0, 2)),
            draw(times),
            draw(st.floats(0, 10)),
            draw(st.floats(0, 10)),
            draw(priorities),
            draw(st.sampled_from([NOW - 1, NOW + 1, math.inf])),
            draw(st.sampled_from([None, NOW - 1, NOW - DRAIN_S])),
        )
        for index in range(draw(st.integers(0, 5)))
    ]
    jobs = [
        ActiveJob(
            index,
            1,
            draw(owners),
            NOW + draw(st.floats(-10, 30)),
            draw(sizes),
            light=draw(st.booleans()),
            priority=draw(priorities),
            resumes=draw(st.booleans()),
            is_leaving=draw(st.booleans()),
            ran_s=draw(st.sampled_from([0.0, 1e4])),
        )
        for index in range(draw(st.integers(0, 3)))
    ]
    used = sum(m.num_bytes for m in models) + sum(job.num_bytes for job in jobs)
    capacity_bytes = used + draw(sizes)
    return State(
        NOW,
        capacity_bytes - used,
        capacity_bytes,
        draw(st.integers(0, 6)),
        draw(st.sampled_from([0.0, 60.0, 900.0])),
        AGEING_S,
        tuple(
            ReadyJob(
                100 + index,
                draw(owners),
                draw(priorities),
                draw(times),
                draw(sizes),
                draw(st.booleans()),
            )
            for index in range(draw(st.integers(0, 8)))
        ),
        tuple(jobs),
        tuple(models),
        tuple(
            WantedModel(
                f"w{index}",
                num_bytes := draw(sizes),
                draw(priorities),
                draw(times),
                draw(st.none() | st.integers(0, num_bytes)),
            )
            for index in range(draw(st.integers(0, 3)))
        ),
        {"a": draw(st.floats(0, 100)), "b": 1.0},
    )


def free_workers(made: State, *, light: bool) -> int:
    """Workers of one sort that the decision leaves free."""
    started = {action.job_id for action in decide(made) if isinstance(action, Start)}
    taken = [job for job in made.active if job.light == light]
    taken += [job for job in made.ready if job.light == light and job.id in started]
    return made.max_workers - len(taken)


def taken_bytes(made: State) -> int:
    """Bytes that the decision gives out."""
    by_job = {job.id: job.num_bytes for job in made.ready}
    return sum(
        by_job[action.job_id] if isinstance(action, Start) else action.num_bytes
        for action in decide(made)
        if isinstance(action, Start | Load)
    )


@unhurried
@given(states())
def test_no_byte_is_given_out_twice(made: State) -> None:
    assert taken_bytes(made) <= made.free_bytes


@unhurried
@given(states())
def test_workers_are_never_exceeded(made: State) -> None:
    for light in (False, True):
        active_of = sum(job.light == light for job in made.active)
        assert free_workers(made, light=light) >= min(made.max_workers - active_of, 0)


@unhurried
@given(states())
def test_only_ready_models_that_nobody_uses_are_evicted(made: State) -> None:
    evicted = [action.key for action in decide(made) if isinstance(action, Evict)]
    idle = {m.key for m in made.models if m.state == "ready" and m.num_users == 0}
    assert set(evicted) <= idle
    assert len(set(evicted)) == len(evicted)


@unhurried
@given(states())
def test_models_are_drained_only_for_those_that_wait_and_go_on_otherwise(made: State) -> None:
    by_key = {m.key: m for m in made.models}
    actions = decide(made)
    for action in actions:
        if isinstance(action, Drain):
            drained = by_key[action.key]
            assert drained.num_users and drained.draining_since is None and made.wanted
            assert drained.state == "ready" and drained.turn_ends_at != math.inf
    resumed = {action.key for action in actions if isinstance(action, Resume)}
    evicted = {action.key for action in actions if isinstance(action, Evict)}
    draining = {m.key for m in made.models if m.state == "ready" and m.draining_since is not None}
    assert resumed <= draining - evicted
    if not made.wanted:
        assert resumed == draining - evicted


@unhurried
@given(states())
def test_a_load_gets_what_it_can_do_with_and_no_more_than_it_wants(made: State) -> None:
    by_key = {m.key: m for m in made.wanted}
    for action in decide(made):
        if isinstance(action, Load):
            m = by_key[action.key]
            least_bytes = m.num_bytes if m.least_bytes is None else m.least_bytes
            assert least_bytes <= action.num_bytes <= m.num_bytes


@unhurried
@given(states())
def test_the_same_state_always_gives_the_same_actions(made: State) -> None:
    shuffled = dataclasses.replace(
        made,
        ready=made.ready[::-1],
        models=made.models[::-1],
        wanted=made.wanted[::-1],
    )
    assert decide(made) == decide(made)
    assert set(decide(made)) == set(decide(shuffled))


@unhurried
@given(states())
def test_nothing_that_fits_is_left_waiting_unless_room_is_kept_for_another(made: State) -> None:
    """Work-conserving, where demands are fresh, no model can be evicted and no job preempted."""
    staying = (dataclasses.replace(j, resumes=False, is_leaving=False) for j in made.active)
    made = dataclasses.replace(
        made,
        active=tuple(staying),
        ready=tuple(dataclasses.replace(job, queued_at=NOW) for job in made.ready),
        wanted=tuple(dataclasses.replace(m, since=NOW) for m in made.wanted),
        models=tuple(
            dataclasses.replace(
                m, state="ready", num_users=1, draining_since=None, turn_ends_at=math.inf
            )
            for m in made.models
        ),
    )
    actions = decide(made)
    done = {getattr(action, "job_id", None) or getattr(action, "key", None) for action in actions}
    left_bytes = made.free_bytes - taken_bytes(made)
    free = {light: free_workers(made, light=light) for light in (False, True)}
    for job in made.ready:
        assert job.id in done or job.num_bytes > left_bytes or free[job.light] <= 0
    for m in made.wanted:
        assert m.key in done or m.num_bytes > left_bytes


@unhurried
@given(states())
def test_carried_out_to_the_end_every_demand_that_can_be_met_is_met(made: State) -> None:
    """Evictions lead somewhere: doing what is decided, again and again, comes to rest."""
    for _ in range(30):
        actions = [a for a in decide(made) if not isinstance(a, Expire | Stop)]
        is_leaving = any(job.is_leaving for job in made.active)
        if not actions and not is_leaving and not any(m.state == "unloading" for m in made.models):
            break
        made = carried_out(made, actions)
    else:
        raise AssertionError("it never comes to rest")
    idle_bytes = sum(m.num_bytes for m in made.models if m.state == "ready" and not m.num_users)
    for job in made.ready:
        fits = job.num_bytes <= made.free_bytes + idle_bytes
        num_active = sum(other.light == job.light for other in made.active)
        assert not fits or num_active >= made.max_workers or overdue(made) or job.was_preempted


def overdue(made: State) -> bool:
    """Say whether some demand may have room kept for it."""
    return any(job.queued_at <= NOW - AGEING_S for job in made.ready) or any(
        m.since <= NOW - AGEING_S for m in made.wanted
    )


def carried_out(made: State, actions: list[object]) -> State:
    """Return the state after the actions, with loads and unloads finished."""
    models = {m.key: m for m in made.models if m.state != "unloading"}
    staying = [job for job in made.active if not job.is_leaving]
    jobs, waiting, wishes = staying, list(made.ready), list(made.wanted)
    for action in actions:
        if isinstance(action, Evict):
            models[action.key] = dataclasses.replace(models[action.key], state="unloading")
        elif isinstance(action, Drain):
            models[action.key] = dataclasses.replace(
                models[action.key], num_users=0, draining_since=NOW
            )
        elif isinstance(action, Resume):
            resumed = models[action.key]
            models[action.key] = dataclasses.replace(
                resumed, draining_since=None, turn_ends_at=NOW + 1
            )
        elif isinstance(action, Preempt):
            left = next(job for job in jobs if job.id == action.job_id)
            assert left.resumes
            jobs.remove(left)
            again = ReadyJob(left.id, left.owner, left.priority, NOW, left.num_bytes, left.light)
            waiting.append(dataclasses.replace(again, was_preempted=True))
        elif isinstance(action, Load | RefuseModel):
            wish = next(m for m in wishes if m.key == action.key)
            wishes.remove(wish)
            if isinstance(action, Load):
                models[wish.key] = model(wish.key, action.num_bytes, num_users=1)
        elif isinstance(action, Start | RefuseJob):
            job = next(job for job in waiting if job.id == action.job_id)
            waiting.remove(job)
            if isinstance(action, Start):
                started = ActiveJob(job.id, 1, job.owner, NOW + 30, job.num_bytes, light=job.light)
                jobs.append(dataclasses.replace(started, priority=job.priority, ran_s=0.0))
    used = sum(m.num_bytes for m in models.values()) + sum(job.num_bytes for job in jobs)
    return dataclasses.replace(
        made,
        free_bytes=made.capacity_bytes - used,
        models=tuple(models.values()),
        active=tuple(jobs),
        ready=tuple(waiting),
        wanted=tuple(wishes),
    )


@unhurried
@given(states(), st.integers(0, 3), st.booleans())
def test_a_job_is_never_passed_by_one_that_came_long_after_it(
    made: State, late: int, light: bool
) -> None:
    """The ageing bound: (class + 1) * ageing_s, whatever owners used."""
    first = ReadyJob(1, "z", Priority(late), NOW - (late + 2) * AGEING_S - 1, 0, light)
    after = tuple(
        dataclasses.replace(job, queued_at=NOW - AGEING_S + 1, num_bytes=0, light=light)
        for job in made.ready
    )
    made = dataclasses.replace(
        made,
        ready=(*after, first),
        wanted=(),
        usage_s={"z": 1e9},
        max_workers=sum(job.light == light for job in made.active) + 1,
    )
    assert [action for action in decide(made) if isinstance(action, Start)] == [Start(1)]


@dataclasses.dataclass
class Simulated:
    """Models of a simulated machine: who holds leases until when, who waits since when."""

    sizes: dict[str, tuple[int, int]]
    """What each wants, and the least it can do with."""
    leases: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    waiting: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    resident: dict[str, ResidentModel] = dataclasses.field(default_factory=dict)
    now: float = NOW
    longest_wait_s: float = 0.0

    def ask(self, key: str, lasts_s: float) -> None:
        """Take a lease, or wait for one."""
        held = self.resident.get(key)
        if held and held.draining_since is None:
            self.leases[key].append(self.now + lasts_s)
        else:
            self.waiting.setdefault(key, []).append(self.now)

    def step(self, capacity_bytes: int, lasts_s: float) -> None:
        """Let half a second pass, and do what is decided."""
        self.now += 0.5
        for key, ends in self.leases.items():
            self.leases[key] = [end for end in ends if end > self.now]
            if (held := self.resident.get(key)) is not None:
                self.resident[key] = dataclasses.replace(
                    held,
                    num_users=len(self.leases[key]),
                    last_used_at=self.now if ends else held.last_used_at,
                )
        wishes = tuple(
            WantedModel(key, self.sizes[key][0], Priority.STANDARD, since[0], self.sizes[key][1])
            for key, since in self.waiting.items()
            if key not in self.resident
        )
        used = sum(one.num_bytes for one in self.resident.values())
        assert used <= capacity_bytes
        made = State(
            self.now,
            capacity_bytes - used,
            capacity_bytes,
            1,
            60.0,
            AGEING_S,
            models=tuple(self.resident.values()),
            wanted=wishes,
        )
        for action in decide(made):
            match action:
                case Evict(key):
                    assert not self.leases.pop(key)
                    del self.resident[key]
                case Load(key, num_bytes):
                    self.resident[key] = busy(key, num_bytes, turn_ends_at=self.now + 1.0)
                    self._admit(key, lasts_s)
                case Drain(key):
                    self.resident[key] = dataclasses.replace(
                        self.resident[key], draining_since=self.now
                    )
                case Resume(key):
                    held = self.resident[key]
                    assert held.draining_since is not None
                    drained_s = self.now - held.draining_since
                    self.resident[key] = dataclasses.replace(
                        held, draining_since=None, turn_ends_at=self.now + max(drained_s, 1.0)
                    )
                    self._admit(key, lasts_s)
                case other:
                    raise AssertionError(f"unexpected: {other}")
        for since in self.waiting.values():
            self.longest_wait_s = max(self.longest_wait_s, self.now - since[0])

    def _admit(self, key: str, lasts_s: float) -> None:
        come = self.waiting.pop(key, [])
        self.leases.setdefault(key, []).extend(self.now + lasts_s for _ in come)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.integers(20, 60), min_size=2, max_size=6), st.sampled_from([0.4, 3.0, 8.0, 40.0])
)
def test_models_that_are_all_wanted_all_the_time_are_all_loaded_again_and_again(
    sizes: list[int], lasts_s: float
) -> None:
    """Nothing starves, however long a lease lasts and whoever comes meanwhile."""
    machine = Simulated({f"m{at}": (size, size * 2 // 3) for at, size in enumerate(sizes)})
    for _ in range(2000):
        for key in machine.sizes:
            machine.ask(key, lasts_s)
        machine.step(100, lasts_s)
    turn_s = DRAIN_S + lasts_s + 2.0
    assert machine.longest_wait_s <= 2 * AGEING_S + len(sizes) * turn_s

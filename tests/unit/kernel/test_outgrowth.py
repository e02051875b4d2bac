from __future__ import annotations

import dataclasses
import math

from hypothesis import given, settings
from hypothesis import strategies as st

from llmos.kernel.outgrowth import (
    SETTLED_S,
    Await,
    Keep,
    Reading,
    Refuse,
    Reserve,
    Room,
    Stop,
    floor_of,
    idle_bytes,
    what_to_do,
)
from llmos.kernel.scheduler import decide
from llmos.kernel.state import (
    ActiveJob,
    Evict,
    Load,
    ReadyJob,
    ResidentModel,
    Start,
    State,
    WantedModel,
)
from llmos.types import Priority

NOW = 1000.0


def job(held: int, reserved: int = 100, **changes: object) -> Reading:
    return dataclasses.replace(Reading(reserved, held, held, 0.0), **changes)


def room(free: int = 0, idle: int = 0, **changes: object) -> Room:
    return dataclasses.replace(Room(free, idle, 1000, math.inf, 50), **changes)


def test_a_job_within_its_reservation_is_left_alone() -> None:
    assert what_to_do(job(100), room()) == Keep()
    assert what_to_do(job(100), room(available_bytes=0)) == Keep()


def test_a_reservation_grows_into_free_memory_and_a_little_further() -> None:
    assert what_to_do(job(200), room(free=500)) == Reserve(220)
    assert what_to_do(job(200), room(free=105)) == Reserve(205)
    assert what_to_do(job(200), room(free=100)) == Reserve(200)


def test_without_free_memory_idle_models_make_room_and_the_job_waits() -> None:
    assert what_to_do(job(200), room(free=99, idle=60)) == Await(120)
    assert what_to_do(job(200), room(free=99, idle=11)) == Await(110)


def test_a_job_for_which_there_is_no_room_is_stopped_to_start_larger() -> None:
    assert what_to_do(job(200), room(free=60, idle=39)) == Stop(220)


def test_a_job_is_stopped_before_the_machine_runs_out_even_where_the_ledger_has_room() -> None:
    assert what_to_do(job(200), room(free=500, available_bytes=49)) == Stop(220)
    assert what_to_do(job(200), room(free=500, available_bytes=50)) == Reserve(220)


def test_a_job_larger_than_all_there_is_is_refused() -> None:
    assert what_to_do(job(1001, reserved=900), room(free=100, available_bytes=0)) == Refuse()
    assert what_to_do(job(1000, reserved=900), room(free=100)) == Reserve(1000)


def test_a_job_that_declares_no_memory_is_stopped_only_where_the_machine_runs_out() -> None:
    assert what_to_do(job(5000, reserved=0), room()) == Keep()
    assert what_to_do(job(500, reserved=0), room(available_bytes=49)) == Stop(550)


def test_a_reservation_is_lowered_once_the_peak_has_settled_far_below_it() -> None:
    settled = {"settled_s": SETTLED_S}
    assert what_to_do(job(40, **settled), room()) == Reserve(50)
    assert what_to_do(job(10, peak_bytes=40, **settled), room()) == Reserve(50)
    assert what_to_do(job(40, settled_s=SETTLED_S - 1), room()) == Keep()
    assert what_to_do(job(70, **settled), room()) == Keep()
    assert what_to_do(job(0, **settled), room()) == Keep()


def test_a_job_that_failed_before_keeps_all_that_is_reserved() -> None:
    assert what_to_do(job(40, settled_s=SETTLED_S, may_lower=False), room()) == Keep()


def test_what_was_lowered_is_not_lowered_or_raised_again_at_once() -> None:
    lowered = what_to_do(job(40, settled_s=SETTLED_S), room())
    assert lowered == Reserve(50)
    for held in (30, 40, 50):
        again = job(held, reserved=50, peak_bytes=max(held, 40), settled_s=SETTLED_S)
        assert what_to_do(again, room(free=50)) == Keep()


sizes = st.integers(0, 2000)


@settings(deadline=None)
@given(sizes, sizes, sizes, sizes, st.floats(0, 2000), st.floats(0, 100))
def test_the_rule_never_reserves_what_is_not_there_and_never_lets_a_job_stay_too_large(
    reserved: int, held: int, free: int, idle: int, available: float, settled_s: float
) -> None:
    where = Room(free, idle, 1000, available, 50)
    match what_to_do(Reading(reserved, held, held, settled_s), where):
        case Reserve(num_bytes):
            assert held <= num_bytes <= reserved + free
        case Await(num_bytes):
            assert 0 < num_bytes <= free + idle
            assert reserved + num_bytes >= held
        case Stop(num_bytes):
            assert held > reserved
            assert num_bytes <= 1000
        case Refuse():
            assert held > 1000
        case Keep():
            assert held <= reserved or (not reserved and available >= 50)


def test_the_floor_is_a_share_of_the_machine_but_no_more_than_enough() -> None:
    assert floor_of(10**9) == 5 * 10**7
    assert floor_of(10**12) == 2 * 2**30


# -- room is made by decide ------------------------------------------------------------------------


def model(key: str, num_bytes: int, **changes: object) -> ResidentModel:
    made = ResidentModel(key, num_bytes, "ready", 0, NOW - 1, 1.0, 1.0)
    return dataclasses.replace(made, **changes)


def state(*models: ResidentModel, more_bytes: int, **changes: object) -> State:
    growing = ActiveJob(1, 1, "o", NOW + 30, 50, more_bytes=more_bytes)
    used = 50 + sum(one.num_bytes for one in models)
    made = State(NOW, 100 - used, 100, 2, 900.0, 300.0, active=(growing,), models=models)
    return dataclasses.replace(made, **changes)


def test_idle_models_are_evicted_for_a_job_that_outgrew_its_memory() -> None:
    assert decide(state(model("idle", 50), more_bytes=20)) == [Evict("idle")]
    leaving = model("idle", 50, state="unloading")
    assert decide(state(leaving, more_bytes=20)) == []
    assert decide(state(model("idle", 20), more_bytes=30)) == []


def test_a_model_in_use_is_not_evicted_for_it() -> None:
    in_use = model("busy", 40, num_users=1)
    assert decide(state(in_use, model("idle", 10), more_bytes=50)) == [Evict("idle")]


def test_what_is_free_is_kept_for_it_before_anyone_gets_it() -> None:
    waiting = ReadyJob(2, "o", Priority.INTERACTIVE, NOW - 1, 30)
    wanted = WantedModel("m", 30, Priority.INTERACTIVE, NOW - 1)
    for demand in ({"ready": (waiting,)}, {"wanted": (wanted,)}):
        assert decide(state(more_bytes=30, **demand)) == []
    assert decide(state(more_bytes=20, ready=(waiting,))) == [Start(2)]
    assert decide(state(more_bytes=20, wanted=(wanted,))) == [Load("m", 30)]


def test_idle_memory_is_what_nobody_uses_or_what_is_leaving() -> None:
    models = (
        model("idle", 1),
        model("leaving", 2, state="unloading"),
        model("busy", 4, num_users=1),
        model("loading", 8, state="loading"),
    )
    assert idle_bytes(models) == 3

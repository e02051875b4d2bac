from __future__ import annotations

import asyncio
from typing import Any

import pytest

from llmos.errors import DeadlineExceededError, ModelLoadingError
from llmos.kernel.models import LONGEST_RETRY_S, LoadTimes, Model, ModelSpec, Queue
from llmos.types import EngineStats, Priority


def full_queue(ends_at: list[float], num_users: int = 100) -> Queue:
    queue = Queue(num_users=num_users + len(ends_at))
    for at in ends_at:
        queue.ended(at)
    return queue


def test_who_is_refused_comes_back_when_a_tenth_of_the_queue_has_ended() -> None:
    assert full_queue([10.0, 12.0, 14.0]).retry_after_s() == 20
    assert full_queue([10.0, 10.1]).retry_after_s() == 1


def test_before_two_have_ended_who_is_refused_comes_back_in_a_second() -> None:
    assert full_queue([]).retry_after_s() == full_queue([10.0]).retry_after_s() == 1


def test_nobody_is_sent_away_for_longer_than_the_limit() -> None:
    assert full_queue([0.0, 10_000.0]).retry_after_s() == LONGEST_RETRY_S


def test_the_newest_ends_count_most() -> None:
    slow_then_fast = [0.0, 10.0, *(10.0 + 0.01 * i for i in range(1, 30))]
    assert full_queue(slow_then_fast).retry_after_s() == 1


async def test_status_counts_who_waits_in_the_engine_and_for_the_model() -> None:
    model = Model(ModelSpec("k", "echo", "/", {}, 5, "m"), 5)
    model.stats = EngineStats(
        running=(1, 0, 0, 0), waiting=(0, 2, 0, 0), kv_used_blocks=1, kv_blocks=4
    )
    model.waiters[asyncio.get_running_loop().create_future()] = Priority.BATCH
    status = model.status()
    assert (status["running"], status["waiting"]) == ([1, 0, 0, 0], [0, 2, 1, 0])
    assert (status["kv_use"], status["prefix_hit_rate"]) == (0.25, None)


@pytest.mark.parametrize(
    ("state", "load_s", "said", "retry_after_s"),
    [
        ("loading", 12.4, "m is being loaded, which took 12 s the last time", 13),
        ("loading", 0.0, "m is being loaded for the first time", LONGEST_RETRY_S),
        ("absent", 12.0, "m waits for memory that others use", LONGEST_RETRY_S),
    ],
)
async def test_who_has_waited_long_is_told_how_things_stand(
    state: Any, load_s: float, said: str, retry_after_s: int
) -> None:
    model = Model(ModelSpec("k", "echo", "/", {}, 5, "m"), 5, state=state, load_s=load_s)
    with pytest.raises(ModelLoadingError, match=said) as caught:
        await model.wait(Priority.STANDARD, None, 0.0)
    assert (caught.value.status, caught.value.retry_after_s) == (503, retry_after_s)
    assert not model.waiters


async def test_a_deadline_that_comes_first_is_what_passed() -> None:
    model = Model(ModelSpec("k", "echo", "/", {}, 5, "m"), 5)
    with pytest.raises(DeadlineExceededError):
        await model.wait(Priority.STANDARD, 0.0, 0.0)


async def test_a_model_that_comes_in_time_is_waited_for() -> None:
    model = Model(ModelSpec("k", "echo", "/", {}, 5, "m"), 5)
    waiting = asyncio.create_task(model.wait(Priority.STANDARD, None, 60.0))
    await asyncio.sleep(0)
    model.resolve_waiters()
    await waiting


def busy_queue(**num_works: int) -> Queue:
    queue = Queue()
    for tenant, count in num_works.items():
        queue.begin(tenant, count)
    return queue


def test_works_fill_a_queue_however_few_requests_they_are_of() -> None:
    queue = busy_queue(a=6)
    assert queue.admits("a", 2, 8)
    assert not queue.admits("a", 3, 8)
    queue.ended(0.0, "a", 6)
    assert queue.admits("a", 3, 8)
    assert queue.num_works == {}


def test_a_tenant_that_fills_a_queue_keeps_no_other_out() -> None:
    queue = busy_queue(a=8)
    assert not queue.admits("a", 1, 8)
    assert queue.admits("b", 4, 8)
    assert not queue.admits("b", 5, 8)
    queue.begin("b", 4)
    assert not queue.admits("b", 1, 8)
    assert queue.admits("c", 2, 8)


def test_a_queue_has_an_end_however_many_tenants_come() -> None:
    queue = busy_queue(a=8)
    while queue.admits(tenant := f"t{queue.num_users}", 1, 8):
        queue.begin(tenant, 1)
    assert queue.num_works.total() < 2 * 8


def test_an_empty_queue_takes_a_request_of_any_size() -> None:
    assert busy_queue().admits("a", 100, 8)


def test_a_first_load_says_little_of_the_next_until_there_was_one() -> None:
    first, second = (Model(ModelSpec(key, "echo", "/", {}, 5, key), 5, 100) for key in "ab")
    times = LoadTimes()
    first.load_s, second.load_s = 6.0, 0.1
    times.note("a", 100, 6.0)
    assert times.reload_s(first) == 6.0
    times.note("b", 100, 0.1)
    assert times.reload_s(first) == pytest.approx(0.1)  # the rest went into what all share
    times.note("a", 100, 5.0)
    first.load_s = 5.0
    assert times.reload_s(first) == 5.0
    assert times.reload_s(second) == pytest.approx(0.1)


def test_turns_last_for_a_few_loads_within_bounds() -> None:
    model = Model(ModelSpec("k", "echo", "/", {}, 5, "m"), 5)
    for load_s, turn_s in ((0.01, 1.0), (0.5, 2.0), (60.0, 10.0)):
        model.load_s = load_s
        model.begin_turn(1000.0)
        assert model.turn_ends_at == 1000.0 + turn_s

from __future__ import annotations

import asyncio

from llmos.kernel.models import LONGEST_RETRY_S, Model, ModelSpec, Queue
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

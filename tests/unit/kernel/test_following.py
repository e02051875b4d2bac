from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

from tests.unit.kernel.conftest import KINDS, FixedRandom

from llmos.kernel.events import EventBus, Subscription
from llmos.kernel.following import follow_jobs
from llmos.kernel.queue import JobQueue
from llmos.storage.memory import MemoryDatabase

LEASE_S = 30.0


async def submit(queue: JobQueue, owner: str = "o") -> int:
    return (await queue.submit("train", {}, owner=owner)).id


async def test_stored_events_come_first_then_live_ones_each_once(
    queue: JobQueue, bus: EventBus
) -> None:
    first = await submit(queue)
    async with aclosing(follow_jobs(queue, bus, "o", 0)) as events:
        got = [await anext(events)]
        second = await submit(queue)
        await submit(queue, owner="p")
        got.append(await anext(events))
        await queue.cancel(first, "a")
        got.append(await anext(events))
    assert [(event.job_id, event.data["state"]) for event in got] == [
        (first, "queued"),
        (second, "queued"),
        (first, "cancelled"),
    ]
    assert [event.id for event in got] == sorted({event.id for event in got})


async def test_following_goes_on_after_any_event(queue: JobQueue, bus: EventBus) -> None:
    ids = [await submit(queue) for _ in range(3)]
    stored = await queue.events_of("o", 0)
    async with aclosing(follow_jobs(queue, bus, "o", stored[1].id)) as events:
        assert (await anext(events)).job_id == ids[2]
    assert await queue.newest_event_id() == stored[2].id


async def test_nobody_owning_follows_everyone(queue: JobQueue, bus: EventBus) -> None:
    ids = [await submit(queue, owner) for owner in ("o", "p")]
    async with aclosing(follow_jobs(queue, bus, None, 0)) as events:
        assert [(await anext(events)).job_id for _ in ids] == ids
        ids.append(await submit(queue, "q"))
        assert (await anext(events)).job_id == ids[-1]


async def test_progress_is_only_live_and_only_the_newest_of_each_job(
    queue: JobQueue, bus: EventBus
) -> None:
    ids = [await submit(queue) for _ in range(2)]
    jobs = [await queue.claim(id, LEASE_S, threads=1) for id in ids]
    after = await queue.newest_event_id()

    async def report(job: Any, step: int) -> None:
        progress = {"step": step, "total": 9, "message": ""}
        await queue.report(job.id, job.fence, LEASE_S, progress=progress)

    async with aclosing(follow_jobs(queue, bus, "o", after)) as events:
        waiting = asyncio.ensure_future(anext(events))
        await queue.report(jobs[0].id, jobs[0].fence, LEASE_S, events=[("log", {"line": "x"})])
        assert (await waiting).type == "log"
        for step in (1, 2):
            for job in jobs:
                await report(job, step)
        got = [await anext(events) for _ in jobs]
    assert [(event.id, event.job_id, event.data["step"]) for event in got] == [
        (0, ids[0], 2),
        (0, ids[1], 2),
    ]


class SmallBus(EventBus):
    """Its followers lose all but the newest two."""

    def subscribe(self, topic: str, capacity: int = 2) -> Subscription:
        return super().subscribe(topic, capacity)


async def test_a_follower_that_was_slow_misses_nothing_that_is_stored(
    database: MemoryDatabase, clock: Any
) -> None:
    bus = SmallBus()
    queue = JobQueue(database, KINDS, clock, rng=FixedRandom(), bus=bus)
    async with aclosing(follow_jobs(queue, bus, "o", 0)) as events:
        ids = [await submit(queue)]
        got = [await anext(events)]
        ids += [await submit(queue) for _ in range(9)]
        got += [await anext(events) for _ in range(9)]
    assert [event.job_id for event in got] == ids

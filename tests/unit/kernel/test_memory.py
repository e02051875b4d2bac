from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from types import SimpleNamespace
from typing import Any

import pytest

from llmos.errors import DiskFullError, LlmosError
from llmos.kernel.footprint import Footprint
from llmos.kernel.jobs import Job, JobState
from llmos.kernel.ledger import Ledger, job_key
from llmos.kernel.memory import MemoryWatch
from llmos.kernel.outgrowth import SETTLED_S
from llmos.kernel.queue import JobQueue
from llmos.kernel.state import ResidentModel
from llmos.kernel.workers import Standing
from llmos.storage.memory import MemoryDatabase
from llmos.types import JobResult

ENGINE = 7


class StubWorkers:
    """Workers that are numbers: the process id of job N is 100 + N."""

    def __init__(self) -> None:
        self.running: set[int] = set()
        self.held: set[int] = set()
        self.ran_s = 0.0
        self.given_up: list[tuple[int, LlmosError, bool]] = []

    def pid(self, job_id: int) -> int | None:
        return 100 + job_id if job_id in self.running else None

    def standing(self, job_id: int) -> Standing | None:
        if job_id not in self.running:
            return None
        held = ("memory",) if job_id in self.held else ()
        return Standing(30.0, self.ran_s, held, is_leaving=False, is_parked=False)

    def hold(self, job_id: int, reason: str) -> None:
        assert reason == "memory"
        self.held.add(job_id)

    def release(self, job_id: int, reason: str) -> None:
        assert reason == "memory"
        self.held.discard(job_id)

    def give_up(self, job_id: int, error: LlmosError, *, retryable: bool) -> bool:
        self.given_up.append((job_id, error, retryable))
        return True


class Bench:
    """A watch over stubs: what processes take is written into ``taken``."""

    def __init__(self, queue: JobQueue, database: MemoryDatabase, *, on_cpu: bool = True) -> None:
        self.queue = queue
        self.database = database
        self.workers = StubWorkers()
        self.ledger = Ledger(1000)
        self.models: list[ResidentModel] = []
        self.residency, self.other_residency = (
            SimpleNamespace(engine=SimpleNamespace(pid=None), resident=lambda: tuple(self.models))
            for _ in range(2)
        )
        self.taken: dict[int, int] = {}
        self.left_bytes = 10**12
        self.num_changes = 0
        self.watch = MemoryWatch(
            database,
            self.ledger,
            queue,
            self.workers,
            [self.residency, self.other_residency],
            lambda: 5.0,
            on_cpu=on_cpu,
            on_change=self._changed,
            read=self._read,
            available=lambda: self.left_bytes,
        )

    def _changed(self) -> None:
        self.num_changes += 1

    def _read(self, leaders: Collection[int]) -> dict[int, Footprint]:
        return {pid: Footprint(self.taken[pid], 3) for pid in leaders if pid in self.taken}

    async def started(self, num_bytes: int, kind: str = "train") -> Job:
        """Return a job that runs, and is watched."""
        submitted = await self.queue.submit(kind, {"bytes": num_bytes}, owner="o")
        job = await self.queue.claim(submitted.id, 30.0, 1)
        assert job is not None
        self.ledger.reserve(job_key(job.id), job.reserved_bytes)
        self.workers.running.add(job.id)
        self.watch.follow([job])
        return job

    async def takes(self, job: Job, num_bytes: int) -> None:
        """Let a job be seen to take so much."""
        self.taken[100 + job.id] = num_bytes
        await self.watch.look()

    def gone(self, job: Job, seconds: float = 9.0) -> None:
        """Let a job's worker be gone."""
        self.workers.running.discard(job.id)
        self.ledger.release(job_key(job.id))
        self.watch.worker_ended(job, seconds)

    def reserved(self, job: Job) -> int | None:
        return self.ledger.reserved(job_key(job.id))

    async def learned(self) -> list[tuple[int, int, float | None]]:
        await self.watch.stop()
        return [
            (one.predicted_bytes, one.measured_bytes, one.measured_s)
            for one in self.watch.measurements
        ]


@pytest.fixture
async def bench(queue: JobQueue, database: MemoryDatabase) -> AsyncIterator[Bench]:
    bench = Bench(queue, database)
    yield bench
    await bench.watch.stop()


async def test_a_reservation_follows_what_a_job_takes(bench: Bench) -> None:
    job = await bench.started(100)
    await bench.takes(job, 90)
    assert (bench.reserved(job), bench.num_changes) == (100, 0)
    await bench.takes(job, 300)
    assert bench.reserved(job) == 330
    await bench.takes(job, 100)
    bench.workers.ran_s += SETTLED_S
    await bench.takes(job, 100)
    assert bench.reserved(job) == 330  # the peak counts, not what is taken now


async def test_a_reservation_that_was_far_too_large_is_lowered_and_others_are_told(
    bench: Bench,
) -> None:
    job = await bench.started(900)
    await bench.takes(job, 100)
    bench.workers.ran_s += SETTLED_S - 1
    await bench.takes(job, 100)
    assert bench.reserved(job) == 900
    bench.workers.ran_s += 1
    await bench.takes(job, 100)
    assert (bench.reserved(job), bench.num_changes) == (125, 1)


async def test_a_job_that_is_held_keeps_its_reservation_and_needs_to_run_to_settle(
    bench: Bench,
) -> None:
    job = await bench.started(900)
    await bench.takes(job, 100)
    bench.workers.ran_s += SETTLED_S
    bench.workers.held.add(job.id)  # as it may be for hours, while others would use its memory
    await bench.takes(job, 100)
    assert bench.reserved(job) == 900
    bench.workers.held.clear()
    bench.workers.ran_s -= 1.0
    await bench.takes(job, 100)
    assert bench.reserved(job) == 900
    bench.workers.ran_s += 1.0
    await bench.takes(job, 100)
    assert bench.reserved(job) == 125


async def test_a_job_is_held_until_idle_models_have_made_room(bench: Bench) -> None:
    job = await bench.started(100)
    bench.ledger.reserve("model:idle", 850)
    bench.models = [ResidentModel("idle", 850, "ready", 0, 0.0, 1.0, 1.0)]
    await bench.takes(job, 200)
    assert bench.workers.held == {job.id}
    assert bench.watch.wanted_bytes(job.id) == 120
    assert (bench.reserved(job), bench.num_changes) == (100, 1)
    bench.ledger.release("model:idle")
    bench.models = []
    bench.watch.follow([job])
    assert (bench.reserved(job), bench.workers.held) == (220, set())
    assert bench.watch.wanted_bytes(job.id) == 0
    assert bench.workers.given_up == []


async def test_a_held_job_that_gives_memory_back_goes_on(bench: Bench) -> None:
    job = await bench.started(100)
    bench.ledger.reserve("model:idle", 900)
    bench.models = [ResidentModel("idle", 900, "ready", 0, 0.0, 1.0, 1.0)]
    await bench.takes(job, 200)
    assert bench.workers.held == {job.id}
    await bench.takes(job, 100)
    assert bench.workers.held == set()


async def test_a_job_for_which_there_is_no_room_is_stopped_and_its_next_attempt_reserves_more(
    bench: Bench,
) -> None:
    job = await bench.started(100)
    bench.ledger.reserve("model:busy", 850)
    bench.models = [ResidentModel("busy", 850, "ready", 1, 0.0, 1.0, 1.0)]
    await bench.takes(job, 200)
    await bench.takes(job, 210)
    await bench.watch.stop()
    ((stopped, error, retryable),) = bench.workers.given_up
    assert (stopped, error.code, retryable) == (job.id, "out_of_memory", True)
    assert "took 200 B of memory" in error.message
    assert "its next attempt reserves 220 B" in error.message
    assert (await bench.queue.get(job.id)).reserved_bytes == 220


async def test_of_two_that_outgrew_theirs_one_waits_for_what_the_other_leaves(
    bench: Bench,
) -> None:
    small, large = await bench.started(100), await bench.started(100)
    bench.ledger.reserve("model:busy", 800)
    bench.taken[100 + small.id] = 120
    await bench.takes(large, 150)
    await bench.watch.stop()
    assert [job_id for job_id, *_ in bench.workers.given_up] == [large.id]
    assert bench.workers.held == {small.id}
    bench.gone(large)
    bench.watch.follow([small])
    assert bench.workers.held == set()
    assert (bench.reserved(small), len(bench.workers.given_up)) == (132, 1)


async def test_a_job_larger_than_everything_fails_for_good(bench: Bench) -> None:
    job = await bench.started(100)
    await bench.takes(job, 1001)
    await bench.watch.stop()
    ((_, error, retryable),) = bench.workers.given_up
    assert not retryable
    assert "raise memory_bytes" in error.message


async def test_where_the_machine_runs_out_the_one_that_outgrew_most_is_stopped_alone(
    bench: Bench,
) -> None:
    jobs = [await bench.started(100) for _ in range(3)]
    bench.left_bytes = bench.watch.floor_bytes - 1
    bench.taken = dict(zip((100 + job.id for job in jobs), (120, 150, 90), strict=True))
    await bench.watch.look()
    await bench.watch.stop()
    assert [job_id for job_id, *_ in bench.workers.given_up] == [jobs[1].id]
    bench.gone(jobs[1])
    await bench.takes(jobs[0], 120)
    assert len(bench.workers.given_up) == 1
    await bench.takes(jobs[0], 140)  # still too little is left, and it outgrew what it got
    await bench.watch.stop()
    assert [job_id for job_id, *_ in bench.workers.given_up] == [jobs[1].id, jobs[0].id]


async def test_a_full_disk_does_not_keep_a_job_from_being_stopped(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(change: Any) -> None:
        raise DiskFullError

    job = await bench.started(100)
    bench.ledger.reserve("model:busy", 900)
    monkeypatch.setattr(bench.database, "write", full)
    await bench.takes(job, 200)
    await bench.watch.stop()
    assert len(bench.workers.given_up) == 1


async def test_a_job_that_succeeded_teaches_what_it_took_and_how_long(bench: Bench) -> None:
    job = await bench.started(100)
    for num_bytes in (40, 60, 50):
        await bench.takes(job, num_bytes)
    await bench.queue.complete(job.id, job.fence, JobResult(), lambda *_: ())
    bench.gone(job, seconds=9.0)
    assert await bench.learned() == [(100, 60, 9.0)]
    assert (await bench.started(100)).reserved_bytes == 93  # one of five that say 63


async def test_a_job_that_was_hardly_seen_does_not_teach_to_reserve_less(bench: Bench) -> None:
    job = await bench.started(100)
    await bench.takes(job, 40)
    await bench.queue.complete(job.id, job.fence, JobResult(), lambda *_: ())
    bench.gone(job)
    unseen = await bench.started(100)
    bench.gone(unseen)
    assert await bench.learned() == []


async def test_an_attempt_that_failed_teaches_only_to_reserve_more(bench: Bench) -> None:
    small, large = await bench.started(100), await bench.started(100)
    for _ in range(3):
        await bench.takes(small, 40)
        await bench.takes(large, 200)
    for job in (small, large):
        await bench.queue.fail(job.id, job.fence, LlmosError("no"), retryable=True)
        bench.gone(job)
    assert await bench.learned() == [(100, 200, None)]
    assert (await bench.queue.get(small.id)).reserved_bytes == 100
    assert (await bench.queue.get(large.id)).reserved_bytes == 220


async def test_the_time_of_a_job_that_took_more_than_one_attempt_is_not_learned(
    bench: Bench,
) -> None:
    first = await bench.started(100)
    await bench.queue.requeue(first.id, first.fence)
    bench.gone(first)
    job = await bench.queue.claim(first.id, 30.0, 1)
    assert job is not None
    bench.ledger.reserve(job_key(job.id), 100)
    bench.workers.running.add(job.id)
    bench.watch.follow([job])
    for _ in range(3):
        await bench.takes(job, 100)
    await bench.queue.complete(job.id, job.fence, JobResult(), lambda *_: ())
    bench.gone(job)
    assert await bench.learned() == [(100, 100, None)]


async def test_what_jobs_and_the_engines_take_is_told(bench: Bench) -> None:
    bench.residency.engine.pid, bench.other_residency.engine.pid = ENGINE, ENGINE + 1
    bench.taken |= {ENGINE: 400, ENGINE + 1: 50}
    job = await bench.started(100)
    await bench.takes(job, 150)
    await bench.takes(job, 120)
    (told,) = bench.watch.status()
    assert told["id"] == job.id
    sizes = ("predicted_bytes", "reserved_bytes", "measured_bytes", "peak_bytes", "file_bytes")
    assert [told[name] for name in sizes] == [100, 165, 120, 150, 3]
    assert (told["held"], told["error"]) == (False, pytest.approx(-1 / 3))
    assert bench.watch.engines == Footprint(450, 6)
    bench.residency.engine.pid = None
    await bench.watch.look()
    assert bench.watch.engines == Footprint(50, 3)


def test_every_engine_expects_of_models_what_was_measured(bench: Bench) -> None:
    found = [one.expectations for one in (bench.residency, bench.other_residency)]
    assert found == [bench.watch.measurements] * 2


# -- on another device than the CPU ---------------------------------------------------------------


@pytest.fixture
async def device_bench(queue: JobQueue, database: MemoryDatabase) -> AsyncIterator[Bench]:
    bench = Bench(queue, database, on_cpu=False)
    yield bench
    await bench.watch.stop()


@pytest.mark.parametrize("host_bytes", [10, 100, 5000])
async def test_what_a_job_takes_of_the_host_says_nothing_of_what_it_takes_of_a_device(
    device_bench: Bench, host_bytes: int
) -> None:
    bench = device_bench
    job = await bench.started(100)
    for _ in range(4):
        bench.workers.ran_s += SETTLED_S
        await bench.takes(job, host_bytes)
    assert (bench.reserved(job), bench.workers.held, bench.workers.given_up) == (100, set(), [])
    (told,) = bench.watch.status()
    assert (told["measured_bytes"], told["error"]) == (host_bytes, None)
    await bench.queue.complete(job.id, job.fence, JobResult(), lambda *_: ())
    bench.gone(job)
    assert await bench.learned() == []


async def test_what_was_learned_of_jobs_on_the_cpu_is_not_expected_of_a_device(
    bench: Bench, queue: JobQueue, database: MemoryDatabase
) -> None:
    queue.predict = lambda kind, params, declared_bytes: declared_bytes
    for _ in range(5):
        job = await bench.started(100)
        for _ in range(3):
            await bench.takes(job, 50)
        await bench.queue.complete(job.id, job.fence, JobResult(), lambda *_: ())
        bench.gone(job)
    await bench.watch.stop()
    device_bench = Bench(queue, database, on_cpu=False)
    await device_bench.watch.start()
    assert (await device_bench.started(100)).reserved_bytes == 100
    await device_bench.watch.stop()


async def test_where_the_host_runs_out_the_job_that_takes_most_of_it_is_stopped(
    device_bench: Bench,
) -> None:
    bench = device_bench
    jobs = [await bench.started(100) for _ in range(2)]
    bench.left_bytes = bench.watch.floor_bytes - 1
    bench.taken = dict(zip((100 + job.id for job in jobs), (20, 50), strict=True))
    await bench.watch.look()
    await bench.watch.stop()
    ((stopped, error, retryable),) = bench.workers.given_up
    assert (stopped, retryable) == (jobs[1].id, True)
    assert error.message.startswith("This job took 50 B of this machine's own memory")
    assert (await bench.queue.get(stopped)).reserved_bytes == 100


async def test_only_jobs_with_a_worker_here_are_watched(bench: Bench) -> None:
    job = await bench.queue.submit("train", {"bytes": 100}, owner="o")
    bench.watch.follow([job])
    assert bench.watch.status() == []
    assert bench.watch.wanted_bytes(job.id) == 0
    bench.watch.worker_ended(job, 1.0)
    assert await bench.learned() == []


async def test_what_was_learned_is_used_after_a_restart(
    bench: Bench, queue: JobQueue, database: MemoryDatabase
) -> None:
    job = await bench.started(100)
    for _ in range(3):
        await bench.takes(job, 200)
    await bench.queue.complete(job.id, job.fence, JobResult(), lambda *_: ())
    assert (await bench.queue.get(job.id)).state is JobState.SUCCEEDED
    bench.gone(job)
    await bench.watch.stop()
    again = Bench(queue, database)
    await again.watch.start()
    assert (await again.started(100)).reserved_bytes == 210
    await again.watch.stop()

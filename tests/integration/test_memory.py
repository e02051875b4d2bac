"""Jobs that take more memory than they declare, in real processes, on a small ledger."""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path

import pytest

from llmos.kernel.jobs import Job, JobEvent, JobState
from llmos.kernel.kernel import Kernel
from llmos.kernel.ledger import Ledger, job_key
from llmos.kernel.residency import ModelSpec
from llmos.settings import Settings
from llmos.storage.memory import MemoryDatabase

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="USS has no shared pages")

CHILDREN = Path(__file__).parent
MB = 2**20
CAPACITY_BYTES = 400 * MB
DECLARED_BYTES = 80 * MB
TAKEN_BYTES = 150 * MB
BUSY = "model:busy"


class NoDelay(random.Random):
    """Draws retries at once."""

    def uniform(self, a: float, b: float) -> float:
        return a


class Bench:
    """A kernel whose memory watch looks when it is told to, rather than every second."""

    def __init__(self, home: Path) -> None:
        from kernel_children.memory_handlers import KINDS

        self.settings = Settings(home=home, threads=1, memory_bytes=CAPACITY_BYTES)
        self.database = MemoryDatabase()
        self.go_on = home / "go-on"
        self.kernel = Kernel(
            self.database,
            Ledger(self.settings.memory_bytes),
            KINDS,
            self.settings,
            time.time,
            lambda connection, job, result: None,
            rng=NoDelay(),
            engine_module="kernel_children.echo_host",
        )
        self.gone: asyncio.Queue[Job] = asyncio.Queue()
        """Attempts whose workers are gone, and were taken note of."""
        self._note_end = self.kernel.memory.worker_ended
        self.kernel.memory.worker_ended = self._worker_ended

    def _worker_ended(self, job: Job, seconds: float) -> None:
        self._note_end(job, seconds)
        self.gone.put_nowait(job)

    async def taken(self, num_bytes: int = TAKEN_BYTES) -> Job:
        """Return a job that has just taken so much."""
        job = await self.kernel.jobs.submit(
            "swell",
            {"bytes": DECLARED_BYTES, "take_bytes": num_bytes, "until": str(self.go_on)},
            owner="o",
        )
        await self.until(job, lambda event: event.data.get("line") == "taken")
        return job

    async def until(self, job: Job, matches: Callable[[JobEvent], bool]) -> None:
        async with aclosing(self.kernel.follow(job.id)) as events:
            async for event in events:
                if matches(event):
                    return
        raise AssertionError(f"the job ended first: {await self.kernel.jobs.get(job.id)}")

    async def finished(self, job: Job) -> Job:
        """Let jobs end, and return this one then, its worker gone."""
        self.go_on.touch()
        async with aclosing(self.kernel.follow(job.id)) as events:
            async for _ in events:
                pass
        ended = await self.kernel.jobs.get(job.id)
        while (await self.gone.get()).attempt != ended.attempt:
            pass
        return ended

    def reserved(self, job: Job) -> int | None:
        return self.kernel.ledger.reserved(job_key(job.id))


@pytest.fixture
async def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    monkeypatch.setenv("PYTHONPATH", str(CHILDREN))
    monkeypatch.syspath_prepend(str(CHILDREN))
    monkeypatch.setattr("llmos.kernel.memory.SAMPLE_S", 3600.0)
    bench = Bench(tmp_path)
    await bench.kernel.start()
    yield bench
    await bench.kernel.stop()
    bench.database.close()


async def test_a_jobs_reservation_grows_with_it_and_the_next_one_reserves_as_much(
    bench: Bench,
) -> None:
    job = await bench.taken()
    assert bench.reserved(job) == DECLARED_BYTES
    await bench.kernel.memory.look()
    grown_bytes = bench.reserved(job)
    assert grown_bytes is not None
    assert TAKEN_BYTES * 1.1 <= grown_bytes < TAKEN_BYTES * 1.6  # the interpreter takes some, too
    ended = await bench.finished(job)
    assert (ended.state, ended.failures) == (JobState.SUCCEEDED, 0)
    await bench.kernel.memory.measurements.written()
    again = await bench.kernel.jobs.submit(
        "swell", {"bytes": DECLARED_BYTES, "take_bytes": 1, "until": ""}, owner="o"
    )
    assert TAKEN_BYTES < again.reserved_bytes < grown_bytes


async def test_a_job_for_which_there_is_no_room_is_stopped_and_starts_again_with_more(
    bench: Bench,
) -> None:
    bench.kernel.ledger.reserve(BUSY, CAPACITY_BYTES - DECLARED_BYTES)
    job = await bench.taken()
    await bench.kernel.memory.look()
    await bench.until(job, lambda event: "error" in event.data)
    waiting = await bench.kernel.jobs.get(job.id)
    assert (waiting.state, waiting.attempt, waiting.failures) == (JobState.QUEUED, 1, 1)
    assert waiting.reserved_bytes >= TAKEN_BYTES * 1.1
    assert waiting.error is not None
    assert waiting.error["code"] == "out_of_memory"
    assert "its next attempt reserves" in waiting.error["message"]
    bench.kernel.ledger.release(BUSY)
    ended = await bench.finished(job)
    assert (ended.state, ended.attempt) == (JobState.SUCCEEDED, 2)
    assert bench.kernel.ledger.reserved_bytes == 0


async def test_a_job_larger_than_the_memory_there_is_fails_for_good(bench: Bench) -> None:
    job = await bench.taken(CAPACITY_BYTES + MB)
    await bench.kernel.memory.look()
    ended = await bench.finished(job)
    assert (ended.state, ended.attempt) == (JobState.FAILED, 1)
    assert ended.error is not None
    assert "raise memory_bytes" in ended.error["message"]


async def test_an_idle_model_makes_room_for_a_job_that_is_held_meanwhile(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel, changed = bench.kernel, asyncio.Event()
    model = ModelSpec("m", "echo", "/nowhere", {"weights_bytes": 300 * MB}, 300 * MB, "m")
    async with kernel.residency.lease(model):
        job = await bench.taken()
    monkeypatch.setattr(kernel.memory, "_on_change", changed.set)  # and the kernel sleeps on
    await kernel.memory.look()
    assert changed.is_set()
    assert kernel.workers.held(job.id) == ("memory",)
    assert bench.reserved(job) == DECLARED_BYTES
    changed.clear()
    await kernel.step()
    await changed.wait()
    assert kernel.workers.held(job.id) == ()
    assert kernel.residency.status() == []
    assert (bench.reserved(job) or 0) >= TAKEN_BYTES * 1.1
    ended = await bench.finished(job)
    assert (ended.state, ended.failures) == (JobState.SUCCEEDED, 0)

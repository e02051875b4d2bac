"""Holding and preempting real worker processes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
import pytest
from tests.integration.kernels import Harness

from llmos.kernel import endings, holds
from llmos.kernel.jobs import Job, JobState
from llmos.kernel.kernel import LONGEST_WAIT_S
from llmos.kernel.residency import ModelSpec
from llmos.kernel.yielding import TURN_S
from llmos.types import Priority

CHILDREN = Path(__file__).parent
MODEL = ModelSpec("m", "echo", "/nowhere", {}, 100, "m")
CAPACITY = 10**12
STOPPED = psutil.STATUS_STOPPED


@pytest.fixture(autouse=True)
def children(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(CHILDREN))
    monkeypatch.syspath_prepend(str(CHILDREN))


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[Harness]:
    harness = Harness(tmp_path, yield_s=0.0, threads=2)
    await harness.kernel.start()
    yield harness
    await harness.close()


async def until(is_so: Callable[[], bool]) -> None:
    """Wait for what another process, or the system, does."""
    while not is_so():  # noqa: ASYNC110 - nothing tells of it
        await asyncio.sleep(0.005)


def worker_of(harness: Harness, job: Job) -> psutil.Process:
    return psutil.Process(harness.kernel.workers.pid(job.id))


async def stop(harness: Harness, job: Job) -> psutil.Process:
    """Hold a job that does not answer, until its worker is stopped."""
    worker = worker_of(harness, job)
    harness.kernel.workers.hold(job.id, "interactive")
    await until(lambda: worker.status() == STOPPED)
    return worker


async def test_an_interactive_request_holds_a_job_at_once_and_lets_it_go_on_after(
    harness: Harness,
) -> None:
    """Before anything is read or loaded."""
    job = await harness.submit("give_way")
    await harness.until_logged(job, "before")
    lease = harness.kernel.residency.lease(MODEL, Priority.INTERACTIVE)
    asking = asyncio.ensure_future(lease.__aenter__())
    await asyncio.sleep(0)
    assert not asking.done()
    assert harness.kernel.workers.held(job.id) == ("interactive",)
    await asking
    assert (await harness.kernel.jobs.get(job.id)).state is JobState.RUNNING
    await harness.until_logged(job, "pausing")
    await lease.__aexit__(None, None, None)
    assert (await harness.ended(job)).result["resumed"]
    assert harness.kernel.workers.held(job.id) == ()


async def test_a_job_that_starts_just_after_a_request_is_held_for_that_moment_alone(
    tmp_path: Path,
) -> None:
    """The kernel looks after it by itself, not only when it would look anyway."""
    harness = Harness(tmp_path, yield_s=3.0)
    await harness.kernel.start()
    async with harness.kernel.residency.lease(MODEL, Priority.INTERACTIVE):
        pass
    job = await harness.submit("give_way")
    await until(lambda: harness.kernel.workers.held(job.id) == ("interactive",))
    async with asyncio.timeout(0.8 * LONGEST_WAIT_S):
        await until(lambda: harness.kernel.workers.held(job.id) == ())
    await harness.close()


async def test_short_requests_one_after_another_cost_no_step_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The queue is read again when there has been none for a while; the job goes on then."""
    harness = Harness(tmp_path, yield_s=2.0)
    await harness.kernel.start()
    job = await harness.submit("steps")
    await harness.until_logged(job, "stepping")
    async with harness.kernel.residency.lease(MODEL, Priority.INTERACTIVE):
        await harness.kernel.jobs.view()
    num_steps, step = 0, harness.kernel.step

    async def counted() -> float:
        nonlocal num_steps
        num_steps += 1
        return await step()

    monkeypatch.setattr(harness.kernel, "step", counted)
    for _ in range(50):
        async with harness.kernel.residency.lease(MODEL, Priority.INTERACTIVE):
            await harness.kernel.jobs.view()
        await harness.kernel.jobs.view()
        assert harness.kernel.workers.held(job.id) == ("interactive",)
    assert num_steps <= 2
    async with asyncio.timeout(0.8 * LONGEST_WAIT_S):
        await until(lambda: harness.kernel.workers.held(job.id) == ())
    await harness.close()


async def test_requests_of_other_classes_hold_nothing(harness: Harness) -> None:
    job = await harness.submit("steps")
    await harness.until_logged(job, "stepping")
    async with harness.kernel.residency.lease(MODEL, Priority.STANDARD):
        assert harness.kernel.workers.held(job.id) == ()


async def test_a_light_job_goes_on_beside_interactive_requests(harness: Harness) -> None:
    async with harness.kernel.residency.lease(MODEL, Priority.INTERACTIVE):
        job = await harness.ended(await harness.submit("light", value=21))
        assert job.result["doubled"] == 42


async def test_a_worker_that_does_not_answer_is_stopped_with_its_lease_frozen(
    harness: Harness,
) -> None:
    job = await harness.submit("wait_for_cancel")
    await harness.until_logged(job, "waiting")
    worker = await stop(harness, job)
    before = await harness.kernel.jobs.get(job.id)
    harness.monotonic.ahead += 100.0
    await harness.kernel.step()
    held = await harness.kernel.jobs.get(job.id)
    assert (held.state, held.attempt, held.failures) == (JobState.RUNNING, 1, 0)
    assert held.lease_expires_at > before.lease_expires_at
    harness.kernel.workers.release(job.id, "interactive")
    await until(lambda: worker.status() != STOPPED)
    await harness.kernel.step()
    assert (await harness.kernel.jobs.get(job.id)).state is JobState.RUNNING
    await harness.kernel.jobs.cancel(job.id, actor="a")
    ended = await harness.ended(job)
    assert ended.state is JobState.CANCELLED
    assert 0.0 < ended.compute_s < 50.0


async def test_a_worker_that_answers_is_not_stopped(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holds, "PAUSE_GRACE_S", 60.0)
    job = await harness.submit("steps")
    await harness.until_logged(job, "stepping")

    def counts_no_time() -> bool:
        before = harness.kernel.workers.standing(job.id).ran_s
        harness.monotonic.ahead += 0.01
        return harness.kernel.workers.standing(job.id).ran_s == before

    assert not counts_no_time()
    harness.kernel.workers.hold(job.id, "user")
    await until(counts_no_time)
    assert worker_of(harness, job).status() != STOPPED


@pytest.mark.parametrize("deaf", [False, True])
async def test_a_stopped_job_is_cancelled_within_five_seconds(harness: Harness, deaf: bool) -> None:
    job = await harness.submit("wait_for_cancel", deaf=deaf)
    await harness.until_logged(job, "waiting")
    await stop(harness, job)
    asked_at = time.monotonic()
    await harness.kernel.jobs.cancel(job.id, actor="a")
    assert (await harness.ended(job)).state is JobState.CANCELLED
    assert time.monotonic() - asked_at <= 5.0


async def test_a_kernel_that_stops_queues_a_stopped_job_again_and_leaves_no_process(
    harness: Harness,
) -> None:
    job = await harness.submit("wait_for_cancel")
    await harness.until_logged(job, "waiting")
    worker = await stop(harness, job)
    await harness.kernel.stop()
    assert not worker.is_running()
    assert (await harness.kernel.jobs.get(job.id)).state is JobState.QUEUED


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux kills children with their parent")
def test_a_killed_server_leaves_no_stopped_worker_behind(tmp_path: Path) -> None:
    params = json.dumps({"hold": "waiting"})
    command = [sys.executable, "-m", "kernel_children.server", str(tmp_path)]
    command += ["wait_for_cancel", params]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        events = (json.loads(line) for line in server.stdout)
        waiting = next(event for event in events if event["data"].get("line") == "waiting")
        worker = psutil.Process(waiting["worker"])
        while worker.status() != STOPPED:
            time.sleep(0.005)
        server.kill()
    with contextlib.suppress(psutil.NoSuchProcess):
        worker.wait(timeout=10)
    assert not worker.is_running()


async def test_the_seconds_of_every_attempt_are_kept_the_failed_ones_too(harness: Harness) -> None:
    job = await harness.submit("flaky")
    ended = await harness.ended(job)
    assert (ended.state, ended.attempt) == (JobState.SUCCEEDED, 3)
    once = await harness.ended(await harness.submit("double", value=1))
    assert ended.compute_s > 1.5 * once.compute_s > 0.0


async def test_a_job_of_a_better_class_gets_the_worker_of_one_that_can_go_on_later(
    tmp_path: Path,
) -> None:
    harness = Harness(tmp_path, lease_s=1000.0)
    await harness.kernel.start()
    first = await harness.submit("resumable", priority=Priority.BACKGROUND)
    await harness.until_logged(first, "working")
    second = await harness.submit("double", value=21)
    assert (await harness.kernel.jobs.get(second.id)).state is JobState.QUEUED
    harness.monotonic.ahead += TURN_S
    await harness.kernel.step()
    assert (await harness.ended(second)).result["doubled"] == 42
    job = await harness.ended(first)
    assert job.result["went_on"] == "after attempt 1"
    assert (job.state, job.attempt, job.failures) == (JobState.SUCCEEDED, 2, 0)
    await harness.close()


async def test_on_a_device_of_its_own_memory_a_job_gives_that_up_and_stands_by(
    tmp_path: Path,
) -> None:
    """A model of a better class is loaded in its place, and it goes on in the same attempt."""
    harness = Harness(
        tmp_path, on_cpu=False, capacity_bytes=CAPACITY, lease_s=1000.0, yield_s=0.0, idle_s=0.0
    )
    await harness.kernel.start()
    first = await harness.submit("parkable", priority=Priority.BACKGROUND, bytes=CAPACITY - 50)
    await harness.until_logged(first, "working")
    worker = worker_of(harness, first)
    async with harness.kernel.residency.lease(MODEL, Priority.INTERACTIVE):
        assert harness.kernel.workers.held(first.id) == ("interactive", "preempted")
        assert harness.kernel.ledger.reservations() == {"model:m:m": 100}
    job = await harness.ended(first)
    assert job.result["moved"] == ["away", "back"]
    assert (job.state, job.attempt, job.failures) == (JobState.SUCCEEDED, 1, 0)
    await until(lambda: not worker.is_running())
    await harness.close()


async def test_a_job_that_stands_by_takes_no_memory_back_while_it_is_paused(
    tmp_path: Path,
) -> None:
    harness = Harness(
        tmp_path, on_cpu=False, capacity_bytes=CAPACITY, lease_s=1000.0, yield_s=0.0, idle_s=0.0
    )
    await harness.kernel.start()
    job = await harness.submit("parkable", priority=Priority.BACKGROUND, bytes=CAPACITY - 50)
    await harness.until_logged(job, "working")
    async with harness.kernel.residency.lease(MODEL, Priority.INTERACTIVE):
        await harness.kernel.jobs.set_paused(job.id, True, actor="a")
    await until(lambda: harness.kernel.ledger.reserved_bytes == 0)
    await harness.kernel.step()
    assert harness.kernel.ledger.reserved_bytes == 0
    assert harness.kernel.workers.standing(job.id).is_parked
    await harness.kernel.jobs.set_paused(job.id, False, actor="a")
    assert (await harness.ended(job)).result["moved"] == ["away", "back"]
    await harness.close()


async def test_a_job_that_cannot_give_its_memory_up_leaves_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endings, "LEAVE_WITHIN_S", 1000.0)
    harness = Harness(tmp_path, on_cpu=False, capacity_bytes=CAPACITY, yield_s=0.0, idle_s=0.0)
    await harness.kernel.start()
    job = await harness.submit("resumable", priority=Priority.BACKGROUND)
    await harness.until_logged(job, "working")
    harness.kernel.workers.preempt(job.id)
    assert (await harness.ended(job)).result["went_on"] == "after attempt 1"
    await harness.close()


async def test_a_job_that_stands_by_can_be_cancelled(tmp_path: Path) -> None:
    harness = Harness(tmp_path, on_cpu=False, capacity_bytes=CAPACITY, lease_s=1000.0)
    await harness.kernel.start()
    job = await harness.submit("parkable", priority=Priority.BACKGROUND, bytes=CAPACITY - 50)
    await harness.until_logged(job, "working")
    async with harness.kernel.residency.lease(MODEL, Priority.INTERACTIVE):
        await harness.kernel.jobs.cancel(job.id, actor="a")
        assert (await harness.ended(job)).state is JobState.CANCELLED
    await harness.close()


async def test_the_engine_gets_the_cores_of_jobs_that_stand_still(
    harness: Harness, tmp_path: Path
) -> None:
    log_path = tmp_path / "logs" / "engine.log"

    async def until_threads(*counts: int) -> None:
        lines = [f"threads {count}" for count in counts]
        await until(lambda: log_path.exists() and log_path.read_text().splitlines() == lines)

    async with harness.kernel.residency.lease(MODEL):
        await until_threads(2)
        job = await harness.submit("steps")
        await harness.until_logged(job, "stepping")
        await until_threads(2, 1)
        async with harness.kernel.residency.lease(MODEL, Priority.INTERACTIVE):
            await until_threads(2, 1, 2)
        await until_threads(2, 1, 2, 1)

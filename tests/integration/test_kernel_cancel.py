"""However a job is stuck, and in whatever state it is, cancelling it ends it within 5 seconds."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
from tests.integration.kernels import Harness

from llmos.kernel.jobs import JobState

LIMIT_S = 5.0


@pytest.fixture(autouse=True)
def children(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[Harness]:
    harness = Harness(tmp_path, max_workers=2)
    await harness.kernel.start()
    yield harness
    await harness.close()


async def test_two_jobs_that_hear_nothing_and_hold_on_with_a_child_end_in_time(
    harness: Harness,
) -> None:
    """They ignore every signal that can be, leave a child that holds their socket open, and
    compute without end; one is paused besides."""
    jobs = [await harness.submit("obstinate") for _ in range(2)]
    for job in jobs:
        await harness.until_logged(job, "begun")
    pids = [harness.kernel.workers.pid(job.id) for job in jobs]
    processes = [psutil.Process(pid) for pid in pids]
    processes += [child for process in processes for child in process.children(recursive=True)]
    await harness.kernel.jobs.set_paused(jobs[1].id, True, actor="a")
    asked_at = time.monotonic()
    for job in jobs:
        await harness.kernel.jobs.cancel(job.id, actor="a")
    for job in jobs:
        assert (await harness.ended(job)).state is JobState.CANCELLED
    assert time.monotonic() - asked_at <= LIMIT_S
    gone, alive = psutil.wait_procs(processes, timeout=10)
    assert (len(gone), alive) == (4, [])


async def test_a_job_that_does_not_run_ends_as_soon_as_it_is_cancelled(harness: Harness) -> None:
    running = [await harness.submit("wait_for_cancel") for _ in range(2)]
    for job in running:
        await harness.until_logged(job, "waiting")
    queued = await harness.submit("double", value=1)
    waiting = await harness.kernel.jobs.submit("double", {}, owner="o", after=[queued.id])
    assert (queued.state, waiting.state) == (JobState.QUEUED, JobState.WAITING)
    for job in (waiting, queued):
        ended = await harness.kernel.jobs.cancel(job.id, actor="a")
        assert ended.state is JobState.CANCELLED
        assert harness.kernel.workers.pid(job.id) is None


async def test_an_attempt_whose_worker_is_gone_is_cancelled_without_waiting_for_its_lease(
    tmp_path: Path,
) -> None:
    """As when the disk was full at the moment in which its end was to be kept."""
    harness = Harness(tmp_path)
    job = await harness.submit("double", value=1)
    held = await harness.kernel.jobs.claim(job.id, lease_s=1000.0, threads=1)
    await harness.kernel.jobs.cancel(job.id, actor="a")
    await harness.kernel.step()
    ended = await harness.kernel.jobs.get(job.id)
    assert (ended.state, ended.fence) == (JobState.CANCELLED, held.fence)
    await harness.close()

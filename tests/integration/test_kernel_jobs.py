from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import update
from tests.integration.kernels import Harness, LongDelay

from llmos.errors import (
    ConflictError,
    DiskFullError,
    InvalidRequestError,
    OutOfMemoryError,
)
from llmos.kernel.jobs import JobState
from llmos.kernel.view import CANDIDATES
from llmos.storage.schema import jobs

CHILDREN = Path(__file__).parent


@pytest.fixture(autouse=True)
def children(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(CHILDREN))
    monkeypatch.syspath_prepend(str(CHILDREN))


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[Harness]:
    harness = Harness(tmp_path)
    await harness.kernel.start()
    yield harness
    await harness.close()


async def test_a_job_runs_with_its_fixed_threads_and_keeps_its_result(harness: Harness) -> None:
    job = await harness.ended(await harness.submit("double", value=21))
    assert job.state is JobState.SUCCEEDED
    assert job.result == {"doubled": 42, "artifacts": []}
    assert (job.attempt, job.failures, job.threads) == (1, 0, 1)
    assert await harness.logged(job) == ["threads 1 1"]
    assert not (harness.settings.home / "jobs" / str(job.id)).exists()
    assert harness.kernel.ledger.reserved_bytes == 0


async def test_bad_params_are_refused_before_anything_is_written(harness: Harness) -> None:
    with pytest.raises(InvalidRequestError, match="refuse"):
        await harness.submit("double", refuse=1)
    with pytest.raises(InvalidRequestError, match="Did you mean 'double'"):
        await harness.submit("doubel")
    with pytest.raises(OutOfMemoryError, match="memory_bytes"):
        await harness.submit("double", bytes=1001)
    assert await harness.kernel.jobs.list() == []


async def test_a_killed_worker_costs_one_attempt_and_the_next_resumes(harness: Harness) -> None:
    submitted = await harness.submit("count", steps=5, stuck_at=3)
    await harness.until_logged(submitted, "stuck")
    os.kill(harness.kernel.workers.pid(submitted.id), signal.SIGKILL)
    job = await harness.ended(submitted)
    assert job.state is JobState.SUCCEEDED
    assert (job.attempt, job.failures) == (2, 1)
    assert await harness.logged(job) == ["from step 0", "stuck", "from step 3"]
    assert harness.committed == [(job.id, "count")]
    events = await harness.kernel.jobs.events(job.id)
    metrics = [event.data for event in events if event.type == "metric"]
    assert [metric["step"] for metric in metrics] == [1, 2, 3, 4, 5]
    assert metrics[3] == {"step": 4, "loss": 0.25}
    states = [event.data["state"] for event in events if event.type == "state"]
    assert states == ["queued", "running", "queued", "running", "succeeded"]
    errors = [event.data["error"] for event in events if "error" in event.data]
    assert ["SIGKILL" in error["message"] for error in errors] == [True]
    assert job.error is None


def run_and_kill_server(
    home: Path, is_moment: Callable[[dict[str, Any]], bool], **params: int
) -> int | None:
    """Run a server on the counting job and kill it at a moment; return its worker's process id."""
    script = [sys.executable, "-m", "kernel_children.server"]
    command = [*script, str(home), "count", json.dumps(params)]
    worker = None
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        for line in server.stdout:
            event = json.loads(line)
            worker = event["worker"] or worker
            if is_moment(event):
                break
        server.kill()
    return worker


async def test_a_killed_server_leaves_no_worker_and_the_next_server_finishes_the_job(
    tmp_path: Path,
) -> None:
    worker = run_and_kill_server(
        tmp_path, lambda event: event["data"].get("line") == "stuck", steps=5, stuck_at=3
    )
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(worker).wait(timeout=10)
    harness = Harness(tmp_path)
    (job,) = await harness.kernel.jobs.list()
    assert job.state is JobState.RUNNING
    await harness.kernel.start()
    ended = await harness.ended(job)
    assert ended.state is JobState.SUCCEEDED
    assert (ended.attempt, ended.failures) == (2, 0)
    assert ended.fence > job.fence
    assert await harness.logged(job) == ["from step 0", "stuck", "from step 3"]
    assert harness.committed == [(job.id, "count")]
    await harness.close()


@pytest.mark.soak
@pytest.mark.parametrize("moment", range(1, 8))
async def test_a_server_killed_at_any_event_loses_and_repeats_nothing(
    tmp_path: Path, moment: int
) -> None:
    seen = itertools.count(1)
    run_and_kill_server(tmp_path, lambda event: next(seen) == moment, steps=5)
    harness = Harness(tmp_path)
    (job,) = await harness.kernel.jobs.list()
    committed_already = job.state is JobState.SUCCEEDED
    await harness.kernel.start()
    ended = await harness.ended(job)
    assert (ended.state, ended.result["steps"]) == (JobState.SUCCEEDED, 5)
    assert harness.committed == ([] if committed_already else [(job.id, "count")])
    await harness.close()


async def test_a_stopped_kernel_queues_running_jobs_again(harness: Harness, tmp_path: Path) -> None:
    submitted = await harness.submit("count", steps=5, stuck_at=3)
    await harness.until_logged(submitted, "stuck")
    worker = psutil.Process(harness.kernel.workers.pid(submitted.id))
    await harness.kernel.stop()
    assert not worker.is_running()
    assert (await harness.kernel.jobs.get(submitted.id)).state is JobState.QUEUED
    again = Harness(tmp_path)
    await again.kernel.start()
    job = await again.ended(submitted)
    assert (job.state, job.attempt, job.failures) == (JobState.SUCCEEDED, 2, 0)
    await again.close()


async def test_a_paused_job_waits_for_its_user_whatever_becomes_of_the_server(
    harness: Harness, tmp_path: Path
) -> None:
    submitted = await harness.submit("count", steps=5, stuck_at=3)
    await harness.until_logged(submitted, "stuck")
    await harness.kernel.jobs.set_paused(submitted.id, True, actor="a")
    await harness.kernel.stop()
    again = Harness(tmp_path)
    await again.kernel.start()
    other = await again.ended(await again.submit("double", value=1))
    assert other.state is JobState.SUCCEEDED
    paused = await again.kernel.jobs.get(submitted.id)
    assert (paused.state, paused.attempt) == (JobState.PAUSED, 1)
    await again.kernel.jobs.set_paused(submitted.id, False, actor="a")
    job = await again.ended(submitted)
    assert (job.state, job.attempt, job.failures) == (JobState.SUCCEEDED, 2, 0)
    assert await again.logged(job) == ["from step 0", "stuck", "from step 3"]
    await again.close()


async def test_the_late_result_of_a_fenced_worker_is_refused(
    harness: Harness, tmp_path: Path
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    submitted = await harness.submit("gated", pipe=str(pipe))
    await harness.until_logged(submitted, "gated")
    held = await harness.kernel.jobs.get(submitted.id)
    await harness.kernel.jobs.requeue(held.id, held.fence)
    await asyncio.to_thread(pipe.write_text, "go")
    job = await harness.ended(submitted)
    assert job.state is JobState.SUCCEEDED
    assert job.result["attempt"] == 2


async def test_a_silent_worker_is_replaced_when_its_lease_runs_out(harness: Harness) -> None:
    submitted = await harness.submit("count", steps=5, stuck_at=3)
    await harness.until_logged(submitted, "stuck")
    os.kill(harness.kernel.workers.pid(submitted.id), signal.SIGSTOP)
    harness.monotonic.ahead += 31.0
    await harness.kernel.step()
    job = await harness.ended(submitted)
    assert (job.state, job.attempt, job.failures) == (JobState.SUCCEEDED, 2, 1)
    events = await harness.kernel.jobs.events(submitted.id)
    (error,) = [event.data["error"] for event in events if "error" in event.data]
    assert "no sign of life" in error["message"]
    assert harness.committed == [(job.id, "count")]


async def test_a_handler_that_listens_is_cancelled_by_asking(harness: Harness) -> None:
    submitted = await harness.submit("wait_for_cancel")
    await harness.until_logged(submitted, "waiting")
    asked = await harness.kernel.jobs.cancel(submitted.id, actor="a")
    assert asked.cancel_requested
    job = await harness.ended(submitted)
    assert job.state is JobState.CANCELLED


async def test_a_handler_that_does_not_listen_is_killed_within_five_seconds(
    harness: Harness,
) -> None:
    submitted = await harness.submit("wait_for_cancel", deaf=True)
    await harness.until_logged(submitted, "waiting")
    asked_at = time.monotonic()
    await harness.kernel.jobs.cancel(submitted.id, actor="a")
    job = await harness.ended(submitted)
    assert job.state is JobState.CANCELLED
    assert time.monotonic() - asked_at <= 5.0


async def test_a_running_job_gives_way_and_goes_on(harness: Harness) -> None:
    submitted = await harness.submit("give_way")
    await harness.until_logged(submitted, "before")
    paused = await harness.kernel.jobs.set_paused(submitted.id, True, actor="a")
    assert paused.state is JobState.PAUSED
    await harness.until_logged(submitted, "pausing")
    await harness.kernel.jobs.set_paused(submitted.id, False, actor="a")
    job = await harness.ended(submitted)
    assert job.result["resumed"]


@pytest.mark.parametrize(
    ("kind", "attempts", "code", "message"),
    [
        ("mistake", 1, "invalid_data", "The data is empty."),
        ("own_mistake", 1, "own_mistake", "The loss is no number."),
        ("absent", 1, "internal_error", "kernel_children.handlers:absent cannot be used"),
        ("crash", 3, "internal_error", "ZeroDivisionError: boom"),
        ("die", 3, "job_failed", "was killed by SIGKILL"),
        ("unsendable", 3, "internal_error", "TypeError"),
    ],
)
async def test_a_job_that_fails_keeps_its_error(
    harness: Harness, kind: str, attempts: int, code: str, message: str
) -> None:
    job = await harness.ended(await harness.submit(kind))
    assert job.state is JobState.FAILED
    assert job.attempt == attempts
    assert job.error["code"] == code
    assert message in job.error["message"]
    assert harness.kernel.ledger.reserved_bytes == 0


async def test_the_traceback_of_a_crash_is_in_the_jobs_log_file(harness: Harness) -> None:
    job = await harness.ended(await harness.submit("crash"))
    text = (harness.settings.logs_path / f"job-{job.id}.log").read_text()
    assert text.count("ZeroDivisionError: boom") == 3


async def test_what_a_crashed_worker_printed_last_is_in_the_jobs_log(harness: Harness) -> None:
    job = await harness.ended(await harness.submit("die_loudly"))
    assert (job.state, job.attempt) == (JobState.FAILED, 3)
    words = [f"line {number}" for number in range(11, 30)] + ["out of luck"]
    assert await harness.logged(job) == ["begun", *words] * 3


@pytest.mark.parametrize("where", ["params", "kind"])
async def test_a_job_that_no_worker_can_be_told_fails_at_once_and_leaves_no_process(
    tmp_path: Path, where: str
) -> None:
    harness = Harness(tmp_path)
    value = {"value": 10**400} if where == "params" else "of another version"
    submitted = await harness.submit("double", value=1)
    change = update(jobs).where(jobs.c.id == submitted.id).values({where: value})
    await harness.database.write(lambda connection: connection.execute(change))
    before = set(psutil.Process().children())
    await harness.kernel.start()
    job = await harness.ended(submitted)
    assert (job.state, job.attempt, job.error["code"]) == (JobState.FAILED, 1, "invalid_request")
    assert ("params" if where == "params" else "no job kind") in job.error["message"]
    assert set(psutil.Process().children()) == before
    assert (await harness.ended(await harness.submit("double", value=1))).error is None
    assert harness.kernel.ledger.reserved_bytes == 0
    await harness.close()


async def test_a_light_job_does_not_wait_for_a_long_ordinary_one(harness: Harness) -> None:
    training = await harness.submit("wait_for_cancel")
    await harness.until_logged(training, "waiting")
    waiting = await harness.submit("double", value=1)
    job = await harness.ended(await harness.submit("light", value=21))
    assert job.result["doubled"] == 42
    assert (await harness.kernel.jobs.get(waiting.id)).state is JobState.QUEUED
    await harness.kernel.jobs.cancel(training.id, actor="a")
    assert (await harness.ended(waiting)).state is JobState.SUCCEEDED


@pytest.fixture
async def patient(tmp_path: Path) -> AsyncIterator[Harness]:
    """A kernel that does not get to a second attempt."""
    harness = Harness(tmp_path, LongDelay())
    await harness.kernel.start()
    yield harness
    await harness.close()


async def test_a_job_cancelled_between_attempts_leaves_no_checkpoint(patient: Harness) -> None:
    submitted = await patient.submit("count", steps=5, stuck_at=3)
    await patient.until_logged(submitted, "stuck")
    checkpoint = patient.settings.home / "jobs" / str(submitted.id)
    os.kill(patient.kernel.workers.pid(submitted.id), signal.SIGKILL)
    await patient.until(submitted, lambda event: "error" in event.data)
    assert (checkpoint / "step").read_text() == "3"
    job = await patient.kernel.jobs.cancel(submitted.id, actor="a")
    assert job.state is JobState.CANCELLED
    assert not checkpoint.exists()


async def test_a_job_whose_lease_ran_out_for_good_leaves_no_checkpoint(tmp_path: Path) -> None:
    harness = Harness(tmp_path)
    submitted = await harness.submit("count", steps=5)
    held = await harness.kernel.jobs.claim(submitted.id, lease_s=-1.0, threads=1)
    only = update(jobs).where(jobs.c.id == held.id).values(max_attempts=1)
    await harness.database.write(lambda connection: connection.execute(only))
    checkpoint = tmp_path / "jobs" / str(held.id)
    checkpoint.mkdir(parents=True)
    await harness.kernel.step()
    job = await harness.kernel.jobs.get(held.id)
    assert (job.state, job.error["code"]) == (JobState.FAILED, "job_failed")
    assert not checkpoint.exists()
    await harness.close()


async def test_a_cancelled_worker_that_a_stop_ends_leaves_no_checkpoint(harness: Harness) -> None:
    submitted = await harness.submit("wait_for_cancel", deaf=True)
    await harness.until_logged(submitted, "waiting")
    checkpoint = harness.settings.home / "jobs" / str(submitted.id)
    assert checkpoint.exists()
    await harness.kernel.jobs.cancel(submitted.id, actor="a")
    await harness.kernel.stop()
    assert (await harness.kernel.jobs.get(submitted.id)).state is JobState.CANCELLED
    assert not checkpoint.exists()


async def test_an_error_that_may_pass_is_tried_again(harness: Harness) -> None:
    job = await harness.ended(await harness.submit("flaky"))
    assert (job.state, job.attempt, job.failures) == (JobState.SUCCEEDED, 3, 2)
    events = await harness.kernel.jobs.events(job.id)
    errors = [event.data["error"] for event in events if "error" in event.data]
    assert errors == [{"code": "engine_error", "message": "not now"}] * 2


async def test_a_worker_whose_children_outlive_it_is_noticed_and_they_are_ended(
    harness: Harness,
) -> None:
    job = await harness.ended(await harness.submit("forking"))
    assert (job.state, job.attempt) == (JobState.SUCCEEDED, 2)


async def test_jobs_run_in_their_turn_and_after_what_they_wait_for(harness: Harness) -> None:
    first = await harness.submit("double", value=1)
    second = await harness.kernel.jobs.submit("double", {"value": 2}, owner="o", after=[first.id])
    third = await harness.submit("mistake")
    fourth = await harness.kernel.jobs.submit("double", {"value": 4}, owner="o", after=[third.id])
    assert (await harness.ended(second)).state is JobState.SUCCEEDED
    assert (await harness.kernel.jobs.get(first.id)).state is JobState.SUCCEEDED
    assert (await harness.ended(fourth)).state is JobState.FAILED


async def test_a_job_that_fits_does_not_wait_for_those_before_it_that_do_not(
    harness: Harness,
) -> None:
    ledger = harness.kernel.ledger
    ledger.reserve("others", 500)
    large = [await harness.submit("double", bytes=501, value=1) for _ in range(CANDIDATES + 1)]
    small = await harness.submit("double", bytes=500, value=21)
    assert (await harness.ended(small)).result["doubled"] == 42
    assert (await harness.kernel.jobs.get(large[0].id)).attempt == 0
    ledger.release("others")


async def test_a_result_that_cannot_be_committed_now_is_made_again(harness: Harness) -> None:
    harness.refusals = [DiskFullError(), RuntimeError("unforeseen")]
    job = await harness.ended(await harness.submit("count", steps=1))
    assert (job.state, job.attempt, job.failures) == (JobState.SUCCEEDED, 3, 2)
    assert harness.committed == [(job.id, "count")]


async def test_a_result_that_is_refused_fails_the_job(harness: Harness) -> None:
    harness.refusals = [ConflictError("The name is taken.")]
    job = await harness.ended(await harness.submit("count", steps=1))
    assert (job.state, job.attempt) == (JobState.FAILED, 1)
    assert job.error == {"code": "conflict", "message": "The name is taken."}
    assert harness.committed == []

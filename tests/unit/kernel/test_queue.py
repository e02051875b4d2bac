from __future__ import annotations

import dataclasses
import re
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import Connection, insert, select
from tests.unit.kernel.conftest import Clock

from llmos.errors import (
    ConflictError,
    DataError,
    EngineError,
    FencedError,
    InvalidRequestError,
    JobNotFoundError,
    OutOfMemoryError,
    QuotaExceededError,
)
from llmos.kernel.events import EventBus, topic
from llmos.kernel.idempotency import Idempotency
from llmos.kernel.job_rows import ACTIVE
from llmos.kernel.jobs import Job, JobState
from llmos.kernel.queue import JobQueue
from llmos.kernel.transitions import LOST_STATES
from llmos.kernel.view import READY, WAITING_OUT
from llmos.storage.memory import MemoryDatabase
from llmos.storage.schema import task_defaults
from llmos.types import JobResult, Priority

LEASE_S = 30.0
ANY_STATE = [*JobState]


def commit(connection: Connection, job: Job, result: JobResult) -> list[str]:
    """Leave one row per commit; a second one would break its key."""
    connection.execute(insert(task_defaults).values(task=f"job {job.id}", model="m", owner="o"))
    return ["model:1"]


def commits(database: MemoryDatabase) -> list[str]:
    return database.read_sync(lambda c: list(c.scalars(select(task_defaults.c.task))))


async def submit(queue: JobQueue, **options: Any) -> Job:
    return await queue.submit("train", {}, **({"owner": "o"} | options))


async def running(queue: JobQueue, **options: Any) -> Job:
    job = await queue.claim((await submit(queue, **options)).id, LEASE_S, threads=2)
    assert job is not None
    return job


async def in_state(queue: JobQueue, state: JobState) -> Job:
    """Return a job that came into ``state`` the ordinary way."""
    if state is JobState.WAITING:
        return await submit(queue, after=[(await submit(queue)).id])
    if state is JobState.QUEUED:
        return await submit(queue)
    job = await running(queue)
    if state is JobState.PAUSED:
        return await queue.set_paused(job.id, True, "a")
    if state is JobState.SUCCEEDED:
        return await queue.complete(job.id, job.fence, JobResult(), commit)
    if state is JobState.FAILED:
        return await queue.fail(job.id, job.fence, DataError("no"), retryable=False)
    if state is JobState.CANCELLED:
        await queue.cancel(job.id, "a")
        return await queue.cancelled(job.id, job.fence)
    return job


async def test_params_are_checked_beside_the_event_loop(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A check may take its time: a search's is of hundreds of recipes."""
    threads: list[threading.Thread] = []

    def check(params: dict[str, Any]) -> dict[str, Any]:
        threads.append(threading.current_thread())
        return params

    kind = dataclasses.replace(queue.kinds["train"], schema=check)
    monkeypatch.setattr(queue, "kinds", {**queue.kinds, "train": kind})
    await submit(queue)
    assert threads and threading.current_thread() not in threads


async def states(queue: JobQueue, job: Job) -> list[str]:
    events = await queue.events(job.id)
    return [event.data["state"] for event in events if event.type == "state"]


# -- submitting ----------------------------------------------------------------------------------


async def test_a_submitted_job_is_queued_with_its_params_made_complete(queue: JobQueue) -> None:
    job = await queue.submit("train", {"x": 1}, owner="o", priority=Priority.BATCH)
    assert job == await queue.get(job.id)
    assert (job.state, job.params, job.name) == (JobState.QUEUED, {"steps": 1, "x": 1}, "train")
    assert (job.priority, job.owner, job.queued_at) == (Priority.BATCH, "o", 1000.0)
    assert await states(queue, job) == ["queued"]


async def test_what_is_not_valid_is_refused_and_not_written(queue: JobQueue) -> None:
    with pytest.raises(InvalidRequestError, match="bad is not"):
        await queue.submit("train", {"bad": 1}, owner="o")
    with pytest.raises(InvalidRequestError, match=r"no job kind 'trian'\. Did you mean 'train'"):
        await queue.submit("trian", {}, owner="o")
    with pytest.raises(OutOfMemoryError, match=r"1.0 KB"):
        await queue.submit("train", {"bytes": 1001}, owner="o")
    with pytest.raises(JobNotFoundError):
        await submit(queue, after=[99])
    assert await queue.list() == []


@pytest.mark.parametrize(
    "value", [10**400, -(2**63) - 1, "\ud800"], ids=["huge", "below 64 bits", "surrogate"]
)
async def test_params_that_no_worker_could_be_told_are_refused_and_not_written(
    queue: JobQueue, value: object
) -> None:
    with pytest.raises(InvalidRequestError, match="params cannot be used"):
        await queue.submit("train", {"steps": value}, owner="o")
    assert await queue.list() == []


@pytest.mark.parametrize("job_id", [0, -1, 7, 2**63, 2**80, -(2**80)])
async def test_a_job_that_is_not_there_is_not_found(queue: JobQueue, job_id: int) -> None:
    for ask in (queue.get(job_id), queue.events(job_id), queue.cancel(job_id, "a")):
        with pytest.raises(JobNotFoundError):
            await ask


async def test_jobs_are_listed_newest_first_by_owner_and_state(queue: JobQueue) -> None:
    first, second = await submit(queue), await submit(queue, owner="p")
    third = await running(queue)
    assert [job.id for job in await queue.list()] == [third.id, second.id, first.id]
    assert [job.id for job in await queue.list(owner="p")] == [second.id]
    assert [job.id for job in await queue.list(states=[JobState.RUNNING])] == [third.id]
    assert [job.id for job in await queue.list(before=third.id, limit=1)] == [second.id]


async def test_changes_are_audited_with_their_actor(queue: JobQueue, audited: list[Any]) -> None:
    job = await submit(queue, actor="key1")
    await queue.cancel(job.id, "key2")
    assert [(actor, action, object) for actor, action, object, *_ in audited] == [
        ("key1", "job.submit", f"job:{job.id}"),
        ("key2", "job.cancel", f"job:{job.id}"),
        ("key2", "job.finish", f"job:{job.id}"),
    ]


# -- attempts ------------------------------------------------------------------------------------


async def test_a_claim_takes_a_job_once_and_raises_its_fence(queue: JobQueue) -> None:
    queued = await submit(queue)
    job = await queue.claim(queued.id, LEASE_S, threads=2)
    assert job.state is JobState.RUNNING
    assert job.fence > queued.fence
    assert (job.attempt, job.lease_expires_at, job.started_at) == (1, 1030.0, 1000.0)
    assert await queue.claim(queued.id, LEASE_S, threads=2) is None


async def test_the_number_of_threads_is_that_of_the_first_start(queue: JobQueue) -> None:
    job = await running(queue)
    await queue.requeue(job.id, job.fence)
    again = await queue.claim(job.id, LEASE_S, threads=8)
    assert again.threads == 2


async def test_reports_renew_the_lease_and_are_kept(queue: JobQueue, clock, bus: EventBus) -> None:
    job = await running(queue)
    clock.now = 1010.0
    progress = {"step": 1, "total": 2, "message": ""}
    with bus.subscribe(topic(job.id)) as live:
        events = [("log", {"line": "hi"}), ("metric", {"step": 1, "loss": float("nan")})]
        await queue.report(job.id, job.fence, LEASE_S, progress=progress, events=events)
        assert [(event.type, event.id > 0) for event in live.take_all()] == [
            ("log", True),
            ("metric", True),
            ("progress", False),
        ]
    seen = await queue.get(job.id)
    assert (seen.lease_expires_at, seen.progress) == (1040.0, progress)
    kept = await queue.events(job.id, after_event_id=2)
    assert [event.data for event in kept] == [{"line": "hi"}, {"step": 1, "loss": None}]
    await queue.report(job.id, job.fence, 100.0)
    assert (await queue.get(job.id)).lease_expires_at == 1110.0


async def test_success_commits_once_with_its_artifacts(
    queue: JobQueue, database: MemoryDatabase
) -> None:
    job = await running(queue)
    result = JobResult(summary={"loss": 1.5})
    ended = await queue.complete(job.id, job.fence, result, commit)
    assert ended.state is JobState.SUCCEEDED
    assert ended.result == {"loss": 1.5, "artifacts": ["model:1"]}
    with pytest.raises(FencedError):
        await queue.complete(job.id, job.fence, result, commit)
    assert commits(database) == [f"job {job.id}"]


async def test_a_job_that_goes_on_from_another_is_queued_in_the_commit_that_ends_that(
    queue: JobQueue,
) -> None:
    def next_job(job: Job, result: JobResult, refs: Sequence[str]) -> Any:
        return ("train", {"steps": 7}) if result.summary else None

    queue.next_job = next_job
    job = await running(queue, name="first", priority=Priority.BATCH)

    def no_room(connection: Connection, owner: str) -> None:
        raise QuotaExceededError("the queue is full")

    queue.admit = no_room  # it was let in with the first
    ended = await queue.complete(job.id, job.fence, JobResult({"wanted": True}), commit)
    assert ended.result is not None
    following = await queue.get(ended.result["next_job"])
    assert (following.kind, following.name, following.owner) == ("train", "first", "o")
    assert (following.priority, following.state) == (Priority.BATCH, JobState.QUEUED)
    assert following.params["steps"] == 7
    claimed = await queue.claim(following.id, LEASE_S, threads=2)
    assert claimed is not None
    last = await queue.complete(claimed.id, claimed.fence, JobResult(), commit)
    assert last.result == {"artifacts": ["model:1"]}
    assert len(await queue.list()) == 2


async def test_a_job_that_succeeds_in_the_end_has_no_error(queue: JobQueue, clock) -> None:
    job = await running(queue)
    job = await queue.fail(job.id, job.fence, EngineError("again"), retryable=True)
    assert job.error == {"code": "engine_error", "message": "again"}
    clock.now = job.not_before
    job = await queue.claim(job.id, LEASE_S, threads=2)
    ended = await queue.complete(job.id, job.fence, JobResult(), commit)
    assert (ended.state, ended.failures, ended.error) == (JobState.SUCCEEDED, 1, None)


@pytest.mark.parametrize("state", ANY_STATE)
async def test_whoever_clears_up_is_told_once_of_each_job_that_is_final(
    queue: JobQueue, state: JobState
) -> None:
    told: list[int] = []

    async def tell(job: Job) -> None:
        assert job == await queue.get(job.id)
        assert job.state.is_final
        told.append(job.id)

    queue.on_end(tell)
    job = await in_state(queue, state)
    if not job.state.is_final:
        assert told == []
        await queue.cancel(job.id, "a")
        await queue.requeue_all()
    assert told == [job.id]


async def test_whoever_clears_up_is_told_of_what_fails_with_a_job(queue: JobQueue) -> None:
    told: list[int] = []

    async def tell(job: Job) -> None:
        told.append(job.id)

    queue.on_end(tell)
    first = await submit(queue)
    second = await submit(queue, after=[first.id])
    await queue.refuse(first.id, OutOfMemoryError("too large"))
    assert told == [first.id, second.id]


async def test_a_commit_that_fails_leaves_the_job_running_and_nothing_else(
    queue: JobQueue, database: MemoryDatabase
) -> None:
    def half(connection: Connection, job: Job, result: JobResult) -> None:
        commit(connection, job, result)
        raise ConflictError("taken")

    job = await running(queue)
    with pytest.raises(ConflictError, match="taken"):
        await queue.complete(job.id, job.fence, JobResult(), half)
    assert (await queue.get(job.id)).state is JobState.RUNNING
    assert commits(database) == []


async def test_an_attempt_that_lost_its_job_can_change_nothing(
    queue: JobQueue, database: MemoryDatabase
) -> None:
    old = await running(queue)
    await queue.requeue(old.id, old.fence)
    new = await queue.claim(old.id, LEASE_S, threads=2)
    for late in (
        queue.report(old.id, old.fence, LEASE_S),
        queue.complete(old.id, old.fence, JobResult(), commit),
        queue.fail(old.id, old.fence, DataError(), retryable=False),
        queue.cancelled(old.id, old.fence),
        queue.requeue(old.id, old.fence),
    ):
        with pytest.raises(FencedError):
            await late
    assert await queue.get(old.id) == new
    assert commits(database) == []


async def test_retryable_failures_back_off_with_full_jitter_until_attempts_are_used_up(
    queue: JobQueue, clock
) -> None:
    job = await running(queue)
    for failures, delay in ((1, 0.5), (2, 1.0)):
        job = await queue.fail(job.id, job.fence, EngineError("again"), retryable=True)
        assert (job.state, job.failures) == (JobState.QUEUED, failures)
        assert job.not_before == clock.now + delay
        assert await queue.claim(job.id, LEASE_S, threads=2) is None
        clock.now += delay
        job = await queue.claim(job.id, LEASE_S, threads=2)
    job = await queue.fail(job.id, job.fence, EngineError("last"), retryable=True)
    assert (job.state, job.attempt) == (JobState.FAILED, 3)
    assert job.error == {"code": "engine_error", "message": "last"}


async def test_a_fatal_error_fails_at_once(queue: JobQueue) -> None:
    job = await running(queue)
    ended = await queue.fail(job.id, job.fence, DataError("empty"), retryable=False)
    assert (ended.state, ended.failures) == (JobState.FAILED, 1)


async def test_a_kind_may_allow_fewer_attempts(queue: JobQueue) -> None:
    submitted = await queue.submit("import", {}, owner="o")
    job = await queue.claim(submitted.id, LEASE_S, threads=2)
    ended = await queue.fail(job.id, job.fence, EngineError(), retryable=True)
    assert ended.state is JobState.FAILED


async def test_a_restart_takes_every_running_job_back_at_no_cost_to_it(queue: JobQueue) -> None:
    old = await running(queue)
    paused = await in_state(queue, JobState.PAUSED)
    doomed = await running(queue)
    await queue.cancel(doomed.id, "a")
    assert await queue.requeue_all() == [old.id, paused.id, doomed.id]
    job = await queue.get(old.id)
    assert (job.state, job.failures, job.not_before) == (JobState.QUEUED, 0, 0.0)
    assert job.fence > old.fence
    assert (await queue.get(paused.id)).state is JobState.PAUSED
    assert (await queue.get(doomed.id)).state is JobState.CANCELLED


async def test_a_paused_job_whose_attempt_ended_starts_when_it_is_resumed_and_not_before(
    queue: JobQueue, clock: Clock
) -> None:
    old = await in_state(queue, JobState.PAUSED)
    await queue.requeue(old.id, old.fence)
    with pytest.raises(FencedError):
        await queue.complete(old.id, old.fence, JobResult(), commit)
    assert await queue.requeue_all() == []
    assert await queue.claim(old.id, LEASE_S, threads=2) is None
    view = await queue.view()
    assert (view.ready, view.active) == ([], [])
    assert (await queue.set_paused(old.id, True, "a")).state is JobState.PAUSED
    clock.now += 100.0
    resumed = await queue.set_paused(old.id, False, "a")
    assert (resumed.state, resumed.queued_at) == (JobState.QUEUED, clock.now)
    assert (await queue.claim(old.id, LEASE_S, threads=2)).attempt == 2
    assert await states(queue, old) == [
        *("queued", "running", "paused", "paused", "queued", "running")
    ]


async def test_a_paused_job_whose_worker_died_waits_out_the_failure_once_resumed(
    queue: JobQueue, clock: Clock
) -> None:
    old = await in_state(queue, JobState.PAUSED)
    failed = await queue.fail(old.id, old.fence, EngineError("killed"), retryable=True)
    assert (failed.state, failed.failures) == (JobState.PAUSED, 1)
    resumed = await queue.set_paused(old.id, False, "a")
    assert (resumed.state, resumed.not_before) == (JobState.QUEUED, failed.not_before)


async def test_a_paused_job_without_an_attempt_is_cancelled_at_once(queue: JobQueue) -> None:
    job = await in_state(queue, JobState.PAUSED)
    await queue.requeue(job.id, job.fence)
    assert (await queue.cancel(job.id, "a")).state is JobState.CANCELLED


async def test_a_job_too_large_to_start_is_failed(queue: JobQueue) -> None:
    job = await submit(queue)
    await queue.refuse(job.id, OutOfMemoryError("too large"))
    assert (await queue.get(job.id)).state is JobState.FAILED
    other = await running(queue)
    await queue.refuse(other.id, OutOfMemoryError("too large"))
    assert (await queue.get(other.id)).state is JobState.RUNNING


# -- cancelling and pausing ----------------------------------------------------------------------


@pytest.mark.parametrize("state", ANY_STATE)
async def test_cancel_works_in_every_state(queue: JobQueue, state: JobState) -> None:
    job = await in_state(queue, state)
    assert job.state is state
    if state in (JobState.SUCCEEDED, JobState.FAILED):
        with pytest.raises(ConflictError, match=f"has {state} already"):
            await queue.cancel(job.id, "a")
        return
    asked = await queue.cancel(job.id, "a")
    if state in (JobState.RUNNING, JobState.PAUSED):
        assert (asked.state, asked.cancel_requested) == (state, True)
        assert await queue.cancel(job.id, "a") == asked
        asked = await queue.fail(job.id, job.fence, EngineError("killed"), retryable=True)
    assert asked.state is JobState.CANCELLED
    assert (await queue.cancel(job.id, "a")).state is JobState.CANCELLED


@pytest.mark.parametrize("state", ANY_STATE)
async def test_only_what_runs_can_pause(queue: JobQueue, state: JobState) -> None:
    job = await in_state(queue, state)
    if state in (JobState.RUNNING, JobState.PAUSED):
        assert (await queue.set_paused(job.id, True, "a")).state is JobState.PAUSED
        assert (await queue.set_paused(job.id, False, "a")).state is JobState.RUNNING
    else:
        with pytest.raises(ConflictError, match="not running"):
            await queue.set_paused(job.id, True, "a")


# -- jobs after jobs -----------------------------------------------------------------------------


async def test_a_job_waits_for_every_job_before_it(queue: JobQueue, clock) -> None:
    first, second = await running(queue), await running(queue)
    last = await submit(queue, after=[second.id, first.id, first.id])
    assert (last.state, last.after) == (JobState.WAITING, (first.id, second.id))
    await queue.complete(first.id, first.fence, JobResult(), commit)
    assert (await queue.get(last.id)).state is JobState.WAITING
    clock.now = 1500.0
    await queue.complete(second.id, second.fence, JobResult(), commit)
    ready = await queue.get(last.id)
    assert (ready.state, ready.queued_at) == (JobState.QUEUED, 1500.0)
    assert (await submit(queue, after=[first.id])).state is JobState.QUEUED


@pytest.mark.parametrize("how", ["failed", "was cancelled"])
async def test_what_waits_for_a_job_fails_with_it_down_the_chain(queue: JobQueue, how: str) -> None:
    first, other = await running(queue), await running(queue)
    second = await submit(queue, after=[first.id, other.id], name="second")
    third = await submit(queue, after=[second.id, first.id])
    if how == "failed":
        await queue.fail(first.id, first.fence, DataError("no"), retryable=False)
    else:
        await queue.cancel(first.id, "a")
        await queue.cancelled(first.id, first.fence)
    for job in (second, third):
        ended = await queue.get(job.id)
        assert ended.state is JobState.FAILED
        assert ended.error["code"] == "dependency_failed"
        assert await states(queue, job) == ["waiting", "failed"]
    message = (await queue.get(second.id)).error["message"]
    assert message == f"Job {first.id} (train), which this one waited for, {how}."
    assert (await queue.get(other.id)).state is JobState.RUNNING


async def test_nothing_can_wait_for_a_failed_job_or_another_owners(queue: JobQueue) -> None:
    failed = await in_state(queue, JobState.FAILED)
    with pytest.raises(ConflictError, match="nothing can run after it"):
        await submit(queue, after=[failed.id])
    theirs = await submit(queue, owner="p")
    with pytest.raises(JobNotFoundError):
        await submit(queue, after=[theirs.id])


# -- the scheduler's view ------------------------------------------------------------------------


async def test_the_view_shows_the_oldest_of_each_class_and_owner(queue: JobQueue, clock) -> None:
    for owner in ("", "a", "b"):
        for priority in (Priority.BATCH, Priority.INTERACTIVE):
            for _ in range(18):
                await submit(queue, owner=owner, priority=priority)
    held = await running(queue, owner="b")
    waiting_out = await running(queue)
    waiting_out = await queue.fail(waiting_out.id, waiting_out.fence, EngineError(), retryable=True)
    view = await queue.view()
    assert [(job.priority, job.owner) for job in view.ready] == [
        (priority, owner)
        for priority in (Priority.INTERACTIVE, Priority.BATCH)
        for owner in ("", "a", "b")
        for _ in range(16)
    ]
    assert view.ready[0].id == 19
    assert [job.id for job in view.active] == [held.id]
    assert view.next_not_before == waiting_out.not_before
    clock.now = waiting_out.not_before
    assert waiting_out.id in {job.id for job in (await queue.view()).ready}


async def test_a_long_queue_hides_no_light_job_nor_light_ones_an_ordinary_one(
    queue: JobQueue,
) -> None:
    def kinds(view_kinds: list[str]) -> dict[str, int]:
        return {kind: view_kinds.count(kind) for kind in ("train", "import")}

    for kind in ["train"] * 20 + ["import"] * 20 + ["train"]:
        await queue.submit(kind, {}, owner="o")
    view = await queue.view()
    assert kinds([job.kind for job in view.ready]) == {"train": 16, "import": 16}
    assert [job.id for job in view.ready] == [*range(1, 17), *range(21, 37)]


async def test_jobs_that_do_not_fit_hide_none_that_does(queue: JobQueue) -> None:
    for num_bytes in [800] * 20 + [100] * 20 + [700, 50]:
        await queue.submit("train", {"bytes": num_bytes}, owner="o")
    seen = {room: (await queue.view(room)).ready for room in (0, 99, 100, 800)}
    assert [job.id for job in seen[0]] == list(range(1, 17))
    assert [job.id for job in seen[99]] == [*range(1, 17), 42]
    assert [job.id for job in seen[100]] == [*range(1, 17), *range(21, 37)]
    assert [job.id for job in seen[800]] == list(range(1, 17))


@pytest.mark.parametrize("days", [1, 365])
async def test_a_job_that_waits_out_a_failure_does_so_for_a_moment_whatever_the_clock_did(
    queue: JobQueue, clock, days: int
) -> None:
    right, clock.now = clock.now, clock.now + days * 86400.0
    job = await running(queue)
    await queue.fail(job.id, job.fence, EngineError(), retryable=True)
    clock.now = right
    assert [found.id for found in (await queue.view()).ready] == [job.id]
    assert await queue.claim(job.id, LEASE_S, threads=1) is not None


def test_the_view_is_read_by_index(database: MemoryDatabase) -> None:
    ready = READY.params(now=1.0, room_bytes=1)
    for query in (ready, ACTIVE, WAITING_OUT.params(now=1.0)):
        sql = str(query.compile(compile_kwargs={"literal_binds": True}))
        plan = database.read_sync(
            lambda c, sql=sql: c.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}").all()
        )
        steps = [row[3] for row in plan]
        for step in steps:
            assert not step.startswith(("SCAN jobs", "USE TEMP")), steps
            if step.startswith("SEARCH"):
                assert re.search("ix_jobs_queue|ix_jobs_not_before|INTEGER PRIMARY KEY", step), step


async def test_a_listener_that_fails_breaks_nothing_and_the_next_is_told(
    queue: JobQueue, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[int] = []

    async def fail(job: Job) -> None:
        raise ZeroDivisionError("boom")

    async def tell(job: Job) -> None:
        told.append(job.id)

    queue.on_end(fail)
    queue.on_end(tell)
    job = await in_state(queue, JobState.SUCCEEDED)
    assert (await queue.get(job.id)).state is JobState.SUCCEEDED
    assert told == [job.id]
    assert "boom" in caplog.text


async def test_no_job_can_wait_for_itself_or_for_one_that_is_yet_to_come(queue: JobQueue) -> None:
    first = await submit(queue)
    for after in (first.id + 1, first.id + 2, 2**63 - 1):
        with pytest.raises(JobNotFoundError):
            await submit(queue, after=[first.id, after])
    assert [job.id for job in await queue.list()] == [first.id]


# -- retrying ------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [JobState.FAILED, JobState.CANCELLED])
async def test_a_retried_job_is_queued_anew_and_keeps_its_history(
    queue: JobQueue, clock, audited: list[Any], state: JobState
) -> None:
    job = await in_state(queue, state)
    before = await states(queue, job)
    clock.now = 2000.0
    again = await queue.retry(job.id, "someone")
    assert again == await queue.get(job.id)
    assert (again.state, again.failures, again.attempt) == (JobState.QUEUED, 0, job.attempt)
    assert (again.cancel_requested, again.finished_at, again.queued_at) == (False, None, 2000.0)
    assert again.error == job.error
    assert again.fence > job.fence
    assert await states(queue, job) == [*before, "queued"]
    assert ("someone", "job.retry", f"job:{job.id}", {}, 2000.0) in audited
    claimed = await queue.claim(job.id, LEASE_S, threads=2)
    assert claimed.attempt == job.attempt + 1
    ended = await queue.complete(job.id, claimed.fence, JobResult(), commit)
    assert (ended.state, ended.error) == (JobState.SUCCEEDED, None)


async def test_a_retried_job_has_all_its_attempts_again(queue: JobQueue, clock) -> None:
    job = await in_state(queue, JobState.FAILED)
    await queue.retry(job.id, "a")
    for failures in (1, 2):
        claimed = await queue.claim(job.id, LEASE_S, threads=2)
        job = await queue.fail(job.id, claimed.fence, EngineError(), retryable=True)
        assert (job.state, job.failures) == (JobState.QUEUED, failures)
        clock.now = job.not_before
    claimed = await queue.claim(job.id, LEASE_S, threads=2)
    job = await queue.fail(job.id, claimed.fence, EngineError(), retryable=True)
    assert (job.state, job.failures) == (JobState.FAILED, 3)


async def test_an_attempt_from_before_a_retry_commits_nothing(queue: JobQueue) -> None:
    old = await running(queue)
    await queue.fail(old.id, old.fence, DataError("no"), retryable=False)
    await queue.retry(old.id, "a")
    await queue.claim(old.id, LEASE_S, threads=2)
    with pytest.raises(FencedError):
        await queue.complete(old.id, old.fence, JobResult(), commit)


@pytest.mark.parametrize("state", [s for s in ANY_STATE if s not in LOST_STATES])
async def test_only_a_job_that_did_not_succeed_is_retried(queue: JobQueue, state: JobState) -> None:
    job = await in_state(queue, state)
    with pytest.raises(ConflictError, match=f"is {state}"):
        await queue.retry(job.id, "a")
    assert await queue.get(job.id) == job


async def test_what_failed_only_with_a_job_comes_back_with_it_and_waits_again(
    queue: JobQueue,
) -> None:
    first, lost = await running(queue), await running(queue)
    second = await submit(queue, after=[first.id])
    third = await submit(queue, after=[second.id])
    both = await submit(queue, after=[first.id, lost.id])
    called_off = await submit(queue, after=[first.id])
    await queue.cancel(called_off.id, "a")
    for job in (first, lost):
        await queue.fail(job.id, job.fence, DataError("no"), retryable=False)
    await queue.retry(first.id, "a")

    async def found() -> list[JobState]:
        return [(await queue.get(job.id)).state for job in (second, third, both, called_off)]

    waiting, failed, cancelled = JobState.WAITING, JobState.FAILED, JobState.CANCELLED
    assert await found() == [waiting, waiting, failed, cancelled]
    await queue.retry(lost.id, "a")
    assert await found() == [waiting, waiting, waiting, cancelled]
    for job in (first, lost, second, third, both):
        claimed = await queue.claim(job.id, LEASE_S, threads=2)
        await queue.complete(job.id, claimed.fence, JobResult(), commit)
    assert await found() == [JobState.SUCCEEDED] * 3 + [cancelled]


async def test_a_job_whose_own_attempt_failed_does_not_come_back_with_another(
    queue: JobQueue,
) -> None:
    first = await in_state(queue, JobState.SUCCEEDED)
    second = await running(queue, after=[first.id])
    other = await running(queue)
    third = await submit(queue, after=[second.id, other.id])
    await queue.fail(second.id, second.fence, DataError("no"), retryable=False)
    await queue.fail(other.id, other.fence, DataError("no"), retryable=False)
    await queue.retry(other.id, "a")
    assert (await queue.get(second.id)).state is JobState.FAILED
    assert (await queue.get(third.id)).state is JobState.FAILED


async def test_a_job_that_waits_for_a_lost_one_is_not_retried_before_it(queue: JobQueue) -> None:
    first = await running(queue)
    second = await submit(queue, after=[first.id])
    await queue.fail(first.id, first.fence, DataError("no"), retryable=False)
    with pytest.raises(ConflictError, match=f"job {first.id}, which did not succeed"):
        await queue.retry(second.id, "a")


# -- idempotency ---------------------------------------------------------------------------------


async def test_a_request_with_a_key_makes_one_job_however_often_it_comes(
    queue: JobQueue, audited: list[Any]
) -> None:
    once = Idempotency.of("k", {"a": 1})
    assert await queue.submitted("o", once) is None
    first = await submit(queue, idempotency=once)
    assert await submit(queue, idempotency=once) == first
    assert await queue.submitted("o", once) == first
    assert len([event for event in audited if event[1] == "job.submit"]) == 1
    await queue.cancel(first.id, "a")
    again = await submit(queue, idempotency=once)
    assert (again.id, again.state) == (first.id, JobState.CANCELLED)


async def test_another_owners_key_is_another(queue: JobQueue) -> None:
    once = Idempotency.of("k", {})
    mine = await submit(queue, idempotency=once)
    theirs = await submit(queue, owner="p", idempotency=once)
    assert mine.id != theirs.id
    assert (await submit(queue, owner="p", idempotency=once)).id == theirs.id


async def test_a_key_with_another_request_is_refused_and_nothing_queued(queue: JobQueue) -> None:
    first = await submit(queue, idempotency=Idempotency.of("k", {"a": 1}))
    other = Idempotency.of("k", {"a": 2})
    with pytest.raises(ConflictError, match=f"made job {first.id}"):
        await submit(queue, idempotency=other)
    with pytest.raises(ConflictError):
        await queue.submitted("o", other)
    assert len(await queue.list()) == 1


def test_the_order_of_a_requests_fields_is_not_part_of_it() -> None:
    assert Idempotency.of("k", {"a": 1, "b": 2}) == Idempotency.of("k", {"b": 2, "a": 1})


@pytest.mark.parametrize("key", ["", "a b", "é", "x" * 256, "a\n", "\x00"])
def test_a_key_is_visible_ascii(key: str) -> None:
    with pytest.raises(InvalidRequestError, match="idempotency key"):
        Idempotency.of(key, {})

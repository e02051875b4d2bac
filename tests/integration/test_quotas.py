"""Quotas and real workers: a spent day holds jobs where they are, and a raised limit lets them go
on."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path

import pytest
from sqlalchemy import Connection, insert

from llmos.errors import QuotaExceededError
from llmos.kernel import endings
from llmos.kernel.jobs import Job, JobEvent, JobState
from llmos.kernel.kernel import Kernel
from llmos.kernel.ledger import Ledger
from llmos.kernel.quotas import Limits, day_of
from llmos.settings import Settings
from llmos.storage.database import Database
from llmos.storage.schema import version_files, versions
from llmos.types import JobResult

CHILDREN = Path(__file__).parent
NUM_BYTES = len(b"counted")
"""What a counting job makes."""


def commit(connection: Connection, job: Job, result: JobResult) -> list[str]:
    """Keep the versions that a job made, as the library does."""
    for artifact in result.artifacts:
        row = {"kind": artifact.kind, "name": artifact.name, "number": 1, "digest": artifact.name}
        row |= {"manifest": {}, "owner": job.owner, "created_at": 0.0}
        made = connection.execute(insert(versions).values(row)).inserted_primary_key
        assert made is not None
        for filename, file in artifact.files.items():
            # No two counts are the same content here.
            named = {"filename": filename, "digest": artifact.name, "size": file.size}
            named |= {"version_id": made[0], "owner": job.owner}
            connection.execute(insert(version_files).values(named))
    return [artifact.name for artifact in result.artifacts]


@pytest.fixture
async def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Kernel]:
    monkeypatch.setenv("PYTHONPATH", str(CHILDREN))
    monkeypatch.syspath_prepend(str(CHILDREN))
    from kernel_children.handlers import KINDS

    settings = Settings(home=tmp_path, threads=1, max_workers=2)
    settings.logs_path.mkdir()
    database = Database.open(settings.database_path)
    kernel = Kernel(
        database,
        Ledger(1000),
        KINDS,
        settings,
        time.time,
        commit,
        rng=random.Random(0),
    )
    await kernel.start()
    yield kernel
    await kernel.stop()
    database.close()


async def until(kernel: Kernel, job: Job, matches: Callable[[JobEvent], bool]) -> None:
    async with aclosing(kernel.follow(job.id)) as events:
        async for event in events:
            if matches(event):
                return
    raise AssertionError(f"the job ended first: {await kernel.jobs.get(job.id)}")


async def test_a_spent_day_holds_running_jobs_and_starts_none_until_the_limit_is_raised(
    kernel: Kernel,
) -> None:
    held = await kernel.jobs.submit("give_way", {}, owner="alice")
    await until(kernel, held, lambda event: event.data.get("line") == "before")
    await kernel.accounts.set_limits("alice", Limits(compute_s_per_day=0.01), "k")
    waiting = await kernel.jobs.submit("double", {"value": 1}, owner="alice")
    other = await kernel.jobs.submit("double", {"value": 2}, owner="bob")
    await until(kernel, other, lambda event: event.data.get("state") == "succeeded")
    assert kernel.workers.held(held.id) == ("quota",)
    assert (await kernel.jobs.get(waiting.id)).state is JobState.QUEUED
    with pytest.raises(QuotaExceededError):
        kernel.accounts.begin("alice")
    await kernel.accounts.set_limits("alice", Limits(compute_s_per_day=3600), "k")
    for job in (held, waiting):
        await until(kernel, job, lambda event: event.data.get("state") == "succeeded")
    today = day_of(time.time())
    rows = await kernel.accounts.usage(today, today, owner="alice", group_by=("model",))
    assert [(row["model"], row["jobs"]) for row in rows] == [("", 2)]
    kept_s = [(await kernel.jobs.get(job.id)).compute_s for job in (held, waiting)]
    assert rows[0]["compute_s"] == pytest.approx(sum(kept_s), abs=1.0)


async def test_jobs_that_stand_still_for_the_day_keep_no_worker_from_others(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where they have to begin anew."""
    monkeypatch.setattr(endings, "LEAVE_WITHIN_S", 0.1)
    spent = [await kernel.jobs.submit("wait_for_cancel", {}, owner="alice") for _ in range(2)]
    for job in spent:
        await until(kernel, job, lambda event: event.data.get("line") == "waiting")
    await kernel.accounts.set_limits("alice", Limits(compute_s_per_day=0.01), "k")
    other = await kernel.jobs.submit("double", {"value": 2}, owner="bob")
    await until(kernel, other, lambda event: event.data.get("state") == "succeeded")
    found = [await kernel.jobs.get(job.id) for job in spent]
    states = [(job.state, job.failures) for job in found]
    assert sorted(states) == [(JobState.QUEUED, 0), (JobState.RUNNING, 0)]


async def test_what_a_job_made_beyond_its_owners_store_is_not_kept(kernel: Kernel) -> None:
    await kernel.accounts.set_limits("alice", Limits(stored_bytes=NUM_BYTES), "k")
    count = {"steps": 1}
    first = await kernel.jobs.submit("count", count, owner="alice", name="first")
    second = await kernel.jobs.submit(
        "count", count, owner="alice", name="second", after=[first.id]
    )
    await until(kernel, second, lambda event: event.data.get("state") == "failed")
    failed = await kernel.jobs.get(second.id)
    assert failed.error is not None
    assert (failed.error["code"], failed.result, failed.attempt) == ("quota_exceeded", None, 1)
    assert (await kernel.accounts.used_by("alice"))["stored_bytes"] == NUM_BYTES

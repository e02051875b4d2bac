"""Batches that are to end do, whatever their job waits for, with the rows that are done."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmos.apps import batch_ends, batch_jobs
from llmos.apps.batch_ends import RETRY_S, BatchEnds
from llmos.apps.batch_files import Files, new_upload
from llmos.apps.batch_journal import open_journal
from llmos.apps.batch_rows import BatchFile
from llmos.apps.batch_store import WINDOW_S, Batch, Batches, NewBatch, commit_batch
from llmos.errors import CorruptBlobError, DiskFullError, JobFailedError, LlmosError
from llmos.kernel.job_files import JobFiles
from llmos.kernel.jobs import Job, JobState
from llmos.kernel.queue import JobQueue
from llmos.security.actors import Actor
from llmos.storage.blobs import BlobStore
from llmos.storage.memory import MemoryDatabase
from llmos.types import JobResult

ALICE = Actor("k", "alice", "user")
ENDPOINT = "/v1/completions"


class Workers:
    """Remembers which were ended."""

    def __init__(self, home: Path) -> None:
        self.files = JobFiles(home)
        self.cancelled: list[int] = []
        self.commit: Any = None

    def cancel(self, job_id: int) -> None:
        self.cancelled.append(job_id)


class World:
    """A queue nobody works on but `ends`."""

    def __init__(self, home: Path) -> None:
        self.now = 1000.0
        self.database = MemoryDatabase()
        self.blobs = BlobStore(home / "blobs")
        kinds = {"batch": batch_jobs.KIND}
        self.queue = JobQueue(self.database, kinds, self.clock, rng=random.Random(0))
        self.batches = Batches(self.database, self.queue, self.clock)
        self.workers: Any = Workers(home)
        self.workers.commit = self.commit
        self.ends = BatchEnds(self.batches, self.queue, self.workers, self.blobs)

    def clock(self) -> float:
        return self.now

    def commit(self, connection: Any, job: Job, result: JobResult) -> None:
        commit_batch(connection, job, result, self.now)

    async def batch(self, num_rows: int = 3) -> Batch:
        rows = [
            {"custom_id": str(i), "method": "POST", "url": ENDPOINT, "body": {"model": "m"}}
            for i in range(1, num_rows + 1)
        ]
        file = self.blobs.put_bytes(b"".join(json.dumps(row).encode() + b"\n" for row in rows))
        upload = new_upload("in.jsonl", "batch", file, "alice", self.now)
        wanted = NewBatch(ENDPOINT, "24h", None, 3600.0)
        return await self.batches.create(ALICE, wanted, upload, BatchFile(num_rows, "m"))

    async def begun(self) -> Batch:
        """A batch whose first attempt answered its first row and is under way."""
        batch = await self.batch()
        job = await self.queue.claim(batch.job_id, 30.0, 1)
        assert job is not None
        journal = open_journal(self.workers.files.checkpoint_dir(job.id), job.attempt)
        journal.add_output(1, b'{"custom_id": "1"}\n')
        journal.flush()
        return await self.batches.get(batch.id)

    async def broken(self) -> Batch:
        """The same once that attempt has failed: its job waits out a while."""
        batch = await self.begun()
        error = JobFailedError("died")
        await self.queue.fail(batch.job_id, batch.job.fence, error, retryable=True)
        return await self.batches.get(batch.id)

    async def lines(self, file_id: str | None) -> list[dict[str, Any]]:
        if file_id is None:
            return []
        upload = await Files(self.database, self.clock).get(file_id)
        return [json.loads(line) for line in self.blobs.read_bytes(upload.digest).splitlines()]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.database.close()


async def test_a_cancelled_batch_whose_job_waits_ends_with_what_is_done(world: World) -> None:
    batch = await world.broken()
    assert batch.job.not_before > world.now, "it waits out its failure"
    assert await world.ends.step() == batch_ends.LONGEST_WAIT_S
    assert (await world.batches.cancel(batch.id, ALICE)).status == "cancelling"
    await world.ends.step()
    done = await world.batches.get(batch.id)
    assert (done.status, done.job.state) == ("cancelled", JobState.SUCCEEDED)
    assert (done.counts.completed, done.counts.failed) == (1, 0)
    assert [line["custom_id"] for line in await world.lines(done.output_file_id)] == ["1"]
    rest = await world.lines(done.error_file_id)
    assert [line["custom_id"] for line in rest] == ["2", "3"]
    assert {line["error"]["code"] for line in rest} == {"batch_cancelled"}
    assert world.workers.cancelled == []


async def test_a_cancelled_batch_that_was_paused_and_has_no_worker_ends_too(world: World) -> None:
    batch = await world.begun()
    await world.queue.set_paused(batch.job_id, True, "alice")
    await world.queue.requeue(batch.job_id, batch.job.fence)
    await world.batches.cancel(batch.id, ALICE)
    await world.ends.step()
    done = await world.batches.get(batch.id)
    assert (done.status, done.counts.completed) == ("cancelled", 1)


async def test_a_batch_expires_though_its_job_never_began(world: World) -> None:
    batch = await world.batch()
    world.now += WINDOW_S - 5
    assert await world.ends.step() == 5
    world.now += 5
    await world.ends.step()
    done = await world.batches.get(batch.id)
    assert done.status == "expired"
    rest = await world.lines(done.error_file_id)
    assert {line["error"]["code"] for line in rest} == {"batch_expired"}
    assert len(rest) == 3
    assert await world.batches.to_end(world.now) == ([], math.inf)


async def test_a_worker_that_has_the_job_is_told_to_end_held_or_not(world: World) -> None:
    running, paused, expired = [await world.begun() for _ in range(3)]
    await world.queue.set_paused(paused.job_id, True, "alice")
    for batch in (running, paused):
        await world.batches.cancel(batch.id, ALICE)
    assert await world.ends.step() == RETRY_S
    assert world.workers.cancelled == [running.job_id, paused.job_id]
    world.now += WINDOW_S
    await world.ends.step()
    assert expired.job_id in world.workers.cancelled


async def test_who_cancels_a_batch_that_has_begun_need_not_wait_for_the_next_look(
    world: World,
) -> None:
    woken: list[bool] = []
    world.batches.on_cancel = lambda: woken.append(True)
    batch = await world.broken()
    await world.batches.cancel(batch.id, ALICE)
    assert woken == [True]
    await world.batches.cancel((await world.batch()).id, ALICE)
    assert woken == [True], "one that has not begun has ended already"


@pytest.mark.parametrize(
    ("error", "status"), [(DiskFullError(), "cancelling"), (CorruptBlobError("bad"), "failed")]
)
async def test_what_hinders_the_end_is_waited_out_or_told(
    world: World, monkeypatch: pytest.MonkeyPatch, error: LlmosError, status: str
) -> None:
    batch = await world.broken()
    await world.batches.cancel(batch.id, ALICE)

    def broken(*_: Any) -> JobResult:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(batch_ends, "end_batch", broken)
        for _ in range(20):
            await world.ends.step()
    assert (await world.batches.get(batch.id)).status == status
    await world.ends.step()
    done = await world.batches.get(batch.id)
    assert done.status == {"cancelling": "cancelled"}.get(status, status)

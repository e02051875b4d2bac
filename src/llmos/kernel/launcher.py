"""Begins attempts at jobs, and settles those that never had a worker or have none here."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from llmos.errors import FencedError, JobFailedError, LlmosError
from llmos.kernel.jobs import Job
from llmos.kernel.placing import Placing
from llmos.kernel.queue import JobQueue
from llmos.kernel.state import ReadyJob
from llmos.kernel.workers import Workers
from llmos.settings import Settings

log = logging.getLogger(__name__)


class Launcher:
    """Starts workers on queued jobs, their memory reserved. Belongs to one event loop.

    Args:
        threads: CPU threads of a job that starts for the first time.
    """

    def __init__(
        self, placing: Placing, jobs: JobQueue, workers: Workers, settings: Settings, threads: int
    ) -> None:
        self._placing = placing
        self._jobs = jobs
        self._workers = workers
        self._lease_s = settings.lease_s
        self._threads = threads

    async def start(self, ready: ReadyJob) -> bool:
        """Start a worker on a job, or let the one that stands by go on; False when there is none:
        it is not to be had any more, or its attempt failed at once.

        Raises:
            OutOfMemoryError: its bytes are not free.
        """
        self._placing.reserve(ready.id, ready.num_bytes)
        if self._workers.pid(ready.id) is not None:
            self._workers.release(ready.id, "preempted")
            return True
        has_started = False
        try:
            job = await self._jobs.claim(ready.id, self._lease_s, self._threads)
            has_started = job is not None and await self._start_worker(job)
        finally:
            if not has_started:
                self._placing.forget(ready.id)
        return has_started

    async def cancel(self, job_id: int, fence: int) -> None:
        """End an attempt at a job that is to be cancelled: at once where it has no worker here."""
        if not self._workers.cancel(job_id):
            with contextlib.suppress(FencedError):
                await self._jobs.cancelled(job_id, fence)

    async def expire(self, job_id: int, fence: int) -> None:
        """End an attempt whose lease ran out."""
        if not self._workers.expire(job_id):
            error = JobFailedError("The worker is gone and its lease ran out.")
            with contextlib.suppress(FencedError):
                await self._jobs.fail(job_id, fence, error, retryable=True)

    async def _start_worker(self, job: Job) -> bool:
        """Start a worker, or fail the attempt at once; say whether there is one."""
        failure: LlmosError
        try:
            count = self._jobs.kind(job.kind).devices(job.params)
            await self._workers.start(job, self._placing.spread(job.id, count))
        except OSError as error:
            failure, retryable = LlmosError(f"No worker could be started: {error}"), True
        except LlmosError as error:
            failure, retryable = error, error.retryable
        except Exception as error:  # a worker's top loop, for the one that never had its own
            log.exception("no worker could be started on job %d", job.id)
            text = f"No worker could be started: {type(error).__name__}: {error}"
            failure, retryable = LlmosError(text), False
        else:
            return True
        await self._jobs.fail(job.id, job.fence, failure, retryable=retryable)
        return False

    async def remove_old_checkpoints(self) -> None:
        """Remove the checkpoints of jobs that ended while the server could not."""
        for job_id in self._workers.files.checkpointed():
            try:
                ended = (await self._jobs.get(job_id)).state.is_final
            except LlmosError:
                ended = False
            if ended:
                await asyncio.to_thread(self._workers.files.remove_checkpoints, job_id)

"""Sees to it that batches end in seconds when they are cancelled or their time is over.

A worker is told, whether it runs or is held, and ends its batch itself. Where a batch that has
begun only waits, for its owner's quota, say, or after a failure, the server takes the attempt that
ends it: that asks nothing, and so waits for nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Literal

import msgspec

from llmos.apps.batch import end_batch
from llmos.apps.batch_jobs import BatchParams
from llmos.errors import DiskFullError, FencedError, LlmosError

if TYPE_CHECKING:
    from llmos.apps.batch_store import Batch, Batches
    from llmos.kernel.queue import JobQueue
    from llmos.kernel.workers import Workers
    from llmos.storage.blobs import BlobStore

RETRY_S = 0.5
"""Between looks at a batch that is to end and has not."""
LONGEST_WAIT_S = 30.0
LEASE_S = 60.0
"""Of the server's own attempts."""

log = logging.getLogger(__name__)


class BatchEnds:
    """Ends the batches of a home, between `start` and `stop`. Belongs to one event loop."""

    def __init__(
        self,
        batches: Batches,
        queue: JobQueue,
        workers: Workers,
        blobs: BlobStore,
    ) -> None:
        self._batches = batches
        self._queue = queue
        self._blobs = blobs
        self._workers = workers
        self._wake = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None
        batches.on_cancel = self._wake.set

    async def start(self) -> None:
        """Begin, also with what was to end when the last server did."""
        self._loop = asyncio.create_task(self._run(), name="batch-ends")

    async def stop(self) -> None:
        """End nothing more."""
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.wait([self._loop])

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            wait_s = RETRY_S
            try:
                wait_s = await self.step()
            except Exception:  # the loop's top: what failed now is tried again
                log.exception("batches that are to end could not be looked at")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), wait_s)

    async def step(self) -> float:
        """End what is to end. Return the seconds after which to look again."""
        now = self._batches.clock()
        due, next_at = await self._batches.to_end(now)
        for batch in due:
            if batch.job.lease_expires_at is not None:  # an attempt has it
                self._workers.cancel(batch.job_id)
            else:
                await self._end(batch, "expired" if batch.expires_at <= now else "cancelled")
        return RETRY_S if due else min(max(next_at - now, 0.0), LONGEST_WAIT_S)

    async def _end(self, batch: Batch, ended_as: Literal["expired", "cancelled"]) -> None:
        """Be the attempt that ends a batch, unless a worker is by now."""
        job = await self._queue.claim(batch.job_id, LEASE_S, 1, at_once=True)
        if job is None:
            return
        params, clock = msgspec.convert(job.params, BatchParams), self._batches.clock
        directory = self._workers.files.checkpoint_dir(job.id)
        try:
            result = await asyncio.to_thread(
                end_batch, params, directory, job.attempt, self._blobs, ended_as, clock
            )
            await self._queue.complete(job.id, job.fence, result, self._workers.commit)
        except FencedError as error:
            log.info("%s", error)
        except DiskFullError:  # tried again until there is room: what is done is kept
            await self._queue.requeue(job.id, job.fence)
        except LlmosError as error:
            await self._queue.fail(job.id, job.fence, error, retryable=error.retryable)

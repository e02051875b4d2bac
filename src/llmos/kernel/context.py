"""What a job handler may touch: its inputs, its checkpoint directory, the blobs, and how to report.

Lives in the worker process and is synchronous. A handler is ``def run(context) -> JobResult``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmos.errors import CancelledError
from llmos.kernel.protocol import FromWorker, JobLog, JobMetric, JobProgress, StartJob
from llmos.storage.blobs import BlobStore

PROGRESS_INTERVAL_S = 0.1
MAX_LINE_CHARS = 10_000


class JobContext:
    """One attempt at a job.

    Attributes:
        attempt: 1 for the first start.
        params: as the kind's schema returned them.
        threads: CPU threads to use, the same for every attempt.
        home: the llmos home.
        checkpoint_dir: kept across attempts, removed when the job has ended.
        blobs: the content-addressed store.

    Args:
        send: delivers messages to the server.
        monotonic: seconds, to limit how often progress is sent.
    """

    def __init__(
        self,
        start: StartJob,
        send: Callable[[FromWorker], None],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.job_id = start.job_id
        self.attempt = start.attempt
        self.name = start.name
        self.params: dict[str, Any] = start.params
        self.owner = start.owner
        self.threads = start.threads
        self.home = Path(start.home)
        self.checkpoint_dir = Path(start.checkpoint_dir)
        self.blobs = BlobStore(self.home / "blobs")
        self._send = send
        self._monotonic = monotonic
        self._progress_at = float("-inf")
        self._cancelled = threading.Event()
        self._running = threading.Event()
        self._running.set()

    # -- reporting -------------------------------------------------------------------------------

    def progress(self, step: int, total: int, message: str = "") -> None:
        """Say how far the job is; call it as often as you like, about ten a second are sent."""
        now = self._monotonic()
        if step >= total or now - self._progress_at >= PROGRESS_INTERVAL_S:
            self._progress_at = now
            self._send(JobProgress(step, total, message))

    def log(self, line: str) -> None:
        """Add a line to the job's log."""
        self._send(JobLog(line[:MAX_LINE_CHARS]))

    def metric(self, step: int, **values: float) -> None:
        """Record numbers at a step, as points of curves."""
        self._send(JobMetric(step, {name: float(value) for name, value in values.items()}))

    # -- giving way ------------------------------------------------------------------------------

    def should_pause(self) -> bool:
        """Say whether the job should give way now; then call `wait_while_paused`."""
        return not self._running.is_set()

    def wait_while_paused(self) -> None:
        """Return at once, or when the job may go on or is cancelled."""
        self._running.wait()

    def raise_if_cancelled(self) -> None:
        """Raise CancelledError when the job is to end; call it at every step."""
        if self._cancelled.is_set():
            raise CancelledError

    # -- told by the server ----------------------------------------------------------------------

    def cancel(self) -> None:
        """Make `raise_if_cancelled` raise."""
        self._cancelled.set()
        self._running.set()

    def pause(self, paused: bool) -> None:
        """Make the job give way, or go on."""
        if paused and not self._cancelled.is_set():
            self._running.clear()
        else:
            self._running.set()

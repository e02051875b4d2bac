"""What a job handler may touch: its inputs, its checkpoint directory, the blobs, and how to report.

Lives in the worker process and is synchronous. A handler is ``def run(context) -> JobResult``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from llmos.errors import CancelledError, LlmosError
from llmos.kernel.open_asks import OpenAsks
from llmos.kernel.protocol import (
    Answer,
    FromWorker,
    JobAnswer,
    JobFailed,
    JobLog,
    JobMetric,
    JobProgress,
    Paused,
    StartJob,
)
from llmos.storage.blobs import BlobStore

PROGRESS_INTERVAL_S = 0.1
MAX_LINE_CHARS = 10_000

Offload = Callable[[], Callable[[], None]]


class JobContext:
    """One attempt at a job.

    Attributes:
        attempt: 1 for the first start.
        params: as the kind's schema returned them.
        threads: CPU threads to use, the same for every attempt.
        devices: one for each of its processes, where the kernel reserved memory on several.
        home: the llmos home.
        checkpoint_dir: kept across attempts, removed when the job has ended.
        blobs: the content-addressed store.
        still_s: seconds for which this attempt was held, which its clocks went on counting.

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
        self.devices = start.devices
        self.home = Path(start.home)
        self.checkpoint_dir = Path(start.checkpoint_dir)
        self.blobs = BlobStore(self.home / "blobs")
        self._send = send
        self._asks = OpenAsks(send)
        self._monotonic = monotonic
        self._progress_at = float("-inf")
        self._cancelled = threading.Event()
        self._leaving = threading.Event()
        self._woken = threading.Event()
        self._is_held = self._gives_memory = False
        self._offload: Offload | None = None
        self.still_s = 0.0

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

    def fail(self, error: LlmosError) -> None:
        """Say how the job failed, where the handler cannot come back to raise it; then end the
        process."""
        self._send(JobFailed(error.code, error.message, error.retryable))

    # -- asking ----------------------------------------------------------------------------------

    def ask(self, path: str, body: bytes | None = None) -> Future[Answer]:
        """Ask the server's own ``path`` as whoever submitted the job, at the job's own class: POST
        where there is a JSON body, else GET.

        Answers are as over HTTP, errors too, and come from another thread; ask as much at once as
        is to be under way. With 429 and 503 comes ``retry_after_s`` where asking again may help.

        Raises:
            UnsendableError: the body is too large for a message.
        """
        return self._asks.ask(path, body)

    # -- giving way ------------------------------------------------------------------------------

    def should_pause(self) -> bool:
        """Say whether the job should give way now; then call `wait_while_paused`."""
        return self._is_held

    def wait_while_paused(self) -> None:
        """Return at once, or when the job may go on or is to end; call it as often as you can.

        A handler that is asked to pause and does not come here within 50 ms is stopped where it is.
        """
        if not self._is_held:
            return
        self._send(Paused(True))
        restore: Callable[[], None] | None = None
        while self._is_held:
            if self._gives_memory and self._offload and restore is None:
                restore = self._offload()
                self._send(Paused(True, gave_memory=True))
            self._woken.wait()
            self._woken.clear()
        if restore and not self._cancelled.is_set():
            restore()
        self._send(Paused(False))

    def on_hold(self, offload: Offload) -> None:
        """Let ``offload`` be called while the job is paused and others need the device's memory: it
        moves what it holds there to the host, and returns what moves it back."""
        self._offload = offload

    @property
    def is_leaving(self) -> bool:
        """Whether this attempt is to end for the sake of others: keep what was done, then raise
        CancelledError. The job goes on from there later."""
        return self._leaving.is_set()

    def raise_if_cancelled(self) -> None:
        """Raise CancelledError when the job is to end; call it at every step."""
        if self._cancelled.is_set():
            raise CancelledError

    # -- told by the server ----------------------------------------------------------------------

    def cancel(self) -> None:
        """Make `raise_if_cancelled` raise."""
        self._cancelled.set()
        self._let_go_on()

    def leave(self) -> None:
        """Make `is_leaving` true."""
        self._leaving.set()
        self._let_go_on()

    def pause(self, paused: bool, still_s: float = 0.0, *, give_memory: bool = False) -> None:
        """Make the job give way, and its device's memory too, or go on after it was held for
        ``still_s`` seconds."""
        self.still_s += still_s
        if not paused or self._cancelled.is_set() or self._leaving.is_set():
            self._let_go_on()
        else:
            self._is_held, self._gives_memory = True, give_memory
            self._woken.set()

    def _let_go_on(self) -> None:
        self._is_held = self._gives_memory = False
        self._woken.set()

    def answered(self, message: JobAnswer) -> None:
        """Take an answer in."""
        self._asks.take(message)

"""The job workers: one process per running job, supervised from start to settled outcome."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmos.errors import (
    CancelledError,
    DiskFullError,
    FencedError,
    InvalidRequestError,
    JobFailedError,
    LlmosError,
    by_code,
)
from llmos.kernel.child import Child, describe_exit, thread_environ
from llmos.kernel.jobs import Job
from llmos.kernel.protocol import (
    CancelJob,
    FromWorker,
    JobDone,
    JobFailed,
    JobLog,
    JobMetric,
    JobProgress,
    PauseJob,
    StartJob,
    UnsendableError,
    encode,
)
from llmos.kernel.queue import Commit, JobQueue

WORKER_MODULE = "llmos.kernel.worker"
TERMINATE_AFTER_S = 2.0
KILL_AFTER_S = 4.0
END_GRACE_S = 2.0
MAX_CRASH_LINES = 20
MAX_CRASH_BYTES = 20_000

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Worker:
    job: Job
    child: Child
    started_at: float
    heard_at: float
    """Monotonic seconds of the last message."""
    log_start_bytes: int
    """Where in the log file this attempt's output begins."""
    task: asyncio.Task[None] | None = None
    cancelling: asyncio.Task[None] | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    is_paused: bool = False
    expired: bool = False
    job_ended: bool = False
    """The job is final: nothing of it is to be kept once the process is gone."""


class Workers:
    """Starts workers, keeps what they say, settles how they ended. Belongs to one event loop.

    Args:
        home: the llmos home; logs go to ``logs/job-N.log``, checkpoints to ``jobs/N/``.
        commit: stores artifacts in the transaction that ends a job.
        on_end: called with the job and the seconds it ran, once its worker is gone.
        environ: added to the environment of each worker.
        monotonic: seconds; leases of live workers are judged by it, so the wall clock may jump.
    """

    def __init__(
        self,
        queue: JobQueue,
        *,
        home: Path,
        heartbeat_s: float,
        lease_s: float,
        commit: Commit,
        on_end: Callable[[Job, float], None],
        environ: Mapping[str, str] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._queue = queue
        self._home = home
        self._environ = dict(environ or {})
        self._heartbeat_s = heartbeat_s
        self._lease_s = lease_s
        self._commit = commit
        self._on_end = on_end
        self._monotonic = monotonic
        self._workers: dict[int, _Worker] = {}

    async def start(self, job: Job) -> None:
        """Start a worker on a claimed job.

        Raises:
            OSError: no process can be had.
            InvalidRequestError: its kind is gone, or its params cannot be sent to a process.
        """
        message = self._start_message(job)
        directory = self._checkpoint_dir(job.id)
        directory.mkdir(parents=True, exist_ok=True)
        log_path = self._log_path(job.id)
        log_start_bytes = log_path.stat().st_size if log_path.exists() else 0
        environ = {**self._environ, **thread_environ(job.threads)}
        child = await Child.start(WORKER_MODULE, FromWorker, log_path, environ)
        try:
            child.channel.send(message)
        except BaseException:
            await child.end(0.0)
            raise
        now = self._monotonic()
        worker = _Worker(job, child, now, now, log_start_bytes)
        self._workers[job.id] = worker
        worker.task = asyncio.create_task(self._run(worker), name=f"job-{job.id}")

    def pid(self, job_id: int) -> int | None:
        """Return the process id of a job's worker; None while it has none."""
        worker = self._workers.get(job_id)
        return worker.child.pid if worker else None

    def lease_left_s(self, job_id: int) -> float | None:
        """Return how long a job's worker may stay silent; None when the job has none here."""
        worker = self._workers.get(job_id)
        return None if worker is None else self._lease_s - (self._monotonic() - worker.heard_at)

    def running_s(self) -> list[tuple[str, float]]:
        """Return the owner of each worker and how many seconds it has run."""
        now = self._monotonic()
        return [(worker.job.owner, now - worker.started_at) for worker in self._workers.values()]

    def set_paused(self, job_id: int, paused: bool) -> None:
        """Ask a job's handler to give way, or to go on."""
        worker = self._workers.get(job_id)
        if worker and worker.is_paused != paused:
            worker.is_paused = paused
            worker.child.channel.send(PauseJob(paused))

    def cancel(self, job_id: int) -> None:
        """Ask a job's worker to end; make it, if it has not within seconds."""
        worker = self._workers.get(job_id)
        if worker and worker.cancelling is None:
            worker.cancelling = asyncio.create_task(_cancel(worker), name=f"cancel-{job_id}")

    def expire(self, job_id: int) -> bool:
        """Kill a job's silent worker, which settles the job; False when it has none here."""
        worker = self._workers.get(job_id)
        if worker is None:
            return False
        worker.expired = True
        worker.child.signal(signal.SIGKILL)
        return True

    async def stop(self) -> None:
        """Queue every running job again, then end the workers."""
        workers = list(self._workers.values())
        for worker in workers:
            try:
                await self._queue.requeue(worker.job.id, worker.job.fence)
            except FencedError:
                log.info("job %d has just ended", worker.job.id)
            except LlmosError as error:
                log.warning("job %d is requeued at the next start: %s", worker.job.id, error)
        await asyncio.gather(*(worker.child.channel.close() for worker in workers))
        await asyncio.gather(*(worker.ended.wait() for worker in workers))

    async def job_ended(self, job_id: int) -> None:
        """Remove what an ended job kept; once more when its worker, which may write, is gone."""
        if worker := self._workers.get(job_id):
            worker.job_ended = True
        await asyncio.to_thread(self.remove_checkpoints, job_id)

    def remove_checkpoints(self, job_id: int) -> None:
        """Remove what an ended job kept across attempts."""
        shutil.rmtree(self._checkpoint_dir(job_id), ignore_errors=True)

    def checkpointed(self) -> list[int]:
        """Return the ids of jobs that have a checkpoint directory."""
        directory = self._home / "jobs"
        names = [path.name for path in directory.iterdir()] if directory.is_dir() else []
        return [int(name) for name in names if name.isdecimal()]

    # -- inside ----------------------------------------------------------------------------------

    def _start_message(self, job: Job) -> StartJob:
        """Return what a worker is told first. Raises InvalidRequestError, see `start`."""
        message = StartJob(
            job_id=job.id,
            fence=job.fence,
            attempt=job.attempt,
            handler=self._queue.kind(job.kind).handler,
            name=job.name,
            params=job.params,
            owner=job.owner,
            home=str(self._home),
            checkpoint_dir=str(self._checkpoint_dir(job.id)),
            threads=job.threads,
            heartbeat_s=self._heartbeat_s,
        )
        try:
            encode(message)
        except UnsendableError as error:
            raise InvalidRequestError(f"The params of this job cannot be used: {error}.") from error
        return message

    def _log_path(self, job_id: int) -> Path:
        return self._home / "logs" / f"job-{job_id}.log"

    def _checkpoint_dir(self, job_id: int) -> Path:
        return self._home / "jobs" / str(job_id)

    async def _run(self, worker: _Worker) -> None:
        job = worker.job
        try:
            await self._settle(worker, await self._attend(worker))
        except FencedError as error:
            log.info("%s", error)
        except Exception as error:  # a worker's top loop: what goes wrong here is its job's error
            log.exception("the outcome of job %d could not be kept", job.id)
            await self._fail(job, error)
        finally:
            await worker.child.end(END_GRACE_S)
            if worker.job_ended:
                await asyncio.to_thread(self.remove_checkpoints, job.id)
            worker.ended.set()
            del self._workers[job.id]
            self._on_end(job, self._monotonic() - worker.started_at)

    async def _attend(self, worker: _Worker) -> JobDone | JobFailed | None:
        """Keep what a worker says until it has finished (None: it died)."""
        try:
            while messages := await worker.child.channel.receive():
                worker.heard_at = self._monotonic()
                await self._keep(worker, messages)
                for message in messages:
                    if isinstance(message, JobDone | JobFailed):
                        return message
        except ValueError as error:
            return JobFailed(LlmosError.code, f"The worker sent what is no message: {error}", True)
        return None

    async def _keep_last_words(self, worker: _Worker) -> None:
        """Add the end of what a dead worker printed to its job's log. Raises FencedError."""
        path = self._log_path(worker.job.id)
        lines = await asyncio.to_thread(last_lines, path, worker.log_start_bytes)
        await self._keep(worker, [JobLog(line) for line in lines])

    async def _keep(self, worker: _Worker, messages: Sequence[FromWorker]) -> None:
        """Write progress, log lines and metrics down, and renew the lease. Raises FencedError."""
        progress: dict[str, Any] | None = None
        events: list[tuple[str, dict[str, Any]]] = []
        for message in messages:
            match message:
                case JobProgress(step, total, text):
                    progress = {"step": step, "total": total, "message": text}
                case JobLog(line):
                    events.append(("log", {"line": line}))
                case JobMetric(step, values):
                    events.append(("metric", {**values, "step": step}))
        job = worker.job
        try:
            await self._queue.report(
                job.id, job.fence, self._lease_s, progress=progress, events=events
            )
        except DiskFullError:
            log.warning("the disk is full: %d events of job %d are lost", len(events), job.id)

    async def _settle(self, worker: _Worker, outcome: JobDone | JobFailed | None) -> None:
        """Bring the job to where its attempt leads it. Raises FencedError."""
        job, queue = worker.job, self._queue
        if isinstance(outcome, JobDone):
            try:
                await queue.complete(job.id, job.fence, outcome.result, self._commit)
            except FencedError:
                raise
            except LlmosError as refusal:
                retryable = refusal.retryable or isinstance(refusal, DiskFullError)
                await queue.fail(job.id, job.fence, refusal, retryable=retryable)
        elif outcome is None:
            status = await worker.child.end(END_GRACE_S)
            await self._keep_last_words(worker)
            await queue.fail(job.id, job.fence, self._crash(worker, status), retryable=True)
        elif outcome.code == CancelledError.code:
            await queue.cancelled(job.id, job.fence)
        else:
            error = by_code(outcome.code)(outcome.message)
            await queue.fail(job.id, job.fence, error, retryable=outcome.retryable)

    async def _fail(self, job: Job, error: Exception) -> None:
        """Fail an attempt; if that cannot be kept either, its lease will run out."""
        failure = LlmosError(f"The outcome could not be kept: {type(error).__name__}: {error}")
        try:
            await self._queue.fail(job.id, job.fence, failure, retryable=True)
        except LlmosError as again:
            log.warning("job %d waits for its lease to run out: %s", job.id, again)

    def _crash(self, worker: _Worker, status: int) -> JobFailedError:
        how = describe_exit(status)
        if worker.expired:
            how = f"gave no sign of life for {self._lease_s:g} s and was stopped"
        return JobFailedError(f"The worker {how}: `llmos jobs logs {worker.job.id}` may say why.")


def last_lines(path: Path, start_bytes: int) -> list[str]:
    """Return the last few lines of a log file from ``start_bytes`` on; none if it is not there."""
    try:
        with path.open("rb") as log_file:
            size_bytes = log_file.seek(0, os.SEEK_END)
            log_file.seek(max(start_bytes, size_bytes - MAX_CRASH_BYTES))
            text = log_file.read(MAX_CRASH_BYTES).decode(errors="replace")
    except OSError:
        return []
    return [line for line in text.splitlines() if line.strip()][-MAX_CRASH_LINES:]


async def _cancel(worker: _Worker) -> None:
    """Ask, then insist, then kill."""
    worker.child.channel.send(CancelJob())
    for wait_s, number in (
        (TERMINATE_AFTER_S, signal.SIGTERM),
        (KILL_AFTER_S - TERMINATE_AFTER_S, signal.SIGKILL),
    ):
        try:
            await asyncio.wait_for(worker.ended.wait(), wait_s)
        except TimeoutError:
            worker.child.signal(number)
        else:
            return

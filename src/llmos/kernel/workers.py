"""The job workers: one process per running job, supervised from start to settled outcome."""

from __future__ import annotations

import asyncio
import functools
import logging
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmos.errors import (
    CancelledError,
    DiskFullError,
    FencedError,
    InvalidRequestError,
    JobFailedError,
    LlmosError,
    told_error,
)
from llmos.kernel.asks import Answerer, AskDesk, not_open
from llmos.kernel.attempts import Commit
from llmos.kernel.child import Child, describe_exit, thread_environ
from llmos.kernel.endings import Ending
from llmos.kernel.holds import Hold, HoldReason
from llmos.kernel.job_files import JobFiles
from llmos.kernel.jobs import Job
from llmos.kernel.protocol import (
    FromWorker,
    JobDone,
    JobFailed,
    JobLog,
    JobMetric,
    JobProgress,
    Paused,
    StartJob,
    UnsendableError,
    encode,
)
from llmos.kernel.queue import JobQueue

WORKER_MODULE = "llmos.kernel.worker"
END_GRACE_S = 2.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Standing:
    """How a job's worker stands."""

    lease_left_s: float
    """How long it may stay silent; the lease of one that is stopped is frozen."""
    ran_s: float
    """How long it has run, holds left out."""
    held: tuple[HoldReason, ...]
    is_leaving: bool
    is_parked: bool
    """It was preempted and holds none of its device's memory, but stands by."""


@dataclass(slots=True, eq=False)
class _Worker:
    job: Job
    child: Child
    hold: Hold
    ending: Ending
    desk: AskDesk
    log_start_bytes: int
    """Where in the log file this attempt's output begins."""
    kept_at: float
    """Monotonic seconds at which the lease in the job's row was last renewed."""
    kept_s: float = 0.0
    """Of the seconds it ran: those that are in the row."""
    task: asyncio.Task[None] | None = None
    given_up: tuple[LlmosError, bool] | None = None
    """Why it was killed, and whether the job may be tried again; None: it was not."""
    job_ended: bool = False
    """The job is final: nothing of it is to be kept once the process is gone."""

    def has_left(self, outcome: JobFailed | None) -> bool:
        """Whether it ended so (None: died) because it was preempted, and through no fault."""
        is_over = outcome is None or outcome.code == CancelledError.code
        return self.ending.is_leaving and self.given_up is None and is_over


class Workers:
    """Starts workers, keeps what they say, settles how they ended. Belongs to one event loop.

    Args:
        home: the llmos home; logs go to ``logs/job-N.log``, checkpoints to ``jobs/N/``.
        commit: stores artifacts in the transaction that ends a job.
        on_end: called with the job and the seconds this attempt ran, pauses left out, once its
            worker is gone.
        environ: added to the environment of each worker.
        on_park: called with a job whose worker gave its device's memory up, see `preempt`.
        on_cpu: whether jobs compute on the CPU. Then a worker that does not pause in time is
            stopped by signal, see `Hold`; one on a light job never is, as whoever it talks to would
            not wait. Elsewhere one that is preempted need not leave if its kind offloads.
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
        on_park: Callable[[Job], None],
        environ: Mapping[str, str] | None = None,
        on_cpu: bool = True,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._queue = queue
        self._home = home
        self.files = JobFiles(home)
        self._environ = dict(environ or {})
        self._heartbeat_s = heartbeat_s
        self._lease_s = lease_s
        self.commit = commit
        self._on_end = on_end
        self._on_park = on_park
        self._on_cpu = on_cpu
        self._monotonic = monotonic
        self._workers: dict[int, _Worker] = {}
        self.answerer: Answerer = not_open
        """Answers what jobs ask; whoever serves puts its own here."""

    async def start(self, job: Job, devices: tuple[str, ...] = ()) -> None:
        """Start a worker on a claimed job.

        Args:
            devices: of its processes, where it has several.

        Raises:
            OSError: no process can be had.
            InvalidRequestError: its kind is gone, or its params cannot be sent to a process.
        """
        message = self._start_message(job, devices)
        self.files.checkpoint_dir(job.id).mkdir(parents=True, exist_ok=True)
        log_start_bytes = self.files.log_size_bytes(job.id)
        environ = {**self._environ, **thread_environ(job.threads)}
        log_path = self.files.log_path(job.id)
        child = await Child.start(WORKER_MODULE, FromWorker, log_path, environ)
        try:
            child.channel.send(message)
        except BaseException:
            await child.end(0.0)
            raise
        kind = self._queue.kind(job.kind)
        hold = Hold(child, self._monotonic, stops=self._on_cpu and not kind.light)
        may_park = kind.offloads and not self._on_cpu
        on_park = functools.partial(self._on_park, job) if may_park else None
        desk = AskDesk(job, child.channel.send, lambda job, ask: self.answerer(job, ask))
        ending = Ending(child, hold, on_park)
        worker = _Worker(job, child, hold, ending, desk, log_start_bytes, self._monotonic())
        self._workers[job.id] = worker
        worker.task = asyncio.create_task(self._run(worker), name=f"job-{job.id}")

    def pid(self, job_id: int) -> int | None:
        """Return the process id of a job's worker; None while it has none."""
        worker = self._workers.get(job_id)
        return worker.child.pid if worker else None

    def standing(self, job_id: int) -> Standing | None:
        """Return how a job's worker stands; None when it has none here."""
        if (worker := self._workers.get(job_id)) is None:
            return None
        hold, is_leaving = worker.hold, worker.ending.is_leaving
        left_s, is_parked = self._lease_s - hold.silent_s(), hold.is_parked
        return Standing(left_s, hold.active_s(), hold.reasons, is_leaving, is_parked)

    def running(self) -> list[tuple[Job, float]]:
        """Return each job that has a worker and how many seconds that has run, pauses left out."""
        return [(worker.job, worker.hold.active_s()) for worker in self._workers.values()]

    def hold(self, job_id: int, reason: HoldReason) -> None:
        """Hold a job's worker still until every reason to is gone; no-op when it has none."""
        if worker := self._workers.get(job_id):
            worker.hold.add(reason)

    def release(self, job_id: int, reason: HoldReason) -> None:
        """Take a reason to hold a job's worker back; no-op when it is not held for it."""
        if worker := self._workers.get(job_id):
            worker.hold.remove(reason)

    def held(self, job_id: int) -> tuple[HoldReason, ...]:
        """Return why a job's worker is held; empty when it is not, or there is none."""
        worker = self._workers.get(job_id)
        return worker.hold.reasons if worker else ()

    def cancel(self, job_id: int) -> bool:
        """Ask a job's worker to end; make it, if it has not within seconds. False when it has none
        here."""
        worker = self._workers.get(job_id)
        if worker is None:
            return False
        worker.ending.cancel()
        return True

    def preempt(self, job_id: int) -> None:
        """Have a job's worker keep what it has done and end, within a while; the job is queued
        again at no cost to it. Or, on a device of its own memory, have one that can give that up,
        and stand by until `release` takes the reason "preempted" back."""
        if worker := self._workers.get(job_id):
            worker.ending.leave()

    async def renew(self) -> None:
        """Renew the leases of workers that are stopped, which cannot speak for themselves."""
        for worker in list(self._workers.values()):
            is_due = self._monotonic() - worker.kept_at >= self._heartbeat_s
            if worker.hold.is_stopped and is_due:
                try:
                    await self._keep(worker, [])
                except FencedError:  # its job is another attempt's by now
                    worker.child.signal(signal.SIGKILL)

    def expire(self, job_id: int) -> bool:
        """Kill a job's silent worker, which settles the job; False when it has none here."""
        how = f"gave no sign of life for {self._lease_s:g} s and was stopped"
        return self.give_up(job_id, _lost(job_id, how), retryable=True)

    def give_up(self, job_id: int, error: LlmosError, *, retryable: bool) -> bool:
        """Kill a job's worker, whose attempt fails so; False when it has none here."""
        worker = self._workers.get(job_id)
        if worker is None:
            return False
        worker.given_up = error, retryable
        worker.child.signal(signal.SIGKILL)
        return True

    async def stop(self) -> None:
        """Queue every running job again, then end the workers."""
        workers = list(self._workers.values())
        for worker in workers:
            worker.hold.end()
            try:
                await self._keep(worker, [])
                await self._queue.requeue(worker.job.id, worker.job.fence)
            except FencedError:
                log.info("job %d has just ended", worker.job.id)
            except LlmosError as error:
                log.warning("job %d is requeued at the next start: %s", worker.job.id, error)
        await asyncio.gather(*(worker.child.channel.close() for worker in workers))
        await asyncio.gather(*(worker.ending.is_done.wait() for worker in workers))

    async def job_ended(self, job_id: int) -> None:
        """Remove what an ended job kept; once more when its worker, which may write, is gone."""
        if worker := self._workers.get(job_id):
            worker.job_ended = True
        await asyncio.to_thread(self.files.remove_checkpoints, job_id)

    # -- inside ----------------------------------------------------------------------------------

    def _start_message(self, job: Job, devices: tuple[str, ...]) -> StartJob:
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
            checkpoint_dir=str(self.files.checkpoint_dir(job.id)),
            threads=job.threads,
            heartbeat_s=self._heartbeat_s,
            devices=devices,
        )
        try:
            encode(message)
        except UnsendableError as error:
            raise InvalidRequestError(f"The params of this job cannot be used: {error}.") from error
        return message

    async def _run(self, worker: _Worker) -> None:
        job = worker.job
        try:
            outcome = await self._attend(worker)
            await self._keep(worker, [])
            await self._settle(worker, outcome)
        except FencedError as error:
            log.info("%s", error)
        except Exception as error:  # a worker's top loop: what goes wrong here is its job's error
            log.exception("the outcome of job %d could not be kept", job.id)
            await self._fail(job, error)
        finally:
            seconds = worker.hold.active_s()
            worker.hold.end()
            worker.desk.close()
            await worker.child.end(END_GRACE_S)
            if worker.job_ended:
                await asyncio.to_thread(self.files.remove_checkpoints, job.id)
            worker.ending.is_done.set()
            del self._workers[job.id]
            self._on_end(job, seconds)

    async def _attend(self, worker: _Worker) -> JobDone | JobFailed | None:
        """Keep what a worker says until it has finished (None: it died)."""
        try:
            while messages := await worker.child.channel.receive():
                for message in messages:
                    if isinstance(message, Paused):
                        worker.hold.answered(message.paused, message.gave_memory)
                worker.hold.heard()
                said = worker.desk.take(messages)
                if not said:  # asks alone: they come by the hundred and cost no write
                    continue
                await self._keep(worker, said)
                for message in said:
                    if isinstance(message, JobDone | JobFailed):
                        return message
        except ValueError as error:
            return JobFailed(LlmosError.code, f"The worker sent what is no message: {error}", True)
        return None

    async def _keep_last_words(self, worker: _Worker) -> None:
        """Add the end of what a dead worker printed to its job's log. Raises FencedError."""
        last_lines = self.files.last_lines
        lines = await asyncio.to_thread(last_lines, worker.job.id, worker.log_start_bytes)
        await self._keep(worker, [JobLog(line) for line in lines])

    async def _keep(self, worker: _Worker, messages: Sequence[FromWorker]) -> None:
        """Write progress, log lines, metrics and the seconds it ran down, and renew the lease.

        Raises FencedError.
        """
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
        job, active_s = worker.job, worker.hold.active_s()
        unkept_s, worker.kept_s = active_s - worker.kept_s, active_s
        worker.kept_at = self._monotonic()
        try:
            await self._queue.report(
                job.id,
                job.fence,
                self._lease_s,
                progress=progress,
                events=events,
                compute_s=unkept_s,
            )
        except DiskFullError:
            worker.kept_s -= unkept_s
            log.warning("the disk is full: %d events of job %d are lost", len(events), job.id)

    async def _settle(self, worker: _Worker, outcome: JobDone | JobFailed | None) -> None:
        """Bring the job to where its attempt leads it. Raises FencedError."""
        job, queue = worker.job, self._queue
        if isinstance(outcome, JobDone):
            try:
                await queue.complete(job.id, job.fence, outcome.result, self.commit)
            except FencedError:
                raise
            except LlmosError as refusal:
                retryable = refusal.retryable or isinstance(refusal, DiskFullError)
                await queue.fail(job.id, job.fence, refusal, retryable=retryable)
        elif worker.has_left(outcome):
            await queue.requeue(job.id, job.fence)
        elif outcome is None:
            status = await worker.child.end(END_GRACE_S)
            await self._keep_last_words(worker)
            crash = _lost(job.id, describe_exit(status)), True
            error, retryable = worker.given_up or crash
            await queue.fail(job.id, job.fence, error, retryable=retryable)
        elif outcome.code == CancelledError.code:
            await queue.cancelled(job.id, job.fence)
        else:
            error = told_error(outcome.code, outcome.message)
            await queue.fail(job.id, job.fence, error, retryable=outcome.retryable)

    async def _fail(self, job: Job, error: Exception) -> None:
        """Fail an attempt; if that cannot be kept either, its lease will run out."""
        failure = LlmosError(f"The outcome could not be kept: {type(error).__name__}: {error}")
        try:
            await self._queue.fail(job.id, job.fence, failure, retryable=True)
        except LlmosError as again:
            log.warning("job %d waits for its lease to run out: %s", job.id, again)


def _lost(job_id: int, how: str) -> JobFailedError:
    return JobFailedError(f"The worker {how}: `llmos jobs logs {job_id}` may say why.")

"""The kernel: asks the scheduler what to do whenever something changed, and does it.

It owns the queue, the ledger's use, the resident models and the job workers.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import time
from collections.abc import AsyncGenerator, Callable, Mapping

from llmos.errors import FencedError, JobFailedError, LlmosError, OutOfMemoryError
from llmos.kernel import scheduler
from llmos.kernel.child import thread_environ
from llmos.kernel.events import EventBus
from llmos.kernel.jobs import Job, JobEvent, JobKind, JobState
from llmos.kernel.ledger import Ledger, format_bytes
from llmos.kernel.models import too_large
from llmos.kernel.queue import Commit, JobQueue, topic
from llmos.kernel.residency import ENGINE_MODULE, Residency
from llmos.kernel.scheduler import ActiveJob, ReadyJob, State, decide
from llmos.kernel.transitions import Audit
from llmos.kernel.usage import Usage
from llmos.kernel.view import QueueView
from llmos.kernel.workers import Workers
from llmos.settings import Settings
from llmos.storage.database import Database

AGEING_S = 300.0
LONGEST_WAIT_S = 10.0
SHORTEST_WAIT_S = 0.1
RETRY_S = 1.0

log = logging.getLogger(__name__)


class Kernel:
    """Runs jobs and keeps models, between `start` and `stop`. Belongs to one event loop.

    Args:
        kinds: every job kind by name.
        clock: Unix seconds.
        commit: stores a job's artifacts inside the transaction that ends it.
        rng: draws the delays of retries.
        audit: see `transitions.Audit`.
        engine_module: the engine process, run as ``python -m engine_module FD``.
    """

    def __init__(
        self,
        db: Database,
        ledger: Ledger,
        kinds: Mapping[str, JobKind],
        settings: Settings,
        clock: Callable[[], float],
        commit: Commit,
        *,
        rng: random.Random,
        audit: Audit | None = None,
        engine_module: str = ENGINE_MODULE,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._threads = settings.threads or os.cpu_count() or 1
        self._wake = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None
        self._stopping = False
        self._usage = Usage(monotonic)
        self.ledger = ledger
        self.events = EventBus()
        self.jobs = JobQueue(
            db,
            kinds,
            clock,
            rng=rng,
            bus=self.events,
            audit=audit,
            capacity_bytes=ledger.capacity_bytes,
        )
        self.jobs.changed = self._wake.set
        self.residency = Residency(
            ledger,
            clock,
            log_path=settings.logs_path / "engine.log",
            max_queue=settings.max_queue,
            module=engine_module,
            environ={
                "LLMOS_DEVICE": settings.device,
                "LLMOS_THREADS": str(self._threads),
                "LLMOS_ITL_TARGET_MS": str(settings.itl_target_ms),
                **thread_environ(self._threads),
            },
            on_change=self._wake.set,
            stall_s=settings.engine_stall_s,
            monotonic=monotonic,
        )
        self.workers = Workers(
            self.jobs,
            home=settings.home,
            heartbeat_s=settings.heartbeat_s,
            lease_s=settings.lease_s,
            commit=commit,
            on_end=self._worker_ended,
            environ={"LLMOS_DEVICE": settings.device},
            monotonic=monotonic,
        )
        self.jobs.ended = self.workers.job_ended

    async def start(self) -> None:
        """Take back the jobs that were running when the last server ended, then begin."""
        for job_id in await self.jobs.requeue_all():
            log.info("job %d was interrupted and is queued again", job_id)
        await self._remove_old_checkpoints()
        self._loop = asyncio.create_task(self._run(), name="kernel")

    async def stop(self) -> None:
        """Begin nothing more, queue running jobs again, end the workers and the engine."""
        self._stopping = True
        self._wake.set()
        if self._loop:
            await self._loop  # a step is not interrupted: it may be starting a worker
        await self.workers.stop()
        await self.residency.stop()

    async def follow(self, job_id: int, after_event_id: int = 0) -> AsyncGenerator[JobEvent, None]:
        """Yield a job's events, stored and live, each once and in order, until it has ended.

        Of progress (id 0) only the newest is yielded. Close the generator to stop following.

        Raises:
            JobNotFoundError: there is no such job.
        """
        with self.events.subscribe(topic(job_id)) as live:
            while True:
                job = await self.jobs.get(job_id)
                while events := await self.jobs.events(job_id, after_event_id):
                    for event in events:
                        yield event
                    after_event_id = events[-1].id
                if job.state.is_final:
                    return
                news: list[JobEvent] = [await anext(live), *live.take_all()]
                for event in [event for event in news if event.type == "progress"][-1:]:
                    yield event

    # -- the loop --------------------------------------------------------------------------------

    async def _run(self) -> None:
        while not self._stopping:
            self._wake.clear()
            try:
                wait_s = await self.step()
            except Exception:  # the kernel's top loop: what failed now is tried again
                log.exception("a scheduling step failed")
                wait_s = RETRY_S
            if not self._stopping:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), wait_s)

    async def step(self) -> float:
        """Decide once and do it. Return the seconds after which to look again, come what may."""
        self.residency.end_if_stalled()
        view = await self.jobs.view()
        for job in view.active:
            self.workers.set_paused(job.id, job.state is JobState.PAUSED)
        state = self._state(view)
        actions = decide(state)
        placed = sum(isinstance(action, scheduler.Start | scheduler.Load) for action in actions)
        self.residency.wake_on_release = placed < len(state.ready) + len(state.wanted)
        for action in actions:
            self._do_now(action, state)
        for action in actions:
            await self._do_job(action, state)
        return self._wait_s(view, state)

    def _state(self, view: QueueView) -> State:
        now = self._clock()
        return State(
            now=now,
            free_bytes=self.ledger.free_bytes,
            capacity_bytes=self.ledger.capacity_bytes,
            max_workers=self._settings.max_workers,
            idle_s=self._settings.idle_s,
            ageing_s=AGEING_S,
            ready=tuple(
                self._ready(job, now)
                for job in view.ready
                if self.workers.pid(job.id) is None  # its last worker is still on its way out
            ),
            active=tuple(self._active(job, now) for job in view.active),
            models=self.residency.resident(),
            wanted=self.residency.wanted(),
            usage_s=self._usage.with_running(self.workers.running_s()),
        )

    def _ready(self, job: Job, now: float) -> ReadyJob:
        return ReadyJob(
            job.id,
            job.owner,
            job.priority,
            job.queued_at or now,
            job.reserved_bytes,
            self._is_light(job),
        )

    def _active(self, job: Job, now: float) -> ActiveJob:
        left_s = self.workers.lease_left_s(job.id)
        expires_at = job.lease_expires_at or 0.0 if left_s is None else now + left_s
        return ActiveJob(
            job.id,
            job.fence,
            job.owner,
            expires_at,
            job.reserved_bytes,
            job.cancel_requested,
            self._is_light(job),
        )

    def _is_light(self, job: Job) -> bool:
        kind = self.jobs.kinds.get(job.kind)
        return kind is not None and kind.light

    def _do_now(self, action: scheduler.Action, state: State) -> None:
        """Do what needs no waiting, before anything else can change."""
        match action:
            case scheduler.Evict(key):
                self.residency.evict(key)
            case scheduler.Load(key, num_bytes):
                with contextlib.suppress(OutOfMemoryError):  # still wanted at the next step
                    self.residency.load(key, num_bytes)
            case scheduler.Drain(key):
                self.residency.drain(key)
            case scheduler.Resume(key):
                self.residency.resume(key)
            case scheduler.RefuseModel(key):
                model = next(model for model in state.wanted if model.key == key)
                self.residency.refuse(key, too_large(model, self.ledger))
            case scheduler.Stop(job_id):
                self.workers.cancel(job_id)

    async def _do_job(self, action: scheduler.Action, state: State) -> None:
        match action:
            case scheduler.Start(job_id):
                job = next(job for job in state.ready if job.id == job_id)
                with contextlib.suppress(OutOfMemoryError):  # still ready at the next step
                    await self._start(job)
            case scheduler.Expire(job_id, fence):
                await self._expire(job_id, fence)
            case scheduler.RefuseJob(job_id):
                capacity = format_bytes(self.ledger.capacity_bytes)
                error = OutOfMemoryError(
                    f"This job needs more memory than llmos may use: {capacity}."
                )
                await self.jobs.refuse(job_id, error)

    async def _start(self, ready: ReadyJob) -> None:
        """Start a worker on a job. Raises OutOfMemoryError when its bytes are not free."""
        key = _ledger_key(ready.id)
        self.ledger.reserve(key, ready.num_bytes)
        has_started = False
        try:
            job = await self.jobs.claim(ready.id, self._settings.lease_s, self._threads)
            has_started = job is not None and await self._start_worker(job)
        finally:
            if not has_started:
                self.ledger.release(key)

    async def _start_worker(self, job: Job) -> bool:
        """Start a worker, or fail the attempt at once; say whether there is one."""
        failure: LlmosError
        try:
            await self.workers.start(job)
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
        await self.jobs.fail(job.id, job.fence, failure, retryable=retryable)
        return False

    async def _expire(self, job_id: int, fence: int) -> None:
        if not self.workers.expire(job_id):
            error = JobFailedError("The worker is gone and its lease ran out.")
            with contextlib.suppress(FencedError):
                await self.jobs.fail(job_id, fence, error, retryable=True)

    def _wait_s(self, view: QueueView, state: State) -> float:
        deadlines = [job.lease_expires_at for job in state.active]
        deadlines.append(scheduler.look_again_at(state))
        if view.next_not_before is not None:
            deadlines.append(view.next_not_before)
        wait_s = min(deadlines, default=state.now + LONGEST_WAIT_S) - self._clock()
        return min(max(wait_s, SHORTEST_WAIT_S), LONGEST_WAIT_S)

    def _worker_ended(self, job: Job, seconds: float) -> None:
        self.ledger.release(_ledger_key(job.id))
        self._usage.charge(job.owner, seconds)
        self._wake.set()

    async def _remove_old_checkpoints(self) -> None:
        """Remove the checkpoints of jobs that ended while the server could not."""
        for job_id in self.workers.checkpointed():
            try:
                ended = (await self.jobs.get(job_id)).state.is_final
            except LlmosError:
                ended = False
            if ended:
                await asyncio.to_thread(self.workers.remove_checkpoints, job_id)


def _ledger_key(job_id: int) -> str:
    return f"job:{job_id}"

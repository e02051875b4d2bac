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

from llmos.errors import OutOfMemoryError
from llmos.kernel.accounts import Accounts
from llmos.kernel.attempts import Commit
from llmos.kernel.events import EventBus
from llmos.kernel.fleet import Device, Fleet, open_devices
from llmos.kernel.following import follow_job
from llmos.kernel.jobs import Job, JobEvent, JobKind, JobState
from llmos.kernel.launcher import Launcher
from llmos.kernel.ledger import Ledger, format_bytes
from llmos.kernel.memory import MemoryWatch
from llmos.kernel.models import too_large
from llmos.kernel.observer import AGEING_S, Observer
from llmos.kernel.placing import Placing
from llmos.kernel.queue import JobQueue
from llmos.kernel.residency import ENGINE_MODULE
from llmos.kernel.room import Room
from llmos.kernel.scheduler import decide, look_again_at
from llmos.kernel.state import (
    Action,
    ContinueJob,
    Drain,
    Evict,
    Expire,
    Load,
    PauseJob,
    Preempt,
    RefuseJob,
    RefuseModel,
    Resume,
    Start,
    State,
    Stop,
)
from llmos.kernel.telemetry import Telemetry
from llmos.kernel.transitions import Audit, Outbox
from llmos.kernel.usage import Usage
from llmos.kernel.view import QueueView
from llmos.kernel.workers import Workers
from llmos.kernel.yielder import Yielder
from llmos.kernel.yielding import engine_threads, yield_actions
from llmos.settings import Settings
from llmos.storage.database import Database
from llmos.types import Priority

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
        audit, outbox: see `transitions`.
        read_joules: see `Accounts`.
        on_cpu: whether jobs compute on the CPU, see `Workers` and `MemoryWatch`.
        parking_bytes: what engines may use, beside the ledger, for prefixes of models swapped out.
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
        outbox: Outbox | None = None,
        read_joules: Callable[[], float | None] | None = None,
        on_cpu: bool = True,
        parking_bytes: int = 0,
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
            outbox=outbox,
            capacity_bytes=ledger.capacity_bytes,
        )
        self.jobs.changed = self._wake.set
        self.accounts = Accounts(
            db,
            clock,
            running=self._computing,
            read_joules=read_joules,
            audit=audit,
            on_change=self._wake.set,
        )
        self.room = Room(db, self.accounts.limits_of)
        self.fleet = self._open_fleet(on_cpu, parking_bytes, engine_module, monotonic)
        self.residency = self.fleet.devices[0].residency  # its models share memory with the jobs
        self.workers = self._open_workers(commit, on_cpu, monotonic)
        self.memory = self._open_memory(db, on_cpu)
        self.yielder = Yielder(self.workers, monotonic, AGEING_S)
        self._calm: asyncio.TimerHandle | None = None  # looks again when requests have ceased
        self._placing = Placing(self.fleet.ledgers, on_cpu=on_cpu)
        self._launcher = Launcher(self._placing, self.jobs, self.workers, settings, self._threads)
        self._observer = self._open_observer()
        self.jobs.on_end(self.accounts.job_ended)
        self.jobs.on_end(self._job_ended)
        self.jobs.admit = self.accounts.check_submission
        self.jobs.check_room = self.room.check

    def _open_fleet(
        self,
        on_cpu: bool,
        parking_bytes: int,
        engine_module: str,
        monotonic: Callable[[], float],
    ) -> Fleet:
        telemetry = Telemetry(self.accounts.tab)
        devices = open_devices(
            self._settings,
            self.ledger,
            self._clock,
            telemetry,
            threads=self._threads,
            on_cpu=on_cpu,
            parking_bytes=parking_bytes,
            module=engine_module,
            on_change=self._wake.set,
            monotonic=monotonic,
        )
        for device in devices:
            device.residency.on_lease = self._on_lease
        return Fleet(devices, telemetry, self._clock, self._settings.queue_target_s)

    def _open_workers(
        self, commit: Commit, on_cpu: bool, monotonic: Callable[[], float]
    ) -> Workers:
        settings = self._settings
        return Workers(
            self.jobs,
            home=settings.home,
            heartbeat_s=settings.heartbeat_s,
            lease_s=settings.lease_s,
            commit=self.room.within_store(commit),
            on_end=self._worker_ended,
            on_park=self._worker_parked,
            environ={"LLMOS_DEVICE": settings.device},
            on_cpu=on_cpu,
            monotonic=monotonic,
        )

    def _open_memory(self, db: Database, on_cpu: bool) -> MemoryWatch:
        return MemoryWatch(
            db,
            self.ledger,
            self.jobs,
            self.workers,
            [device.residency for device in self.fleet.devices],
            self._clock,
            on_cpu=on_cpu,
            on_change=self._wake.set,
        )

    def _open_observer(self) -> Observer:
        return Observer(
            self._settings,
            self._clock,
            self.ledger,
            self.jobs,
            self.residency,
            self.workers,
            self.memory,
            self.accounts,
            self._usage,
            self.yielder,
        )

    async def start(self) -> None:
        """Take back the jobs that were running when the last server ended, then begin."""
        await self.accounts.start()
        for job_id in await self.jobs.requeue_all():
            log.info("job %d was interrupted and goes on later", job_id)
        await self._launcher.remove_old_checkpoints()
        await self.memory.start()
        await self.fleet.start()
        self._loop = asyncio.create_task(self._run(), name="kernel")

    async def stop(self) -> None:
        """Begin nothing more, queue running jobs again, end the workers and the engine."""
        self._stopping = True
        self._wake.set()
        if self._loop:
            await self._loop  # a step is not interrupted: it may be starting a worker
        await self.workers.stop()
        await self.fleet.stop()
        await self.memory.stop()
        await self.accounts.stop()

    def follow(self, job_id: int, after_event_id: int = 0) -> AsyncGenerator[JobEvent, None]:
        """Yield a job's events until it has ended, see `follow_job`."""
        return follow_job(self.jobs, self.events, job_id, after_event_id)

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
        await self.workers.renew()
        view = await self.jobs.view(self._observer.room_bytes())
        for job in view.active:
            change = self.workers.hold if job.state is JobState.PAUSED else self.workers.release
            change(job.id, "user")
        self._hold_spent()
        self.memory.follow(view.active)
        state = self._observer.state(view)
        actions = decide(state)
        placed = sum(isinstance(action, Start | Load) for action in actions)
        self.residency.wake_on_release = placed < len(state.ready) + len(state.wanted)
        for action in actions:
            self._do_now(action, state)
        self._share_cores()
        for action in actions:
            await self._do_job(action, state)
        others = [self._tend(device) for device in self.fleet.devices[1:]]
        return self._wait_s(view, state, *others)

    def _tend(self, device: Device) -> float:
        """Decide which models a further device has. Return when to look again."""
        device.residency.end_if_stalled()
        state = self._observer.apart(device)
        actions = decide(state)
        device.residency.wake_on_release = len(actions) < len(state.wanted)
        for action in actions:
            self._do_model(action, state, device)
        return look_again_at(state)

    def _on_lease(self, priority: Priority, begins: bool) -> None:
        """Have jobs give way to an interactive request at once, as `decide` would have them too,
        but for that the queue has to be read."""
        if priority is not Priority.INTERACTIVE:
            return
        if self._calm:
            self._calm.cancel()
        if not begins:
            self.yielder.request_ended()
            if self.yielder.is_waiting:  # nothing changes before: no step for each short request
                loop = asyncio.get_running_loop()
                self._calm = loop.call_later(self._settings.yield_s, self._wake.set)
            return
        self.yielder.request_began()
        state = self._observer.pressing()
        if actions := yield_actions(state):
            for action in actions:
                self._do_now(action, state)
            self._share_cores()

    def _share_cores(self) -> None:
        """Let the engine compute with the cores that no running job has."""
        threads = engine_threads(self._threads, self._observer.pressing().active)
        for device in self.fleet.devices:
            device.residency.engine.set_threads(max(threads // len(self.fleet.devices), 1))

    def _computing(self) -> list[tuple[Job, float]]:
        """Return the jobs whose running is computing; light ones wait for others most of the time,
        and what they ask of models is charged there."""
        return [
            (job, ran_s)
            for job, ran_s in self.workers.running()
            if not self._observer.is_light(job)
        ]

    def _hold_spent(self) -> None:
        """Hold the jobs of owners who have had their compute seconds of the day, and no others."""
        self.accounts.charge_running()
        for job, _ in self.workers.running():
            may_go_on = self.accounts.may_compute(job.owner)
            change = self.workers.release if may_go_on else self.workers.hold
            change(job.id, "quota")

    def _do_model(self, action: Action, state: State, device: Device) -> None:
        """Do what is about a device's models."""
        residency = device.residency
        match action:
            case Evict(key):
                residency.evict(key)
            case Load(key, num_bytes):
                with contextlib.suppress(OutOfMemoryError):  # still wanted at the next step
                    residency.load(key, num_bytes)
            case Drain(key):
                residency.drain(key)
            case Resume(key):
                residency.resume(key)
            case RefuseModel(key):
                model = next(model for model in state.wanted if model.key == key)
                residency.refuse(key, too_large(model, device.ledger))

    def _do_now(self, action: Action, state: State) -> None:
        """Do what needs no waiting, before anything else can change."""
        self._do_model(action, state, self.fleet.devices[0])
        match action:
            case PauseJob(job_id):
                self.yielder.pause(job_id)
                self._wake.set()  # for how long it may be held is to be looked after
            case ContinueJob(job_id, has_turn):
                self.yielder.let_go_on(job_id, has_turn=has_turn)
                self._wake.set()
            case Preempt(job_id):
                log.info("job %d gives its worker up for others", job_id)
                self._observer.preempted(job_id)
                self.workers.preempt(job_id)

    async def _do_job(self, action: Action, state: State) -> None:
        match action:
            case Start(job_id):
                job = next(job for job in state.ready if job.id == job_id)
                with contextlib.suppress(OutOfMemoryError):  # still ready at the next step
                    if await self._launcher.start(job):
                        self._observer.started(job_id)
                        self._wake.set()  # it may have to give way
            case Stop(job_id, fence):
                await self._launcher.cancel(job_id, fence)
            case Expire(job_id, fence):
                await self._launcher.expire(job_id, fence)
            case RefuseJob(job_id):
                capacity = format_bytes(self.ledger.capacity_bytes)
                error = OutOfMemoryError(
                    f"This job needs more memory than llmos may use: {capacity}."
                )
                await self.jobs.refuse(job_id, error)

    def _wait_s(self, view: QueueView, state: State, *others: float) -> float:
        deadlines = [*others, *(job.lease_expires_at for job in state.active)]
        deadlines.append(look_again_at(state))
        deadlines.append(state.now + self.accounts.next_spent_s())
        if view.next_not_before is not None:
            deadlines.append(view.next_not_before)
        wait_s = min(deadlines, default=state.now + LONGEST_WAIT_S) - self._clock()
        return min(max(wait_s, SHORTEST_WAIT_S), LONGEST_WAIT_S)

    async def _job_ended(self, job: Job) -> None:
        self._observer.ended(job.id)
        await self.workers.job_ended(job.id)

    def _worker_parked(self, job: Job) -> None:
        self._placing.free(job.id)
        self._wake.set()

    def _worker_ended(self, job: Job, seconds: float) -> None:
        self._placing.forget(job.id)
        self.yielder.forget(job.id)
        self._usage.charge(job.owner, seconds)
        if not self._observer.is_light(job):
            self.accounts.worker_ended(job, seconds)
        self._wake.set()
        self.memory.worker_ended(job, seconds)

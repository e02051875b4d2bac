"""The composition root: Settings -> System. The only module that knows every package below it.

It opens a home (lock, database, blobs, keys, library, kernel, tasks) and closes it again. It serves
nothing: `llmos.server.process` does.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import logging
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
from sqlalchemy import Connection

from llmos.apps import annotation_jobs, batch_jobs, search_jobs
from llmos.apps.annotating import Annotation
from llmos.apps.batch_ends import BatchEnds
from llmos.apps.batch_store import Batches, commit_batch
from llmos.apps.runs import Runs
from llmos.apps.submitting import Submitter
from llmos.apps.tuning_store import Tunings, commit_tuning
from llmos.compression import jobs as compression_jobs
from llmos.data.datasets import jobs as dataset_jobs
from llmos.data.operators import builtin as builtin_operators
from llmos.engines import builtin as builtin_engines
from llmos.engines.base import is_cpu
from llmos.errors import DiskFullError, HomeLockedError
from llmos.evaluation import jobs as evaluation_jobs
from llmos.kernel import energy
from llmos.kernel.attempts import Commit
from llmos.kernel.deliveries import Deliveries
from llmos.kernel.device_memory import free_device_bytes
from llmos.kernel.jobs import Job
from llmos.kernel.kernel import Kernel
from llmos.kernel.ledger import Ledger, shares
from llmos.kernel.schedules import Begin, Schedule, Schedules
from llmos.kernel.webhooks import Webhooks
from llmos.library import deploying, evaluations
from llmos.library import jobs as library_jobs
from llmos.library.answers import Answers
from llmos.library.artifacts import Library
from llmos.library.deployments import Deployments
from llmos.library.drafts import parse_drafts
from llmos.library.feedback import FeedbackStore, commit_learned
from llmos.library.starter import install_starter_models
from llmos.plugins.manager import Plugins, load_plugins
from llmos.security import audit
from llmos.security.outbound import Outbound
from llmos.security.tokens import Keys
from llmos.settings import Settings
from llmos.storage.blobs import BlobStore
from llmos.storage.database import Database
from llmos.tasks.canaries import Canaries
from llmos.tasks.choosing import Choosing, open_choosing
from llmos.tasks.context import TaskContext
from llmos.tasks.pinning import Pins, parse_names
from llmos.tasks.templates import Templates
from llmos.tasks.tokenizers import Tokenizers
from llmos.training import jobs as training_jobs
from llmos.types import JobResult

BUILT_INS = (
    builtin_engines,
    library_jobs,
    deploying,
    training_jobs,
    compression_jobs,
    evaluation_jobs,
    batch_jobs,
    search_jobs,
    dataset_jobs,
    annotation_jobs,
    builtin_operators,
)

log = logging.getLogger(__name__)


class HomeLock:
    """Exclusive ownership of a home for as long as it is held.

    Raises:
        HomeLockedError: another process owns the home.
        DiskFullError: there is no room even for the lock file.
    """

    def __init__(self, run_path: Path) -> None:
        try:
            run_path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._file = (run_path / "lock").open("a+")
        except OSError as error:
            raise _unusable(run_path.parent, error) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            owner = self._file.read().strip() or "unknown"
            self._file.close()
            raise HomeLockedError(
                f"another llmos (process {owner}) owns {run_path.parent}: use that one, "
                "stop it with `llmos down`, or set another LLMOS_HOME"
            ) from None
        self._file.truncate(0)
        self._file.write(str(os.getpid()))
        self._file.flush()

    def release(self) -> None:
        """Give the home up."""
        self._file.close()


def _unusable(home: Path, error: OSError) -> Exception:
    if error.errno == errno.ENOSPC:
        return DiskFullError(f"no room left for {home}: free some space, then try again")
    return HomeLockedError(f"{home} cannot be used as a home ({error.strerror}): set LLMOS_HOME")


@dataclass(frozen=True, slots=True)
class System:
    """An open home. Make one with `open_system`; use it between `start` and `close`."""

    settings: Settings
    lock: HomeLock
    plugins: Plugins
    database: Database
    blobs: BlobStore
    keys: Keys
    library: Library
    deployments: Deployments
    answers: Answers
    feedback: FeedbackStore
    annotation: Annotation
    kernel: Kernel
    submitter: Submitter
    runs: Runs
    batches: Batches
    batch_ends: BatchEnds
    tunings: Tunings
    tasks: TaskContext
    pins: Pins
    canaries: Canaries
    choosing: Choosing
    webhooks: Webhooks
    deliveries: Deliveries
    schedules: Schedules

    async def start(self) -> None:
        """Start the kernel, which requeues what the last owner left running, and the helpers."""
        await self.webhooks.open()
        await self.kernel.start()
        await self.runs.open()
        await self.annotation.start()
        await self.batch_ends.start()
        await self.tasks.templates.start()
        await self.choosing.start()
        await self.pins.start()
        await self.deliveries.start()
        await self.schedules.start()

    async def close(self) -> None:
        """Stop workers (their jobs stay queued) and engines, flush the database, free the home."""
        await self.schedules.stop()
        await self.deliveries.stop()
        await self.batch_ends.stop()
        await self.runs.close()
        await self.pins.stop()
        await self.kernel.stop()
        await self.choosing.stop()
        await self.canaries.close()
        await self.tasks.close()
        self.database.close()
        self.lock.release()


def open_system(settings: Settings, clock: Callable[[], float] = time.time) -> System:
    """Take a home: lock and migrate it, make its admin key, put the starter models in its library.

    Raises:
        HomeLockedError: another process owns it.
        DatabaseVersionError: a newer llmos wrote it.
        DiskFullError: there is no room.
    """
    settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = HomeLock(settings.run_path)
    try:
        settings.logs_path.mkdir(exist_ok=True)
        database = Database.open(settings.database_path, clock)
    except BaseException:
        lock.release()
        raise
    try:
        return _assemble(settings, lock, database, clock)
    except BaseException:
        database.close()
        lock.release()
        raise


def _assemble(
    settings: Settings, lock: HomeLock, database: Database, clock: Callable[[], float]
) -> System:
    plugins = load_plugins(BUILT_INS)
    blobs = BlobStore(settings.blobs_path)
    keys = Keys(database, clock)
    keys.ensure_admin_key(settings.admin_key_path)
    library = Library(database, blobs, clock, settings.home / "models")
    install_starter_models(library, blobs)
    deployments = Deployments(database, clock)
    deployments.load()
    answers = Answers(database, clock)
    answers.load()
    feedback = FeedbackStore(database, clock)
    outbound = Outbound(allow_private=settings.allow_private_webhooks)
    webhooks = Webhooks(database, clock, outbound.check, audit=audit.record)
    kernel = _kernel(settings, database, plugins, library, webhooks, deployments, clock)
    submitter = Submitter(kernel.jobs, library, blobs, deployments, feedback)
    tasks = TaskContext(
        library,
        kernel.fleet,
        Tokenizers(blobs),
        Templates(),
        settings,
        capacity_bytes=kernel.ledger.capacity_bytes,
        changes=database.num_commits,
        answers=answers,
        drafts=parse_drafts(settings.drafts),
    )
    canaries = Canaries(deployments)
    telemetry, rng = kernel.fleet.telemetry, random.Random()
    choosing = open_choosing(database, tasks, telemetry, clock, rng, trials=canaries)
    runs = Runs(database, kernel.jobs, submitter, clock, keys.actor_of, outbox=webhooks)
    batches = Batches(database, kernel.jobs, clock)
    return System(
        settings=settings,
        lock=lock,
        plugins=plugins,
        database=database,
        blobs=blobs,
        keys=keys,
        library=library,
        deployments=deployments,
        answers=answers,
        feedback=feedback,
        annotation=Annotation(database, clock),
        kernel=kernel,
        submitter=submitter,
        runs=runs,
        batches=batches,
        batch_ends=BatchEnds(batches, kernel.jobs, kernel.workers, blobs),
        tunings=Tunings(database, kernel.jobs, submitter, clock),
        tasks=tasks,
        pins=Pins(tasks, parse_names(settings.pinned), kernel.fleet.pin),
        canaries=canaries,
        choosing=choosing,
        webhooks=webhooks,
        deliveries=Deliveries(database, webhooks, outbound, clock, rng=random.Random()),
        schedules=Schedules(database, clock, _begin_with(runs, keys), audit=audit.record),
    )


def _kernel(
    settings: Settings,
    database: Database,
    plugins: Plugins,
    library: Library,
    webhooks: Webhooks,
    deployments: Deployments,
    clock: Callable[[], float],
) -> Kernel:
    """Return the kernel, with its part of the machine's memory."""
    on_cpu = is_cpu(settings.device)
    capacity_bytes, parked_bytes = _memory(settings, on_cpu)
    kernel = Kernel(
        database,
        Ledger(capacity_bytes),
        plugins.job_kinds(),
        settings,
        clock,
        _commit_to(library, deployments, clock),
        rng=random.Random(),
        audit=audit.record,
        outbox=webhooks,
        read_joules=energy.reader(),
        on_cpu=on_cpu,
        parking_bytes=parked_bytes,
    )
    kernel.jobs.on_end(deploying.listener(deployments))
    kernel.jobs.on_end(search_jobs.listener(kernel.jobs))
    kernel.jobs.next_job = compression_jobs.next_job
    return kernel


def _memory(settings: Settings, on_cpu: bool) -> tuple[int, int]:
    """Return how many bytes each engine may use, see `shares`."""
    host_bytes = psutil.virtual_memory().available
    device_bytes = None if on_cpu else free_device_bytes()
    if device_bytes is None and not on_cpu:
        device_bytes = host_bytes // settings.engines
        if not settings.memory_bytes:
            log.warning(
                "nvidia-smi does not tell how much memory the device has: set memory_bytes; until "
                "then as much is given out as this machine itself has"
            )
    return shares(settings.memory_bytes, settings.engines, host_bytes, device_bytes)


def _begin_with(runs: Runs, keys: Keys) -> Begin:
    """Return what starts a schedule's run, on the terms of the key that made the schedule."""

    async def begin(schedule: Schedule) -> int:
        actor = await asyncio.to_thread(keys.actor_of, schedule.key_id)
        return (await runs.start(actor, schedule.pipeline, schedule.id)).id

    return begin


def _commit_to(library: Library, deployments: Deployments, clock: Callable[[], float]) -> Commit:
    """Return what stores a finished job's artifacts in the transaction that ends the job."""

    def commit(connection: Connection, job: Job, result: JobResult) -> list[str]:
        if job.kind == evaluation_jobs.EVALUATE:
            evaluations.commit(connection, job, result, clock())
        if job.kind == deploying.DEPLOY:
            deploying.commit(connection, deployments, job)
        if job.kind == batch_jobs.BATCH:
            commit_batch(connection, job, result, clock())
        if job.kind == training_jobs.TRAIN:
            commit_tuning(connection, job, result, clock())
            commit_learned(connection, job, clock())
        return [
            library.commit(connection, new, job.owner, job.id, clock(), job.owner).ref
            for new in result.artifacts
        ]

    return commit

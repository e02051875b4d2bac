"""Keeps the ledger true to what running jobs really take, and acts before the machine swaps.

About once a second it measures every worker and the engines, then does what `outgrowth` says.

That is where jobs compute on the CPU, whose memory is the machine's. What a job takes of another
device is not measured: there its reservation stays as it was declared, nothing is learned from what
its process takes of the host, and of the rule only the machine's floor is left.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psutil
from sqlalchemy import Connection, update

from llmos.errors import LlmosError, OutOfMemoryError
from llmos.kernel.estimates import relative_error
from llmos.kernel.footprint import Footprint, FootprintReader
from llmos.kernel.jobs import Job, JobState
from llmos.kernel.ledger import Ledger, format_bytes, job_key
from llmos.kernel.measurements import Measurements
from llmos.kernel.outgrowth import (
    GROWTH,
    Await,
    Keep,
    Reading,
    Refuse,
    Reserve,
    Room,
    Stop,
    Verdict,
    floor_of,
    idle_bytes,
    what_to_do,
)
from llmos.kernel.queue import JobQueue
from llmos.kernel.residency import Residency
from llmos.kernel.workers import Workers
from llmos.storage import schema
from llmos.storage.database import Database

SAMPLE_S = 1.0
NEW_PEAK = 1.01
"""A peak has risen where it rose by more than this."""
MIN_SAMPLES = 3
"""A job seen less often may not have been seen at its peak: it cannot teach to reserve less."""

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Watched:
    """One attempt at a job, as far as it was measured."""

    job: Job
    peak_at: float
    """When the peak last rose by much: after so many seconds that its worker ran, holds left out,
    as what stands still cannot grow."""
    footprint: Footprint = field(default_factory=Footprint)
    peak_bytes: int = 0
    num_samples: int = 0
    wanted_bytes: int = 0
    """More than is reserved, for which it is held."""
    ended_as: JobState | None = None
    is_stopped: bool = False
    """Its worker is being killed by the rule."""

    @property
    def is_ending(self) -> bool:
        """Whether its memory will be free soon, whatever it takes now."""
        return self.is_stopped or self.ended_as is not None

    def saw(self, footprint: Footprint, ran_s: float) -> None:
        """Take a sample, made when its worker had run for so long."""
        self.footprint = footprint
        self.num_samples += 1
        if footprint.held_bytes > NEW_PEAK * self.peak_bytes:
            self.peak_at = ran_s
        self.peak_bytes = max(self.peak_bytes, footprint.held_bytes)


class MemoryWatch:
    """Measures workers and engines, applies the rule, and remembers what jobs and models took: from
    then on ``jobs`` and ``residencies`` expect as much of the next.

    Belongs to one event loop.

    Args:
        residencies: of each engine; the first shares its memory with the jobs.
        on_cpu: whether jobs compute on the CPU.
        clock: Unix seconds.
        on_change: called when there is something to decide: room was given back, or is wanted.
        read: blocking; takes the ids of processes that lead a session, see `FootprintReader`.
        available: bytes that this machine has left without swapping.
    """

    def __init__(
        self,
        db: Database,
        ledger: Ledger,
        jobs: JobQueue,
        workers: Workers,
        residencies: Sequence[Residency],
        clock: Callable[[], float],
        *,
        on_cpu: bool = True,
        on_change: Callable[[], None],
        read: Callable[[Collection[int]], Mapping[int, Footprint]] | None = None,
        available: Callable[[], int] = lambda: psutil.virtual_memory().available,
    ) -> None:
        self._db = db
        self._kinds = jobs.kinds
        self._ledger = ledger
        self._workers = workers
        self._residencies = tuple(residencies)
        self._on_cpu = on_cpu
        self.measurements = Measurements(db, ledger.capacity_bytes, clock)
        if on_cpu:
            jobs.predict = self.measurements.job_bytes
        jobs.on_end(self._job_ended)
        for residency in residencies:
            residency.expectations = self.measurements
        self._on_change = on_change
        self._read = read or FootprintReader().read
        self.available = available
        self._watched: dict[int, Watched] = {}
        self._loop: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._available_bytes = math.inf
        self.floor_bytes = floor_of(psutil.virtual_memory().total)
        self.engines = Footprint()
        """What the engine processes take, as of the last sample."""

    async def start(self) -> None:
        """Read what was learned before, and begin to sample."""
        await self.measurements.load()
        self._loop = asyncio.create_task(self._run(), name="memory-watch")

    async def stop(self) -> None:
        """Sample no more, and wait until all that was measured is kept."""
        if self._loop:
            self._loop.cancel()
            await asyncio.wait([self._loop])
        await asyncio.gather(*self._tasks)
        await self.measurements.written()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(SAMPLE_S)
            try:
                await self.look()
            except Exception:  # the watch's top loop: the next sample may succeed
                log.exception("the memory of the workers could not be looked at")

    # -- for the kernel --------------------------------------------------------------------------

    def follow(self, active: Iterable[Job]) -> None:
        """Watch these jobs, as far as they have a worker here, then do what the rule says."""
        for job in active:
            standing = self._workers.standing(job.id)
            if job.id not in self._watched and standing is not None:
                self._watched[job.id] = Watched(job, standing.ran_s)
        self._apply_rule()

    def wanted_bytes(self, job_id: int) -> int:
        """Return for how much more than is reserved a job is held; idle models make room for it."""
        one = self._watched.get(job_id)
        return one.wanted_bytes if one else 0

    def worker_ended(self, job: Job, seconds: float) -> None:
        """Remember what an attempt took, whose worker is gone.

        Args:
            job: as it was when the attempt began.
            seconds: it ran, pauses left out.
        """
        one = self._watched.pop(job.id, None)
        if one is None or not one.num_samples or not self._on_cpu:
            return
        succeeded = one.ended_as is JobState.SUCCEEDED
        outgrew = one.peak_bytes > one.job.reserved_bytes > 0
        kind = self._kinds.get(job.kind)
        if kind and (outgrew or (succeeded and one.num_samples >= MIN_SAMPLES)):
            whole_s = seconds if succeeded and one.job.attempt == 1 else None
            self.measurements.job_ended(kind, one.job, one.peak_bytes, whole_s)
        if outgrew and one.ended_as is None:
            wanted_bytes = int(one.peak_bytes * GROWTH)
            self._begin(self._reserve_next(job.id, min(wanted_bytes, self._ledger.capacity_bytes)))

    def status(self) -> list[dict[str, Any]]:
        """Return what people want to know of each job that runs, in bytes; how far off the
        prediction is, where what was predicted is what is measured."""
        return [
            {
                "id": one.job.id,
                "kind": one.job.kind,
                "name": one.job.name,
                "owner": one.job.owner,
                "predicted_bytes": one.job.reserved_bytes,
                "reserved_bytes": self._ledger.reserved(job_key(one.job.id)) or 0,
                "measured_bytes": one.footprint.held_bytes,
                "peak_bytes": one.peak_bytes,
                "file_bytes": one.footprint.file_bytes,
                "held": bool(one.wanted_bytes),
                "error": (
                    relative_error(one.job.reserved_bytes, one.peak_bytes) if self._on_cpu else None
                ),
            }
            for one in self._watched.values()
        ]

    # -- measuring -------------------------------------------------------------------------------

    async def look(self) -> None:
        """Measure once, then do what the rule says."""
        pids = {one: self._workers.pid(one.job.id) for one in self._watched.values()}
        engines = {pid for one in self._residencies if (pid := one.engine.pid) is not None}
        leaders = engines | {pid for pid in pids.values() if pid is not None}
        found = await asyncio.to_thread(self._read, leaders) if leaders else {}
        for one, pid in pids.items():
            standing = self._workers.standing(one.job.id)
            if standing and pid and pid in found:
                one.saw(found[pid], standing.ran_s)
        self.engines = sum((found[pid] for pid in engines & found.keys()), Footprint())
        self._available_bytes = self.available()
        self._apply_rule()

    async def _job_ended(self, job: Job) -> None:
        """Take note of how a job ended; its worker may still be there."""
        if one := self._watched.get(job.id):
            one.ended_as = job.state

    # -- doing -----------------------------------------------------------------------------------

    def _apply_rule(self) -> None:
        """Do what is to be done, about the jobs that outgrew their reservation by most first."""
        if not self._watched:
            return
        readings = {one: self._reading(one) for one in self._watched.values() if not one.is_ending}
        by_excess = sorted(
            readings.items(), key=lambda item: item[1].reserved_bytes - item[1].held_bytes
        )
        for one, reading in by_excess:
            self._do(one, what_to_do(reading, self._room()))

    def _reading(self, one: Watched) -> Reading:
        standing = self._workers.standing(one.job.id)
        runs = standing is not None and not standing.held
        reserved_bytes = self._ledger.reserved(job_key(one.job.id)) or 0
        return Reading(
            reserved_bytes if self._on_cpu else 0,  # none of the host's memory, which is measured
            one.footprint.held_bytes,
            one.peak_bytes,
            standing.ran_s - one.peak_at if standing else 0.0,
            may_lower=runs and one.job.failures == 0,
        )

    def _room(self) -> Room:
        ending = [one.job.id for one in self._watched.values() if one.is_ending]
        leaving_bytes = sum(self._ledger.reserved(job_key(job_id)) or 0 for job_id in ending)
        return Room(
            self._ledger.free_bytes,
            idle_bytes(self._residencies[0].resident()) + leaving_bytes,
            self._ledger.capacity_bytes,
            # What a stopped job gives back shows only in the next sample.
            math.inf if ending else self._available_bytes,
            self.floor_bytes,
        )

    def _do(self, one: Watched, verdict: Verdict) -> None:
        job = one.job
        match verdict:
            case Await(num_bytes):
                if one.wanted_bytes != num_bytes:
                    one.wanted_bytes = num_bytes
                    self._workers.hold(job.id, "memory")
                    self._on_change()
            case Keep():
                self._let_go_on(one)
            case Reserve(num_bytes):
                self._ledger.correct(job_key(job.id), num_bytes)
                self._let_go_on(one)
                self._on_change()
            case Stop(num_bytes):
                next_bytes = num_bytes if self._on_cpu else 0  # where it is none of those measured
                self._end(one, self._stopped(one, num_bytes), retryable=True, num_bytes=next_bytes)
            case Refuse():
                taken = format_bytes(one.footprint.held_bytes)
                capacity = format_bytes(self._ledger.capacity_bytes)
                refusal = OutOfMemoryError(
                    f"This job took {taken} of memory and llmos may use {capacity}: make it "
                    "smaller or raise memory_bytes."
                )
                self._end(one, refusal, retryable=False, num_bytes=job.reserved_bytes)

    def _stopped(self, one: Watched, next_bytes: int) -> OutOfMemoryError:
        """Return the error of an attempt that is stopped."""
        taken = format_bytes(one.footprint.held_bytes)
        if not self._on_cpu:
            return OutOfMemoryError(
                f"This job took {taken} of this machine's own memory, of which too little was left."
            )
        return OutOfMemoryError(
            f"This job took {taken} of memory, more than was reserved for it, and there was no "
            f"room for more: its next attempt reserves {format_bytes(next_bytes)}."
        )

    def _let_go_on(self, one: Watched) -> None:
        if one.wanted_bytes:
            one.wanted_bytes = 0
            self._workers.release(one.job.id, "memory")

    def _end(self, one: Watched, error: LlmosError, *, retryable: bool, num_bytes: int) -> None:
        log.warning("job %d is stopped: %s", one.job.id, error)
        one.is_stopped, one.wanted_bytes = True, 0
        self._available_bytes = math.inf
        self._begin(self._stop(one.job, error, retryable, num_bytes))

    async def _stop(self, job: Job, error: LlmosError, retryable: bool, num_bytes: int) -> None:
        """Stop an attempt, once what the next one is to reserve is written down."""
        await self._reserve_next(job.id, num_bytes)
        self._workers.give_up(job.id, error, retryable=retryable)

    async def _reserve_next(self, job_id: int, num_bytes: int) -> None:
        """Let a job's next attempt reserve so much, if that is more than it would."""

        def write(connection: Connection) -> None:
            jobs = schema.jobs
            is_less = (jobs.c.id == job_id) & (jobs.c.reserved_bytes < num_bytes)
            connection.execute(update(jobs).where(is_less).values(reserved_bytes=num_bytes))

        try:
            await self._db.write(write)
        except LlmosError as error:
            log.warning("job %d will reserve no more than it did: %s", job_id, error)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

"""Runs of pipelines: started, followed through their jobs, cancelled, retried.

What a run should do next follows from its pipeline and its jobs (`steps.look`), so it can be asked
at any time: whenever one of its jobs has ended, and at start for all that ended while nobody
listened. A job is made once, by its key ``run:<run>:<step>[<number>]``, while its run goes on.
"""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import functools
import logging
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, insert, select, update

from llmos.apps.checking import body_of, check
from llmos.apps.pipelines import Pipeline, check_size, parse
from llmos.apps.run_rows import (
    SUMMARY,
    Run,
    RunSummary,
    find_summaries,
    get_run,
    jobs_of,
    key_of,
    open_runs,
)
from llmos.apps.steps import Jobs, Problem, RunState, StepStatus, Wanted, all_of, look, statuses
from llmos.errors import ConflictError, DiskFullError, LlmosError, QuotaExceededError
from llmos.kernel.jobs import ACTIVE_STATES
from llmos.kernel.transitions import KERNEL_ACTOR, LOST_STATES
from llmos.security import audit, policy
from llmos.storage.schema import runs

if TYPE_CHECKING:
    from llmos.apps.submitting import Submitter
    from llmos.kernel.jobs import Job
    from llmos.kernel.queue import JobQueue
    from llmos.kernel.transitions import Outbox
    from llmos.security.actors import Actor
    from llmos.storage.database import Database

RETRY_S = 2.0
"""After this a run is looked at again that could not go on for a reason that may pass."""
QUOTA_RETRY_S = 15.0
"""The same where a quota is used up, which takes longer to pass."""
MAX_UNDER_WAY = 8
"""Runs that are advanced at a time: one with hundreds of jobs to submit holds no other up."""

KeyCheck = Callable[[str], object]
"""Takes a key's id; raises AuthenticationError where that has expired or was revoked. Blocks."""
log = logging.getLogger(__name__)


class Runs:
    """Runs pipelines, between `open` and `close`. Belongs to one event loop.

    Args:
        clock: Unix seconds.
        check_key: asked before each job, about the key on whose terms a run goes on.
        outbox: takes ``run.started``, ``run.succeeded`` and the like, for whoever asked for them.
    """

    def __init__(
        self,
        db: Database,
        jobs: JobQueue,
        submitter: Submitter,
        clock: Callable[[], float],
        check_key: KeyCheck,
        *,
        outbox: Outbox | None = None,
    ) -> None:
        self._db = db
        self._jobs = jobs
        self._submitter = submitter
        self._clock = clock
        self._check_key = check_key
        self._outbox = outbox
        self._locks: weakref.WeakValueDictionary[int, asyncio.Lock] = weakref.WeakValueDictionary()
        self._due: set[int] = set()
        self._under_way: dict[int, asyncio.Task[None]] = {}
        self._timers: dict[int, asyncio.TimerHandle] = {}
        self._is_open = False
        jobs.on_end(self._job_ended)

    async def open(self) -> None:
        """Go on with every run that was under way when the last server ended."""
        self._due.update(await self._db.read(open_runs))
        self._is_open = True
        self._begin_due()

    async def close(self) -> None:
        """Submit nothing more; runs go on at the next `open`."""
        self._is_open = False
        for timer in self._timers.values():
            timer.cancel()
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- for whoever asks ------------------------------------------------------------------------

    async def check(
        self, actor: Actor, source: Mapping[str, Any], *, begins: bool = False
    ) -> Pipeline:
        """Return a pipeline that could be started as it is (``begins``: now); nothing is queued.

        Raises:
            PipelineError: it is not well made, or too large; the message begins with the line.
            LlmosError: one of its jobs would be refused, for a reason that is known already.
        """
        policy.check(actor, "jobs.write")
        pipeline = await asyncio.to_thread(_parsed, source)
        await check(pipeline, actor, self._submitter, begins=begins)
        return pipeline

    async def start(
        self, actor: Actor, source: Mapping[str, Any], schedule_id: int | None = None
    ) -> Run:
        """Start a run of a pipeline; its first jobs are queued when this returns.

        Args:
            actor: on whose terms every job of the run will be submitted.
            source: the pipeline as plain values.
            schedule_id: the schedule that starts it.

        Raises:
            PipelineError, LlmosError: as `check`; nothing was started.
            QuotaExceededError: its owner may queue no more now; nothing was started.
        """
        pipeline = await self.check(actor, source, begins=True)
        now = self._clock()
        row = {
            "name": pipeline.name,
            "pipeline": dict(source),
            "state": RunState.RUNNING,
            "schedule_id": schedule_id,
            "actor": actor.to_dict(),
            "owner": actor.owner,
            "created_at": now,
        }

        def change(connection: Connection) -> int:
            self._jobs.admit(connection, actor.owner)
            key = connection.execute(insert(runs).values(row)).inserted_primary_key
            assert key is not None
            run_id = int(key[0])
            detail = {"name": pipeline.name, "schedule_id": schedule_id}
            audit.record(connection, actor.id, "pipeline.run", f"run:{run_id}", detail, now)
            self._tell(connection, run_id, now)
            return run_id

        run_id = await self._db.write(change)
        self._told()
        return await self._go_on(run_id)

    async def get(self, run_id: int) -> Run:
        """Return the run. Raises RunNotFoundError."""
        return await self._db.read(lambda connection: get_run(connection, run_id))

    async def steps(self, run: Run) -> builtins.list[StepStatus]:
        """Return how far each step of a run is, every step after those it waits for."""
        jobs = await self._jobs_of(run)
        return await asyncio.to_thread(lambda: statuses(run.pipeline, jobs, run.state))

    async def list(
        self, *, owner: str | None = None, before: int | None = None, limit: int = 100
    ) -> builtins.list[RunSummary]:
        """Return runs, the newest first: of one owner or all, with ids below ``before``."""
        query = select(*SUMMARY).order_by(runs.c.id.desc()).limit(limit)
        if owner is not None:
            query = query.where(runs.c.owner == owner)
        if before is not None:
            query = query.where(runs.c.id < before)
        return await self._db.read(lambda connection: find_summaries(connection, query))

    async def cancel(self, run_id: int, actor: Actor) -> Run:
        """End a run and all its jobs that have not ended.

        Raises:
            RunNotFoundError: there is no such run.
            ConflictError: it has succeeded or failed.
        """
        run = await self.get(run_id)
        if run.state is RunState.RUNNING:  # without the lock: who submits its jobs stops at once
            run = await self._set(run, RunState.CANCELLED, actor.id, "pipeline.cancel")
        if run.state is not RunState.CANCELLED:
            raise ConflictError(f"Run {run_id} has {run.state} already.")
        async with self._lock(run_id):
            await self._cancel_jobs(await self._jobs_of(run), actor.id)
        return await self.get(run_id)

    async def retry(self, run_id: int, actor: Actor) -> Run:
        """Go on with a run that failed or was cancelled: its failed jobs run again, what succeeded
        stays, steps that were not begun follow. They do so on the terms of the actor, where the run
        is the actor's own.

        Raises:
            RunNotFoundError: there is no such run.
            ConflictError: it has neither failed nor been cancelled, or some job of it cannot be
                retried.
        """
        async with self._lock(run_id):
            run = await self.get(run_id)
            if run.state not in (RunState.FAILED, RunState.CANCELLED):
                raise ConflictError(
                    f"Run {run_id} is {run.state}: one that failed or was cancelled is retried."
                )
            jobs = all_of(await self._jobs_of(run))
            if not all(job.state.is_final for job in jobs):
                raise ConflictError(f"Some jobs of run {run_id} have not ended: try again shortly.")
            for job in jobs:
                if job.state in LOST_STATES:
                    await self._jobs.retry(job.id, actor.id)
            terms = actor if actor.owner == run.owner else run.actor
            await self._set(run, RunState.RUNNING, actor.id, "pipeline.retry", terms=terms)
        return await self._go_on(run_id)

    # -- going on --------------------------------------------------------------------------------

    async def advance(self, run_id: int) -> None:
        """Submit the jobs of a run that need not wait any more, or end it; at any time, as often
        as one likes.

        Raises:
            LlmosError: it cannot go on for a reason that may pass.
        """
        async with self._lock(run_id):
            run = await self.get(run_id)
            jobs = await self._jobs_of(run)
            if run.state is RunState.CANCELLED:
                await self._cancel_jobs(jobs, KERNEL_ACTOR)
            if run.state is not RunState.RUNNING:
                return
            pipeline = await asyncio.to_thread(lambda: run.pipeline)
            outlook = await asyncio.to_thread(look, pipeline, jobs)
            is_active, problem = outlook.is_active, outlook.problem
            try:
                for wanted in outlook.wanted:
                    problem = await self._submit(run, pipeline, wanted)
                    if problem is not None:
                        break
                    is_active = True
            except _IsOverError:
                return
            if problem is not None and not is_active:
                await self._set(run, RunState.FAILED, KERNEL_ACTOR, "pipeline.finish", problem)
            elif outlook.is_done:
                await self._set(run, RunState.SUCCEEDED, KERNEL_ACTOR, "pipeline.finish")

    async def _submit(self, run: Run, pipeline: Pipeline, wanted: Wanted) -> Problem | None:
        """Submit a job, or return why it cannot be.

        Raises:
            LlmosError: it cannot, for a reason that may pass.
            _IsOverError: the run was cancelled meanwhile.
        """
        body = body_of(pipeline, wanted.step, wanted.number, wanted.params)
        key = key_of(run.id, wanted.step.name, wanted.number)

        def check(connection: Connection, job: Job) -> None:
            if connection.scalar(select(runs.c.state).where(runs.c.id == run.id)) != run.state:
                raise _IsOverError

        try:
            await asyncio.to_thread(self._check_key, run.actor.id)
            await self._submitter.submit(
                run.actor, body, run_id=run.id, idempotency_key=key, also=check
            )
        except LlmosError as error:
            if error.retryable or isinstance(error, DiskFullError | QuotaExceededError):
                raise
            return {"code": error.code, "message": f"step {wanted.label}: {error.message}"}
        return None

    async def _job_ended(self, job: Job) -> None:
        if job.run_id is not None:
            self._look_again(job.run_id)

    async def _go_on(self, run_id: int) -> Run:
        """Advance a run now; should whoever asks leave meanwhile, it goes on by itself."""
        self._look_again(run_id)
        await self._try_to_advance(run_id)
        return await self.get(run_id)

    def _look_again(self, run_id: int) -> None:
        if timer := self._timers.pop(run_id, None):
            timer.cancel()
        self._due.add(run_id)
        self._begin_due()

    def _begin_due(self) -> None:
        """Advance the runs that are due, each by itself, as many at a time as may be."""
        for run_id in sorted(self._due - self._under_way.keys()) if self._is_open else ():
            if len(self._under_way) >= MAX_UNDER_WAY:
                return
            self._due.remove(run_id)
            task = asyncio.create_task(self._try_to_advance(run_id), name=f"run-{run_id}")
            self._under_way[run_id] = task
            task.add_done_callback(functools.partial(self._done, run_id))

    def _done(self, run_id: int, _: asyncio.Task[None]) -> None:
        del self._under_way[run_id]
        self._begin_due()

    async def _try_to_advance(self, run_id: int) -> None:
        """Advance a run; when that fails, it is tried again in a while."""
        try:
            await self.advance(run_id)
        except Exception as error:  # the top of what goes on by itself, and what a start leaves
            if isinstance(error, LlmosError):
                log.warning("run %d waits: %s", run_id, error.message)
            else:
                log.exception("run %d could not be looked at", run_id)
            wait_s = QUOTA_RETRY_S if isinstance(error, QuotaExceededError) else RETRY_S
            if run_id not in self._timers:
                later = asyncio.get_running_loop().call_later
                self._timers[run_id] = later(wait_s, self._look_again, run_id)

    # -- inside ----------------------------------------------------------------------------------

    def _lock(self, run_id: int) -> asyncio.Lock:
        """Return what lets one at a time change a run."""
        return self._locks.setdefault(run_id, asyncio.Lock())

    async def _jobs_of(self, run: Run) -> Jobs:
        return await self._db.read(lambda connection: jobs_of(connection, run))

    async def _cancel_jobs(self, jobs: Jobs, actor_id: str) -> None:
        """Cancel what has not ended, what runs first; side by side, so that they share commits."""

        async def cancel(job: Job) -> None:
            with contextlib.suppress(ConflictError):  # it has just ended
                await self._jobs.cancel(job.id, actor_id)

        left = [job for job in all_of(jobs) if not job.state.is_final]
        left.sort(key=lambda job: job.state not in ACTIVE_STATES)
        await asyncio.gather(*map(cancel, left))

    async def _set(
        self,
        run: Run,
        state: RunState,
        actor_id: str,
        action: str,
        problem: Problem | None = None,
        terms: Actor | None = None,
    ) -> Run:
        """Bring a run to another state, unless it has come to one meanwhile; return it as it is
        then.

        Args:
            terms: those on which it goes on; None: as before.
        """
        now = self._clock()
        finished_at = None if state is RunState.RUNNING else now
        values: dict[str, Any] = {"state": state, "error": problem, "finished_at": finished_at}
        if terms is not None:
            values["actor"] = terms.to_dict()

        def change(connection: Connection) -> Run:
            known = (runs.c.id == run.id, runs.c.state == run.state)
            if connection.execute(update(runs).where(*known).values(values)).rowcount:
                detail = {"state": str(state)}
                audit.record(connection, actor_id, action, f"run:{run.id}", detail, now)
                self._tell(connection, run.id, now)
            return get_run(connection, run.id)

        changed = await self._db.write(change)
        self._told()
        return changed

    def _tell(self, connection: Connection, run_id: int, now: float) -> None:
        """Put the state that a run has come to into the outbox, in the transaction that changes
        it."""
        if self._outbox is not None:
            (run,) = find_summaries(connection, select(*SUMMARY).where(runs.c.id == run_id))
            if self._outbox.wants(run.owner):
                verb = "started" if run.state is RunState.RUNNING else str(run.state)
                self._outbox.put(connection, run.owner, f"run.{verb}", run.to_dict(), now)

    def _told(self) -> None:
        if self._outbox is not None:
            self._outbox.wake()


def _parsed(source: Mapping[str, Any]) -> Pipeline:
    check_size(source)
    return parse(source)


class _IsOverError(Exception):
    """A job was wanted of a run that is not running any more."""

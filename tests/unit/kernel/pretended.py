"""A kernel whose queue, ledger and rules are real, and whose processes are pretended."""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from sqlalchemy import delete

from llmos.errors import EngineError
from llmos.kernel.jobs import Job, JobKind, JobState
from llmos.kernel.ledger import Ledger
from llmos.kernel.queue import JobQueue
from llmos.kernel.scheduler import decide, rank
from llmos.kernel.state import (
    Action,
    ActiveJob,
    ContinueJob,
    Drain,
    Evict,
    Expire,
    Load,
    PauseJob,
    Preempt,
    ReadyJob,
    RefuseModel,
    ResidentModel,
    Resume,
    Start,
    State,
    Stop,
    WantedModel,
)
from llmos.kernel.view import QueueView
from llmos.kernel.yielder import Yielder
from llmos.kernel.yielding import turn_s
from llmos.storage.database import Database
from llmos.storage.schema import job_after, job_events, jobs
from llmos.types import JobResult, Priority

T = TypeVar("T")

CAPACITY, MAX_WORKERS = 100, 2
AGEING_S, IDLE_S, LEASE_S, YIELD_S = 300.0, 120.0, 30.0, 2.0
LONGEST_LEAP_S = 400.0
MODELS = {"small": (20, 20), "roomy": (60, 30), "large": (80, 80)}
"""What each wants, and the least it can do with."""


def _kind(name: str, **promises: Any) -> JobKind:
    return JobKind(name, "m:f", lambda params: params, lambda params: params["bytes"], **promises)


KINDS = {
    "train": _kind("train", resumes=True),
    "quantize": _kind("quantize"),
    "pull": _kind("pull", light=True),
}


class Clock:
    """Stands still until told."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass(eq=False)
class Worker:
    """One attempt at a job."""

    job: Job
    held: set[str] = field(default_factory=set)
    ran_s: float = 0.0
    silent_s: float = 0.0
    is_silent: bool = False
    ends: Literal["", "cancelled", "leaving"] = ""

    @property
    def kind(self) -> JobKind:
        return KINDS[self.job.kind]


@dataclass(eq=False)
class Model:
    """A model: who holds leases of it, who waits."""

    key: str
    state: Literal["absent", "loading", "ready", "unloading"] = "absent"
    num_bytes: int = 0
    leases: list[Priority] = field(default_factory=list)
    waiting: list[Priority] = field(default_factory=list)
    waiting_since: float = 0.0
    last_used_at: float = 0.0
    turn_ends_at: float = 0.0
    draining_since: float | None = None

    def admit(self, now: float) -> None:
        """Give those who wait their leases."""
        drained_s = 0.0 if self.draining_since is None else now - self.draining_since
        self.turn_ends_at, self.draining_since = now + max(1.0, drained_s), None
        self.leases += self.waiting
        self.waiting.clear()
        self.last_used_at = now


class World:
    """What is done to a kernel, and what it decides then. `check` says what must always hold."""

    def __init__(self, database: Database, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._view: QueueView | None = None
        self.clock = Clock()
        self.queue = JobQueue(
            database, KINDS, self.clock, rng=random.Random(0), capacity_bytes=CAPACITY
        )
        tables = (job_events, job_after, jobs)
        database.write_sync(lambda c: [c.execute(delete(table)) for table in tables])
        self.begin()

    def begin(self) -> None:
        """A server starts: nothing runs, nothing is loaded."""
        self.ledger = Ledger(CAPACITY)
        self.models = {key: Model(key) for key in MODELS}
        self.workers: dict[int, Worker] = {}
        self.preempted_at: dict[int, float] = {}
        self.num_preempted: Counter[int] = Counter()
        self.yielder = Yielder(self, self.clock, AGEING_S)  # type: ignore[arg-type]
        self.run(self.queue.requeue_all())

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        self._view = None
        return self._loop.run_until_complete(work)

    # -- as `Workers` ----------------------------------------------------------------------------

    def hold(self, job_id: int, reason: str) -> None:
        if worker := self.workers.get(job_id):
            worker.held.add(reason)

    def release(self, job_id: int, reason: str) -> None:
        if worker := self.workers.get(job_id):
            worker.held.discard(reason)

    # -- what happens ----------------------------------------------------------------------------

    def ask(self, key: str, priority: Priority) -> None:
        """A request comes: it gets a lease, or waits for one."""
        model = self.models[key]
        model.last_used_at = self.clock.now
        if priority is Priority.INTERACTIVE:
            self.yielder.request_began()
        if model.state == "ready" and model.draining_since is None:
            model.leases.append(priority)
            return
        if not model.waiting:
            model.waiting_since = self.clock.now
        model.waiting.append(priority)

    def request_ends(self, key: str) -> None:
        """The oldest request at a model has ended, if there is one."""
        model = self.models[key]
        for requests in (model.leases, model.waiting):
            if requests:
                self._forget([requests.pop(0)])
                model.last_used_at = self.clock.now
                return

    def engine_answers(self) -> None:
        """What is being loaded and unloaded is so."""
        for model in self.models.values():
            if model.state == "loading":
                model.state = "ready"
                model.admit(self.clock.now)
            elif model.state == "unloading":
                model.state = "absent"
                self.ledger.release(model.key)

    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds
        self._view = None
        for worker in self.workers.values():
            worker.ran_s += 0.0 if worker.held else seconds
            worker.silent_s += seconds if worker.is_silent and not worker.held else 0.0

    def end_attempt(self, worker: Worker, how: Literal["done", "error", "mistake"]) -> None:
        job, queue = worker.job, self.queue
        if how == "done":
            self.run(queue.complete(job.id, job.fence, JobResult(), lambda *_: ()))
        else:
            retryable = how == "error"
            self.run(queue.fail(job.id, job.fence, EngineError(how), retryable=retryable))
        self._gone(worker)

    def _gone(self, worker: Worker) -> None:
        del self.workers[worker.job.id]
        self.yielder.forget(worker.job.id)
        self.ledger.release(f"job:{worker.job.id}")

    def _forget(self, requests: list[Priority]) -> None:
        for _ in range(requests.count(Priority.INTERACTIVE)):
            self.yielder.request_ended()

    # -- deciding --------------------------------------------------------------------------------

    def settle(self) -> None:
        """Decide and do until there is nothing to do, then check what must hold."""
        for _ in range(50):
            for worker in list(self.workers.values()):
                self._end_asked(worker)
            view = self.view()
            for job in view.active:
                self.hold(job.id, "user") if job.state is JobState.PAUSED else self.release(
                    job.id, "user"
                )
            state = self.state(view)
            actions = decide(state)
            assert actions == decide(dataclasses.replace(state)), "another decision"
            for action in actions:
                self._do(action, state, actions)
            if not actions:
                self.check(state)
                return
        raise AssertionError(f"it never comes to rest: {actions}")

    def view(self) -> QueueView:
        """Return what the queue says; it says the same while nothing was asked of it."""
        if (seen := self._view) is None:
            seen = self.run(self.queue.view())
            self._view = seen
        return seen

    def _end_asked(self, worker: Worker) -> None:
        """End a worker that was asked to."""
        job = worker.job
        if worker.ends == "cancelled":
            self.run(self.queue.cancelled(job.id, job.fence))
        elif worker.ends == "leaving":
            self.run(self.queue.requeue(job.id, job.fence))
        if worker.ends:
            self._gone(worker)

    def state(self, view: QueueView) -> State:
        now = self.clock.now
        return State(
            now=now,
            free_bytes=self.ledger.free_bytes,
            capacity_bytes=CAPACITY,
            max_workers=MAX_WORKERS,
            idle_s=IDLE_S,
            ageing_s=AGEING_S,
            ready=tuple(
                ReadyJob(
                    job.id,
                    job.owner,
                    job.priority,
                    self.preempted_at.get(job.id) or job.queued_at or now,
                    job.reserved_bytes,
                    KINDS[job.kind].light,
                    was_preempted=job.id in self.preempted_at,
                )
                for job in view.ready
            ),
            active=tuple(self._active(job) for job in view.active),
            models=tuple(
                ResidentModel(
                    model.key,
                    model.num_bytes,
                    model.state,
                    len(model.leases),
                    model.last_used_at,
                    1.0,
                    1.0,
                    min(model.leases, default=Priority.BACKGROUND),
                    model.turn_ends_at,
                    model.draining_since,
                )
                for model in self.models.values()
                if model.state != "absent"
            ),
            wanted=tuple(
                WantedModel(
                    model.key,
                    MODELS[model.key][0],
                    min(model.waiting),
                    model.waiting_since,
                    MODELS[model.key][1],
                )
                for model in self.models.values()
                if model.state == "absent" and model.waiting
            ),
            interactive_at=self.yielder.interactive_at(now),
            yield_s=YIELD_S,
        )

    def _active(self, job: Job) -> ActiveJob:
        worker, now = self.workers[job.id], self.clock.now
        owed_s, has_turn = self.yielder.owed(job)
        return ActiveJob(
            job.id,
            job.fence,
            job.owner,
            now + LEASE_S - worker.silent_s,
            job.reserved_bytes,
            job.cancel_requested,
            worker.kind.light,
            job.priority,
            gives_way=worker.kind.gives_way and not worker.kind.light,
            resumes=worker.kind.resumes,
            is_leaving=worker.ends == "leaving",
            ran_s=worker.ran_s,
            num_preempted=self.num_preempted[job.id],
            held=tuple(sorted(worker.held)),
            owed_s=owed_s,
            has_turn=has_turn,
        )

    # -- doing -----------------------------------------------------------------------------------

    def _do(self, action: Action, state: State, actions: list[Action]) -> None:
        """Do what is decided. Raises OutOfMemoryError where more is given out than there is."""
        now = self.clock.now
        match action:
            case Start(job_id):
                self._start(job_id, state, actions)
            case Expire(job_id):
                self.end_attempt(self.workers[job_id], "error")
            case Stop(job_id):
                self.workers[job_id].ends = "cancelled"
            case Preempt(job_id):
                assert self.workers[job_id].kind.resumes
                self.workers[job_id].ends = "leaving"
                self.preempted_at[job_id] = now
                self.num_preempted[job_id] += 1
            case PauseJob(job_id):
                self.yielder.pause(job_id)
            case ContinueJob(job_id, has_turn):
                self.yielder.let_go_on(job_id, has_turn=has_turn)
            case Load(key, num_bytes):
                most, least = MODELS[key]
                assert least <= num_bytes <= most
                self.ledger.reserve(key, num_bytes)
                self.models[key].num_bytes, self.models[key].state = num_bytes, "loading"
            case Evict(key):
                assert not self.models[key].leases, "evicted while in use"
                self.models[key].state, self.models[key].draining_since = "unloading", None
            case Drain(key):
                self.models[key].draining_since = now
            case Resume(key):
                self.models[key].admit(now)
            case RefuseModel(key):
                self._forget(self.models[key].waiting)
                self.models[key].waiting.clear()
            case _:
                raise AssertionError(f"unexpected: {action}")

    def _start(self, job_id: int, state: State, actions: list[Action]) -> None:
        ready = next(job for job in state.ready if job.id == job_id)
        running = [w for w in self.workers.values() if w.kind.light == ready.light]
        assert len(running) < MAX_WORKERS
        for other in state.ready:
            is_late = ready.queued_at - other.queued_at > (other.priority + 1) * AGEING_S
            fits = other.light == ready.light and other.num_bytes <= ready.num_bytes
            assert not (is_late and fits) or Start(other.id) in actions, "passed for too long"
        self.ledger.reserve(f"job:{job_id}", ready.num_bytes)
        job = self.run(self.queue.claim(job_id, LEASE_S, 1))
        assert job is not None
        self.preempted_at.pop(job_id, None)
        self.workers[job_id] = Worker(job)

    # -- what must hold --------------------------------------------------------------------------

    def check(self, state: State) -> None:
        """Check a state in which there is nothing to do."""
        held_bytes = sum(m.num_bytes for m in state.models)
        held_bytes += sum(job.num_bytes for job in state.active)
        assert held_bytes == self.ledger.reserved_bytes <= CAPACITY
        for job in state.active:
            bound_s = int(job.priority) * AGEING_S
            assert job.owed_s <= bound_s + LONGEST_LEAP_S, "held for too long"
        if not state.wanted and not any(m.state == "unloading" for m in state.models):
            self._check_work_is_conserved(state)
            self._check_the_first_is_not_kept_waiting(state)

    def _check_work_is_conserved(self, state: State) -> None:
        if any(rank(job, state) < 0 for job in state.ready):
            return  # room is kept for it
        idle_bytes = _idle_bytes(state)
        for job in state.ready:
            running = sum(other.light == job.light for other in state.active)
            lacks_room = job.num_bytes > state.free_bytes + idle_bytes
            assert running >= MAX_WORKERS or lacks_room or job.was_preempted

    def _check_the_first_is_not_kept_waiting(self, state: State) -> None:
        """Past its bound, no job that could give its place up runs in a worse class."""
        owners = [job.owner for job in state.active]
        overdue = [job for job in state.ready if rank(job, state) < 0]
        if not overdue:
            return
        first = min(
            overdue,
            key=lambda job: (rank(job, state), owners.count(job.owner), job.queued_at, job.id),
        )
        room_bytes = state.free_bytes + _idle_bytes(state)
        for job in state.active:
            has_run = job.ran_s >= turn_s(job) or bool(job.held)
            suffices = job.light == first.light and first.num_bytes <= room_bytes + job.num_bytes
            is_worse = job.priority > first.priority or "user" in job.held
            assert not (job.resumes and has_run and suffices and is_worse), "waits past its bound"

    def drain(self) -> None:
        """Ask for nothing more and let all workers do their work: every job ends."""
        for model in self.models.values():
            self._forget(model.leases + model.waiting)
            model.leases.clear()
            model.waiting.clear()
        paused = self.run(self.queue.list(states=[JobState.PAUSED]))
        for job in paused:
            self.run(self.queue.set_paused(job.id, False, "a"))
        for _ in range(200):
            self.settle()
            for worker in list(self.workers.values()):
                self.end_attempt(worker, "done")
            self.pass_time(100.0)
            self.engine_answers()
            unfinished = [state for state in JobState if not state.is_final]
            if not self.run(self.queue.list(states=unfinished)):
                assert self.ledger.reserved_bytes == sum(
                    model.num_bytes for model in self.models.values() if model.state != "absent"
                )
                return
        raise AssertionError("jobs that never end")


def _idle_bytes(state: State) -> int:
    return sum(m.num_bytes for m in state.models if m.state == "ready" and not m.num_users)

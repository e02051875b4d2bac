"""What to start, load and evict next: a pure function from the kernel's state to actions.

No clock, no input or output, no chance: the same state always gives the same actions.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from llmos.types import Priority

# -- the state -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ReadyJob:
    """A queued job that may start now."""

    id: int
    owner: str
    priority: Priority
    queued_at: float
    num_bytes: int
    light: bool = False
    """It takes one of the workers for light jobs, see `JobKind`."""


@dataclass(frozen=True, slots=True)
class ActiveJob:
    """A job that holds a lease."""

    id: int
    fence: int
    owner: str
    lease_expires_at: float
    num_bytes: int
    cancel_requested: bool = False
    light: bool = False


@dataclass(frozen=True, slots=True)
class ResidentModel:
    """A model that holds memory. ``demand`` is a decaying count of recent leases."""

    key: str
    num_bytes: int
    state: Literal["loading", "ready", "unloading"]
    num_users: int
    last_used_at: float
    load_s: float
    demand: float


@dataclass(frozen=True, slots=True)
class WantedModel:
    """A model that holds no memory and that someone waits for."""

    key: str
    num_bytes: int
    priority: Priority
    since: float


@dataclass(frozen=True, slots=True)
class State:
    """Everything `decide` looks at. Times are Unix seconds.

    Up to ``max_workers`` ordinary jobs run, and as many light ones beside them.
    ``free_bytes`` is what the ledger has left; ``usage_s`` each owner's recent compute seconds. A
    class gains one rank per ``ageing_s`` of waiting, without limit, so nothing starves: a job of
    class ``p`` is never passed by one that came more than ``(p + 1) * ageing_s`` after it.
    """

    now: float
    free_bytes: int
    capacity_bytes: int
    max_workers: int
    idle_s: float
    ageing_s: float
    ready: tuple[ReadyJob, ...] = ()
    active: tuple[ActiveJob, ...] = ()
    models: tuple[ResidentModel, ...] = ()
    wanted: tuple[WantedModel, ...] = ()
    usage_s: Mapping[str, float] = field(default_factory=dict)


# -- the actions -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Start:
    """Start a worker on a queued job, whose bytes are free."""

    job_id: int


@dataclass(frozen=True, slots=True)
class Expire:
    """Take a job back from an attempt whose lease ran out."""

    job_id: int
    fence: int


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop the worker of a job that is to be cancelled."""

    job_id: int


@dataclass(frozen=True, slots=True)
class RefuseJob:
    """Fail a job that is larger than all the memory there is."""

    job_id: int


@dataclass(frozen=True, slots=True)
class Load:
    """Load a wanted model, whose bytes are free."""

    key: str


@dataclass(frozen=True, slots=True)
class Evict:
    """Unload a model that nobody uses."""

    key: str


@dataclass(frozen=True, slots=True)
class RefuseModel:
    """Tell those who wait for a model that it cannot fit beside the running jobs."""

    key: str


Action = Start | Expire | Stop | RefuseJob | Load | Evict | RefuseModel


# -- the decision ----------------------------------------------------------------------------------


def decide(state: State) -> list[Action]:
    """Return what to do now, in order.

    Memory and workers go to demands by rank: class with ageing, models before jobs, then the owner
    who used the least, then age. A demand that does not fit has idle models evicted for it, the
    cheapest loss first, and gets their memory once they are gone; one that still does not fit is
    passed by, unless it is overdue (rank below 0): then room and worker are kept for it.
    """
    plan = _Plan(state)
    for job in state.active:
        plan.look_after(job)
    for demand in plan.demands():
        if isinstance(demand, WantedModel):
            plan.place_model(demand)
        else:
            plan.place_job(demand)
    plan.evict_idle()
    return plan.actions


def rank(demand: WantedModel | ReadyJob, state: State) -> int:
    """Return the class of a demand after ageing; the lower goes first."""
    since = demand.since if isinstance(demand, WantedModel) else demand.queued_at
    return int(demand.priority) - int(max(state.now - since, 0.0) // state.ageing_s)


def loss(model: ResidentModel) -> float:
    """Return what evicting a model costs: seconds of reloading per byte gained, times demand."""
    return model.load_s * model.demand / max(model.num_bytes, 1)


class _Plan:
    """The decision while it is made: actions so far, and what they leave free."""

    def __init__(self, state: State) -> None:
        self.actions: list[Action] = []
        self._state = state
        self._free_bytes = state.free_bytes
        self._coming_bytes = sum(m.num_bytes for m in state.models if m.state == "unloading")
        self._workers = dict.fromkeys((False, True), state.max_workers)
        for job in state.active:
            self._workers[job.light] -= 1
        self._running = Counter(job.owner for job in state.active)
        self._idle = sorted(
            (m for m in state.models if m.state == "ready" and m.num_users == 0),
            key=lambda m: (loss(m), m.last_used_at, m.key),
        )

    def look_after(self, job: ActiveJob) -> None:
        if job.lease_expires_at < self._state.now:
            self.actions.append(Expire(job.id, job.fence))
        elif job.cancel_requested:
            self.actions.append(Stop(job.id))

    def demands(self) -> Iterator[WantedModel | ReadyJob]:
        """Yield demands by rank.

        A job's key only grows as its owner's other jobs are placed; one that is out of date goes
        back into the heap.
        """
        models = deque(
            sorted(self._state.wanted, key=lambda m: (rank(m, self._state), m.since, m.key))
        )
        jobs = [(self._job_key(job), job) for job in self._state.ready]
        heapq.heapify(jobs)
        while models or jobs:
            if models and (not jobs or rank(models[0], self._state) <= jobs[0][0][0]):
                yield models.popleft()
                continue
            key, job = heapq.heappop(jobs)
            if key == self._job_key(job):
                yield job
            else:
                heapq.heappush(jobs, (self._job_key(job), job))

    def _job_key(self, job: ReadyJob) -> tuple[int, float, int, float, int]:
        usage_s = self._state.usage_s.get(job.owner, 0.0)
        return rank(job, self._state), usage_s, self._running[job.owner], job.queued_at, job.id

    def place_model(self, model: WantedModel) -> None:
        jobs_bytes = sum(job.num_bytes for job in self._state.active)
        if model.num_bytes > self._state.capacity_bytes - jobs_bytes:
            self.actions.append(RefuseModel(model.key))
        elif self._take(model) == "taken":
            self.actions.append(Load(model.key))

    def place_job(self, job: ReadyJob) -> None:
        if job.num_bytes > self._state.capacity_bytes:
            self.actions.append(RefuseJob(job.id))
        elif self._workers[job.light] > 0 and (got := self._take(job)) != "passed":
            self._workers[job.light] -= 1
            self._running[job.owner] += 1
            if got == "taken":
                self.actions.append(Start(job.id))

    def _take(self, demand: WantedModel | ReadyJob) -> Literal["taken", "kept", "passed"]:
        """Take free bytes, or keep them for this demand and see to it that they become enough."""
        if demand.num_bytes <= self._free_bytes:
            self._free_bytes -= demand.num_bytes
            return "taken"
        missing_bytes = demand.num_bytes - self._free_bytes
        if missing_bytes - self._coming_bytes > sum(model.num_bytes for model in self._idle):
            if rank(demand, self._state) >= 0:
                return "passed"
            missing_bytes = self._coming_bytes
        while missing_bytes > self._coming_bytes:
            model = self._idle.pop(0)
            self._coming_bytes += model.num_bytes
            self.actions.append(Evict(model.key))
        self._coming_bytes -= missing_bytes
        self._free_bytes = 0
        return "kept"

    def evict_idle(self) -> None:
        for model in self._idle:
            if self._state.now - model.last_used_at >= self._state.idle_s:
                self.actions.append(Evict(model.key))

"""What to start, load and evict next: a pure function from the kernel's state to actions.

No clock, no input or output, no chance: the same state always gives the same actions.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from llmos.types import Priority

DRAIN_S = 10.0
"""A model that is still in use after so long is no longer drained for others of its class."""
FRESH_S = 10.0
"""A model that was used so long ago is half as likely to be wanted as one used just now."""
RECENT_S = 60.0
"""A model used so recently is not evicted for the sake of another's larger cache."""

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
    """A model that holds memory. ``num_users`` counts the leases that are held, ``demand`` is a
    decaying count of recent ones."""

    key: str
    num_bytes: int
    state: Literal["loading", "ready", "unloading"]
    num_users: int
    last_used_at: float
    load_s: float
    demand: float
    priority: Priority = Priority.BACKGROUND
    """Best class among its users."""
    turn_ends_at: float = math.inf
    """From then on it may be drained for others that wait; infinity: never."""
    draining_since: float | None = None
    """Since when it gives no new leases."""


@dataclass(frozen=True, slots=True)
class WantedModel:
    """A model that holds no memory and that someone waits for."""

    key: str
    num_bytes: int
    priority: Priority
    since: float
    least_bytes: int | None = None
    """It can do with so few, with a smaller cache; None: it cannot do with fewer."""
    over: str = ""
    """Key of the model that it is laid over, which stays for it."""


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
    """Load a wanted model into free bytes: all that it wants, or what there is."""

    key: str
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Drain:
    """Let a model give no new leases, so that it can be evicted when those it gave have ended."""

    key: str


@dataclass(frozen=True, slots=True)
class Resume:
    """Let a model that was drained give leases again."""

    key: str


@dataclass(frozen=True, slots=True)
class Evict:
    """Unload a model that nobody uses."""

    key: str


@dataclass(frozen=True, slots=True)
class RefuseModel:
    """Tell those who wait for a model that it cannot fit beside the running jobs."""

    key: str


Action = Start | Expire | Stop | RefuseJob | Load | Drain | Resume | Evict | RefuseModel


# -- the decision ----------------------------------------------------------------------------------


def decide(state: State) -> list[Action]:
    """Return what to do now, in order.

    Memory and workers go to demands by rank: class with ageing, models before jobs, then the owner
    who used the least, then age. A demand that does not fit has idle models evicted for it, the
    cheapest loss first, and gets their memory once they are gone; one that still does not fit is
    passed by, unless it is overdue (rank below 0): then room and worker are kept for it.

    A model that would do with a smaller cache is loaded into what is free rather than in place of
    one that was used of late; a part is left for what may be laid over it. One that does not fit
    even so takes turns with those in use: one of a worse class, or of the same class whose turn is
    over, is drained for it.
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
    plan.resume_in_vain()
    return plan.actions


def look_again_at(state: State) -> float:
    """Return when time alone may change what `decide` says, of the models."""
    ready = [model for model in state.models if model.state == "ready"]
    times = [model.last_used_at + state.idle_s for model in ready if model.num_users == 0]
    if state.wanted:
        times += [model.turn_ends_at for model in ready]
        times += [m.draining_since + DRAIN_S for m in ready if m.draining_since is not None]
        times += [model.last_used_at + RECENT_S for model in ready]
    return min((time for time in times if time > state.now), default=math.inf)


def rank(demand: WantedModel | ReadyJob, state: State) -> int:
    """Return the class of a demand after ageing; the lower goes first."""
    since = demand.since if isinstance(demand, WantedModel) else demand.queued_at
    return int(demand.priority) - int(max(state.now - since, 0.0) // state.ageing_s)


def loss(model: ResidentModel, now: float) -> float:
    """Return what evicting a model costs: seconds of reloading per byte gained, times how likely it
    is to be wanted soon: the more often it was of late, the likelier, and less the longer ago."""
    idle_s = max(now - model.last_used_at, 0.0)
    return model.load_s * model.demand / max(model.num_bytes, 1) / (1.0 + idle_s / FRESH_S)


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
        ready = [model for model in state.models if model.state == "ready"]
        self._idle = sorted(
            (model for model in ready if model.num_users == 0),
            key=lambda m: (m.draining_since is None, loss(m, state.now), m.last_used_at, m.key),
        )
        self._busy = sorted(
            (model for model in ready if model.num_users > 0),
            key=lambda m: (m.draining_since is None, -m.priority, m.turn_ends_at, m.key),
        )
        self._left = {model.key for model in ready if model.draining_since is not None}

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
        least_bytes = model.num_bytes if model.least_bytes is None else model.least_bytes
        room_bytes = self._state.capacity_bytes - sum(job.num_bytes for job in self._state.active)
        room_bytes -= sum(m.num_bytes for m in self._state.models if m.key == model.over)
        if least_bytes > room_bytes:
            self.actions.append(RefuseModel(model.key))
            return
        num_bytes = self._best_size(model.num_bytes, least_bytes, room_bytes)
        sizes = (num_bytes, least_bytes) if num_bytes > self._reachable_bytes else ()
        if any(self._drain_for(model, size) for size in sizes):
            self._free_bytes = self._coming_bytes = 0
        elif self._take(model, num_bytes) == "taken":
            self.actions.append(Load(model.key, num_bytes))

    def _best_size(self, wanted_bytes: int, least_bytes: int, room_bytes: int) -> int:
        """Return how large a model is to be: what it wants, or what can be had without delay."""
        if wanted_bytes > room_bytes:
            wanted_bytes = max(least_bytes, room_bytes * 7 // 8)
        now, free = self._state.now, self._free_bytes + self._coming_bytes
        long_idle = (m.num_bytes for m in self._idle if now - m.last_used_at >= RECENT_S)
        if wanted_bytes <= free + sum(long_idle):
            return wanted_bytes
        if least_bytes <= self._free_bytes:
            return min(wanted_bytes, max(least_bytes, self._free_bytes * 7 // 8))
        is_short = least_bytes <= self._reachable_bytes < wanted_bytes
        return least_bytes if is_short else wanted_bytes

    def place_job(self, job: ReadyJob) -> None:
        if job.num_bytes > self._state.capacity_bytes:
            self.actions.append(RefuseJob(job.id))
        elif self._workers[job.light] > 0 and (got := self._take(job, job.num_bytes)) != "passed":
            self._workers[job.light] -= 1
            self._running[job.owner] += 1
            if got == "taken":
                self.actions.append(Start(job.id))

    @property
    def _reachable_bytes(self) -> int:
        """What is free, becomes free, or is held by models that nobody uses."""
        return self._free_bytes + self._coming_bytes + sum(model.num_bytes for model in self._idle)

    def _take(
        self, demand: WantedModel | ReadyJob, num_bytes: int
    ) -> Literal["taken", "kept", "passed"]:
        """Take free bytes, or keep them for this demand and see to it that they become enough."""
        if num_bytes <= self._free_bytes:
            self._free_bytes -= num_bytes
            return "taken"
        missing_bytes = num_bytes - self._free_bytes
        if num_bytes > self._reachable_bytes:
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

    def _drain_for(self, demand: WantedModel, num_bytes: int) -> bool:
        """Drain models in use, until they and all that can be evicted are enough for a demand."""
        missing_bytes = num_bytes - self._reachable_bytes
        drained: list[ResidentModel] = []
        for model in self._busy:
            if missing_bytes > 0 and self._gives_way(model, demand):
                drained.append(model)
                missing_bytes -= model.num_bytes
        if missing_bytes > 0:
            return False
        self.actions += [Drain(model.key) for model in drained if model.draining_since is None]
        self._busy = [model for model in self._busy if model not in drained]
        self._left -= {model.key for model in (*drained, *self._idle)}
        self._idle.clear()
        return True

    def _gives_way(self, model: ResidentModel, demand: WantedModel) -> bool:
        """Whether a model in use is to be drained for a demand, or goes on being drained."""
        now, place = self._state.now, rank(demand, self._state)
        if model.key == demand.over or model.turn_ends_at == math.inf or place > model.priority:
            return False
        if place < model.priority:
            return True
        if model.draining_since is not None:
            return now < model.draining_since + DRAIN_S
        return now >= model.turn_ends_at

    def evict_idle(self) -> None:
        for model in self._idle:
            if self._state.now - model.last_used_at >= self._state.idle_s:
                self.actions.append(Evict(model.key))

    def resume_in_vain(self) -> None:
        """Let the models that are drained for nobody, or have been for too long, go on."""
        evicted = {action.key for action in self.actions if isinstance(action, Evict)}
        self.actions += [Resume(key) for key in sorted(self._left - evicted)]

"""What to start, load and evict next: a pure function from the kernel's state to actions.

No clock, no input or output, no chance: the same state always gives the same actions.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from itertools import takewhile
from operator import attrgetter
from typing import Literal, NamedTuple

from llmos.kernel.state import (
    Action,
    ActiveJob,
    Drain,
    Evict,
    Expire,
    Load,
    Preempt,
    ReadyJob,
    RefuseJob,
    RefuseModel,
    ResidentModel,
    Resume,
    Start,
    State,
    Stop,
    WantedModel,
)
from llmos.kernel.yielding import next_yield_at, turn_s, yield_actions

DRAIN_S = 10.0
"""A model that is still in use after so long is no longer drained for others of its class."""
FRESH_S = 10.0
"""A model that was used so long ago is half as likely to be wanted as one used just now."""
RECENT_S = 60.0
"""A model used so recently is not evicted for the sake of another's larger cache, nor for a job
that was preempted."""

# -- the decision ----------------------------------------------------------------------------------


def decide(state: State) -> list[Action]:
    """Return what to do now, in order.

    Memory and workers go to demands by rank: class with ageing, models before jobs, then the owner
    who used the least, then age. A demand that does not fit has idle models evicted for it, the
    cheapest loss first, and gets their memory once they are gone; one that still does not fit is
    passed by, unless it is overdue (rank below 0): then room and worker are kept for it.

    A model that would do with a smaller cache is loaded into what is free rather than in place of
    one that was used of late; a part is left for what may be laid over it.

    A demand that lacks memory or a worker even so has running jobs preempted that it outranks, the
    worst class first: jobs that resume, and that have had their turn or stand still. The rank of
    a running job is its class, as its waiting is over. What is preempted waits anew, and does not
    evict models used of late, so that it and a model do not replace each other again and again.

    A model that cannot have enough so takes turns with those in use: one of a worse class, or of
    the same class whose turn is over, is drained for it. It is refused where nothing of this could
    ever be enough.

    Before all of them, a running job that outgrew its memory has idle models evicted for it, as
    what it takes is taken already.

    Which jobs are held for interactive requests, `yield_actions` says.
    """
    plan = _Plan(state)
    for job in state.active:
        plan.look_after(job)
    plan.actions += yield_actions(state)
    for demand in plan.demands():
        if isinstance(demand, WantedModel):
            plan.place_model(demand)
        else:
            plan.place_job(demand)
    plan.evict_idle()
    plan.resume_in_vain()
    return plan.actions


def look_again_at(state: State) -> float:
    """Return when time alone may change what `decide` says, leases and ageing apart."""
    ready = [model for model in state.models if model.state == "ready"]
    times = [model.last_used_at + state.idle_s for model in ready if model.num_users == 0]
    if state.wanted:
        times += [model.turn_ends_at for model in ready]
        times += [m.draining_since + DRAIN_S for m in ready if m.draining_since is not None]
        times += [model.last_used_at + RECENT_S for model in ready]
    if state.wanted or state.ready:
        times += [state.now + turn_s(job) - job.ran_s for job in state.active if job.resumes]
    times.append(next_yield_at(state))
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


class _Head(NamedTuple):
    """The job that is next in one queue, by what it is compared by: keys are never equal."""

    key: tuple[int, float, int, float, int]
    queue: list[ReadyJob]


class _Plan:
    """The decision while it is made: actions so far, and what they leave free."""

    def __init__(self, state: State) -> None:
        self.actions: list[Action] = []
        self._state = state
        self._free_bytes = state.free_bytes
        self._coming_bytes = state.leaving_bytes
        self._coming_bytes += sum(m.num_bytes for m in state.models if m.state == "unloading")
        self._coming_bytes += sum(job.num_bytes for job in state.active if job.is_ending)
        max_light = state.max_workers if state.max_light is None else state.max_light
        self._workers = {False: state.max_workers, True: max_light}
        self._coming_workers = Counter(job.light for job in state.active if job.is_ending)
        for job in state.active:
            self._workers[job.light] -= 1
        self._preemptible = sorted(
            (job for job in state.active if _may_be_preempted(job, state.now)),
            key=lambda job: (-_class_of(job), job.ran_s, job.id),
        )
        self._running = Counter(job.owner for job in state.active)
        ready = [m for m in state.models if m.state == "ready" and not m.is_pinned]
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
            self.actions.append(Stop(job.id, job.fence))
        elif job.more_bytes:
            self._make_room(min(job.more_bytes, self._reachable_bytes))

    def _make_room(self, num_bytes: int) -> None:
        """Keep bytes for a running job that takes more than it has, before anyone gets them."""
        if num_bytes <= self._free_bytes:
            self._free_bytes -= num_bytes
        else:
            self._take_all_and(num_bytes - self._free_bytes)

    def demands(self) -> Iterator[WantedModel | ReadyJob]:
        """Yield demands by rank, jobs only as long as they could still get a worker.

        Jobs of one rank and owner differ by age alone, so it is the heads of such queues that are
        compared. A head's key grows as other jobs of its owner are placed; one that is out of date
        goes back into the heap.
        """
        models = deque(
            sorted(self._state.wanted, key=lambda m: (rank(m, self._state), m.since, m.key))
        )
        queues = self._queues()
        heads = [_Head(self._key(queue), queue) for queue in queues]
        heapq.heapify(heads)
        while models or heads:
            if models and (not heads or rank(models[0], self._state) <= heads[0].key[0]):
                yield models.popleft()
                continue
            key, queue = heapq.heappop(heads)
            if not self._may_get_worker(queue[-1].light, key[0]):
                continue
            if key == self._key(queue):
                yield queue.pop()
            if queue:
                heapq.heappush(heads, _Head(self._key(queue), queue))

    def _queues(self) -> Iterable[list[ReadyJob]]:
        """Return the jobs that fit the device, the oldest last; refuse the others."""
        queues: dict[tuple[int, str, bool], list[ReadyJob]] = {}
        by_age = attrgetter("queued_at", "id")
        for job in sorted(self._state.ready, key=by_age, reverse=True):
            if job.num_bytes > self._state.capacity_bytes:
                self.actions.append(RefuseJob(job.id))
            else:
                place = rank(job, self._state), job.owner, job.light
                queues.setdefault(place, []).append(job)
        return queues.values()

    def _key(self, queue: list[ReadyJob]) -> tuple[int, float, int, float, int]:
        """Return what the head of a queue is compared by, the smaller first."""
        job = queue[-1]
        usage_s = self._state.usage_s.get(job.owner, 0.0)
        return rank(job, self._state), usage_s, self._running[job.owner], job.queued_at, job.id

    def place_model(self, model: WantedModel) -> None:
        least_bytes = model.num_bytes if model.least_bytes is None else model.least_bytes
        room_bytes = self._state.capacity_bytes
        room_bytes -= sum(job.num_bytes for job in self._state.active if not job.is_ending)
        stays = (m for m in self._state.models if m.is_pinned or m.key == model.over)
        room_bytes -= sum(m.num_bytes for m in stays)
        outranked = self._outranked(model)
        if least_bytes > room_bytes + sum(job.num_bytes for job in outranked):
            self.actions.append(RefuseModel(model.key))
            return
        if (missing_bytes := least_bytes - self._reachable_bytes) > 0:
            self._preempt(self._victims(model, missing_bytes))
        num_bytes = self._best_size(model.num_bytes, least_bytes, max(room_bytes, least_bytes))
        if num_bytes > self._reachable_bytes and self._clear_for(model, num_bytes, least_bytes):
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
        if job.was_preempted and rank(job, self._state) >= 0 and not self._fits_beside_recent(job):
            return
        if self._outranked(job):
            self._preempt(self._victims(job, job.num_bytes - self._reachable_bytes))
        if not self._has_worker(job) or (got := self._take(job, job.num_bytes)) == "passed":
            return
        self._running[job.owner] += 1
        if self._workers[job.light] <= 0:
            self._coming_workers[job.light] -= 1
            return
        self._workers[job.light] -= 1
        if got == "taken":
            self.actions.append(Start(job.id))

    def _may_get_worker(self, light: bool, place: int) -> bool:
        """Whether a job of this rank can get a worker any more."""
        is_free = self._workers[light] > 0 or self._coming_workers[light] > 0
        return is_free or bool(self._preemptible and _class_of(self._preemptible[0]) > place)

    def _has_worker(self, job: ReadyJob) -> bool:
        """Whether a worker is free for a job, or becomes free."""
        return self._workers[job.light] > 0 or self._coming_workers[job.light] > 0

    def _fits_beside_recent(self, job: ReadyJob) -> bool:
        """Whether a job fits beside the models in use and those used of late."""
        now = self._state.now
        long_idle = (m.num_bytes for m in self._idle if now - m.last_used_at >= RECENT_S)
        return job.num_bytes <= self._free_bytes + self._coming_bytes + sum(long_idle)

    # -- preempting ------------------------------------------------------------------------------

    def _outranked(self, demand: WantedModel | ReadyJob) -> list[ActiveJob]:
        """Return the jobs that may be preempted for a demand, now or after their turn."""
        if not self._preemptible:
            return []
        place = rank(demand, self._state)
        return list(takewhile(lambda job: _class_of(job) > place, self._preemptible))

    def _willing(self, demand: WantedModel | ReadyJob) -> list[ActiveJob]:
        """Return the jobs that may be preempted for a demand now."""
        return [job for job in self._outranked(demand) if job.ran_s >= turn_s(job) or job.held]

    def _victims(self, demand: WantedModel | ReadyJob, missing_bytes: int) -> list[ActiveJob]:
        """Return the jobs to preempt now for a demand, which may lack a worker, too; none where it
        lacks nothing or all of them would not be enough."""
        willing = self._willing(demand)
        chosen: list[ActiveJob] = []
        if isinstance(demand, ReadyJob) and not self._has_worker(demand):
            chosen = [job for job in willing if job.light == demand.light][:1]
            if not chosen:
                return []
            missing_bytes -= chosen[0].num_bytes
        for job in willing:
            if missing_bytes > 0 and job not in chosen:
                chosen.append(job)
                missing_bytes -= job.num_bytes
        return chosen if missing_bytes <= 0 else []

    def _preempt(self, jobs: list[ActiveJob]) -> None:
        for job in jobs:
            self.actions.append(Preempt(job.id))
            self._preemptible.remove(job)
            self._coming_bytes += job.num_bytes
            self._coming_workers[job.light] += 1

    # -- memory ----------------------------------------------------------------------------------

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
        self._take_all_and(missing_bytes)
        return "kept"

    def _take_all_and(self, missing_bytes: int) -> None:
        """Take what is free and so much of what becomes free, evicting idle models for it."""
        while missing_bytes > self._coming_bytes:
            model = self._idle.pop(0)
            self._coming_bytes += model.num_bytes
            self.actions.append(Evict(model.key))
        self._coming_bytes -= missing_bytes
        self._free_bytes = 0

    def _clear_for(self, model: WantedModel, num_bytes: int, least_bytes: int) -> bool:
        """Make room by draining models in use, as few as do, and if need be preempting jobs too."""
        if any(self._drain_for(model, size) for size in (num_bytes, least_bytes)):
            return True
        jobs = self._willing(model)
        if not jobs or not self._drain_for(model, least_bytes - sum(j.num_bytes for j in jobs)):
            return False
        self._preempt(jobs)
        return True

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


def _class_of(job: ActiveJob) -> float:
    """Return the class of a running job. One that stands still until its user or the quota lets it
    go on, maybe tomorrow, is behind all others: whoever could use its worker may have it."""
    return job.priority if {"user", "quota"}.isdisjoint(job.held) else math.inf


def _may_be_preempted(job: ActiveJob, now: float) -> bool:
    """Whether a job can go on later. One that cannot begins anew, and loses its worker only where
    its owner's quota is spent, or others would wait until tomorrow."""
    is_there = not job.is_ending and job.lease_expires_at >= now
    return is_there and (job.resumes or "quota" in job.held)

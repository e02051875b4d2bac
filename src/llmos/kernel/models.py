"""A model as the kernel knows it: what the engine needs to load it, and who waits for it."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

from llmos.errors import (
    DeadlineExceededError,
    EngineError,
    ModelLoadingError,
    OutOfMemoryError,
    OverloadedError,
)
from llmos.kernel.adapters import AdapterSpec
from llmos.kernel.ledger import Ledger, format_bytes
from llmos.kernel.state import ResidentModel, WantedModel
from llmos.kernel.works import wait_until_ready
from llmos.types import EngineStats, PerClass, Priority

DEMAND_HALF_LIFE_S = 300.0
MAX_PAST = 4096
"""Models whose demand is remembered though they are not in memory."""
PACE_SMOOTHING = 0.2
RETRY_SHARE = 0.1
"""Who is refused is told to come back when this share of the full queue has ended."""
LONGEST_RETRY_S = 60
LEAST_TURN_S = 1.0
LONGEST_TURN_S = 10.0
LOADS_PER_TURN = 4.0
"""A model that was loaded stays so many times as long as its load took, within the two."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What the engine needs to load a model. ``key`` says which models are the same (a digest)."""

    key: str
    engine: str
    path: str
    manifest: dict[str, Any]
    estimate_bytes: int
    name: str
    adapter: AdapterSpec | None = None
    """For one lease: what to lay over the model."""
    spare_bytes: int = 0
    """Of the estimate: what it can do without where memory is short."""


@dataclass(slots=True)
class Queue:
    """The requests of one class at one model. Times are Unix seconds."""

    num_users: int = 0
    """Leases held or waited for."""
    num_works: Counter[str] = field(default_factory=Counter)
    """Works they are for, by tenant."""
    interval_s: float = 0.0
    """Smoothed time between two that ended; 0 until two have."""
    last_end_at: float | None = None

    def admits(self, tenant: str, num_works: int, most: int) -> bool:
        """Whether a request of so many works may come in, where ``most`` may be there in all.

        A full queue takes whoever has no more than an equal share of it then, so that nobody keeps
        others out; an empty one takes any request.
        """
        total = self.num_works.total()
        if not total or total + num_works <= most:
            return True
        share = most // len(self.num_works.keys() | {tenant})
        return self.num_works[tenant] + num_works <= share

    def begin(self, tenant: str, num_works: int) -> None:
        """Note a request and its works."""
        self.num_users += 1
        self.num_works[tenant] += num_works

    def ended(self, now: float, tenant: str = "", num_works: int = 0) -> None:
        """Note that a request ended, with its works."""
        self.num_users -= 1
        self.num_works[tenant] -= num_works
        self.num_works += Counter()  # drops the zeros
        if self.last_end_at is not None:
            passed_s = max(now - self.last_end_at, 0.0)
            weight = PACE_SMOOTHING if self.interval_s else 1.0
            self.interval_s += weight * (passed_s - self.interval_s)
        self.last_end_at = now

    def retry_after_s(self) -> int:
        """Return in how many seconds a good part of the queue will be free, at the recent pace."""
        wait_s = self.interval_s * self.num_users * RETRY_SHARE
        return min(max(1, math.ceil(wait_s)), LONGEST_RETRY_S)


def _queues() -> tuple[Queue, ...]:
    return tuple(Queue() for _ in Priority)


@dataclass(slots=True, eq=False)
class Model:
    """One model that is used, wanted or in memory. Times are Unix seconds."""

    spec: ModelSpec
    wanted_bytes: int
    """What to reserve at best: what was expected, put right by what was measured."""
    num_bytes: int = 0
    """What is reserved while it is not absent."""
    expected_bytes: int = 0
    """What ``wanted_bytes`` was before it was measured; 0 until then."""
    state: Literal["absent", "loading", "ready", "unloading"] = "absent"
    queues: tuple[Queue, ...] = field(default_factory=_queues)
    """One for each class."""
    stats: EngineStats = field(default_factory=EngineStats)
    """What the engine said of it last."""
    waiters: dict[asyncio.Future[None], Priority] = field(default_factory=dict)
    wanted_since: float = 0.0
    last_used_at: float = 0.0
    load_s: float = 0.0
    load_deaths: int = 0
    """Engine deaths in a row while it was being loaded."""
    turn_ends_at: float = 0.0
    """From then on it may be drained for others of its users' class."""
    draining_since: float | None = None
    """Since when it gives no new leases though it is ready."""
    is_pinned: bool = False
    """It stays in memory, wanted or not."""
    demand: float = 0.0
    """Leases taken, each fading with a half-life, as of ``last_used_at``."""

    @property
    def num_users(self) -> int:
        """Leases held or waited for, of any class."""
        return sum(queue.num_users for queue in self.queues)

    @property
    def ledger_key(self) -> str:
        return f"model:{self.spec.name}:{self.spec.key}"

    @property
    def gives_leases(self) -> bool:
        """Whether a lease need not wait."""
        return self.state == "ready" and self.draining_since is None

    def held(self) -> PerClass:
        """Return the leases that are held, not waited for, by class."""
        waiting = Counter(at for waiter, at in self.waiters.items() if not waiter.done())
        interactive, standard, batch, background = (
            queue.num_users - waiting[Priority(at)] for at, queue in enumerate(self.queues)
        )
        return interactive, standard, batch, background

    def begin_turn(self, now: float) -> None:
        """Give leases, and do so for a while: long enough that loading takes little of the time,
        and as long as those who came while it was drained had to wait."""
        drained_s = 0.0 if self.draining_since is None else now - self.draining_since
        turn_s = min(max(LEAST_TURN_S, LOADS_PER_TURN * self.load_s), LONGEST_TURN_S)
        self.turn_ends_at = now + max(turn_s, drained_s)
        self.draining_since = None
        self.resolve_waiters()

    @property
    def short_bytes(self) -> int:
        """What was reserved less than it wants."""
        return max(self.wanted_bytes - self.num_bytes, 0)

    def measured(self, num_bytes: int) -> None:
        """Put what to reserve right where it takes other than was reserved."""
        self.expected_bytes = self.wanted_bytes
        self.wanted_bytes += num_bytes - self.num_bytes
        self.num_bytes = num_bytes

    def demand_at(self, now: float) -> float:
        """Return the faded count of recent leases."""
        age_s = max(now - self.last_used_at, 0.0)
        return float(self.demand * 0.5 ** (age_s / DEMAND_HALF_LIFE_S))

    @property
    def num_works(self) -> int:
        """Works at it, computed or not."""
        return sum(queue.num_works.total() for queue in self.queues)

    @property
    def computes(self) -> bool:
        """Whether its engine has rows of it under way."""
        return any(self.stats.running)

    @property
    def queue_s(self) -> float:
        """How long a new request would wait, at the recent pace."""
        ends_per_s = sum(1.0 / queue.interval_s for queue in self.queues if queue.interval_s)
        return sum(self._waiting()) / ends_per_s if ends_per_s else 0.0

    def use(self, now: float, num_leases: int = 0) -> None:
        """Note that the model was used just now, by so many new leases."""
        self.demand = self.demand_at(now) + num_leases
        self.last_used_at = now

    async def wait(
        self, priority: Priority, deadline_s: float | None, longest_s: float = math.inf
    ) -> None:
        """Wait until it gives leases.

        Args:
            longest_s: nobody waits longer, whatever the deadline.

        Raises:
            DeadlineExceededError: the deadline passed.
            ModelLoadingError: so long has passed; it says how things stand and when to come back.
            LlmosError: why it cannot be loaded.
        """
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiters[ready] = priority
        is_due_first = deadline_s is not None and deadline_s <= longest_s
        try:
            await wait_until_ready(ready, deadline_s if is_due_first else longest_s)
        except DeadlineExceededError:
            if is_due_first:
                raise
            raise self.still_loading(longest_s) from None
        finally:
            self.waiters.pop(ready, None)

    def still_loading(self, waited_s: float) -> ModelLoadingError:
        """Return what to tell whoever waited so long in vain."""
        if self.state != "loading":
            how = "waits for memory that others use"
            retry_after_s = LONGEST_RETRY_S
        elif self.load_s:
            how = f"is being loaded, which took {self.load_s:.0f} s the last time"
            retry_after_s = min(max(1, math.ceil(self.load_s - waited_s)), LONGEST_RETRY_S)
        else:
            how = "is being loaded for the first time"
            retry_after_s = LONGEST_RETRY_S
        return ModelLoadingError(
            f"{self.spec.name} {how}; after {waited_s:.0f} s it was not there: try again in "
            f"{retry_after_s} s.",
            retry_after_s=retry_after_s,
        )

    def resolve_waiters(self, error: Exception | None = None) -> None:
        """Tell everyone who waits that the model is ready, or cannot be."""
        for waiter in self.waiters:
            if not waiter.done():
                if error is None:
                    waiter.set_result(None)
                else:
                    waiter.set_exception(error)

    def overloaded(self, priority: Priority) -> OverloadedError:
        """Return what to tell whoever finds the queue of a class full."""
        retry_after_s = self.queues[priority].retry_after_s()
        return OverloadedError(
            f"Too many {priority.name.lower()} requests are at {self.spec.name} already: try "
            f"again in {retry_after_s} s.",
            retry_after_s=retry_after_s,
        )

    def resident(self, now: float, reload_s: float) -> ResidentModel | None:
        """Return the scheduler's view of a model that holds memory; None for one that does not."""
        if self.state == "absent":
            return None
        held = self.held()
        return ResidentModel(
            self.spec.key,
            self.num_bytes,
            self.state,
            sum(held),
            self.last_used_at,
            reload_s,
            self.demand_at(now),
            next((at for at in Priority if held[at]), Priority.BACKGROUND),
            self.turn_ends_at,
            self.draining_since,
            self.is_pinned,
        )

    def wanted(self, priority: Priority) -> WantedModel:
        """Return the scheduler's view of a model that is absent and waited for."""
        least_bytes = self.wanted_bytes - self.spec.spare_bytes
        return WantedModel(
            self.spec.key, self.wanted_bytes, priority, self.wanted_since, least_bytes
        )

    def status(self) -> dict[str, Any]:
        """Return what people want to know: sizes, counts by class, shares from 0 to 1 or None."""
        stats = self.stats
        return {
            "name": self.spec.name,
            "key": self.spec.key,
            "engine": self.spec.engine,
            "state": self.state,
            "draining": self.draining_since is not None,
            "pinned": self.is_pinned,
            "bytes": self.num_bytes or self.wanted_bytes,
            "predicted_bytes": max(self.expected_bytes - self.short_bytes, 0),
            "requests": self.num_users,
            "running": list(stats.running),
            "waiting": list(self._waiting()),
            "kv_use": _share(stats.kv_used_blocks, stats.kv_blocks),
            "prefix_hit_rate": _share(stats.prefix_hit_tokens, stats.prefix_query_tokens),
            "load_s": self.load_s,
            "last_used_at": self.last_used_at,
        }

    def _waiting(self) -> PerClass:
        """Return who waits in the engine, or here for the model to be loaded."""
        counts = list(self.stats.waiting)
        for priority in self.waiters.values():
            counts[priority] += 1
        interactive, standard, batch, background = counts
        return interactive, standard, batch, background


class Expectations:
    """What models will take, as far as anybody knows: what is declared."""

    def model_bytes(self, spec: ModelSpec) -> int:
        """Return what to reserve for a model that was not measured yet."""
        return spec.estimate_bytes

    def model_loaded(self, model: Model) -> None:
        """Take note of a model that was just loaded, and measured."""


class LoadTimes:
    """What it would take to load a model again, learned from the loads of one engine process.

    The first load of a model may have to import and build what later ones find there. Until it was
    loaded again, a model is taken to be as quick, for its size, as the quickest of all.
    """

    def __init__(self) -> None:
        self._num_loads: Counter[str] = Counter()
        self._quickest_s = math.inf
        """Of all loads, per byte."""

    def note(self, key: str, num_bytes: int, load_s: float) -> None:
        """A model was loaded."""
        self._num_loads[key] += 1
        self._quickest_s = min(self._quickest_s, load_s / max(num_bytes, 1))

    def reload_s(self, model: Model) -> float:
        """Return the seconds that it would take."""
        if self._num_loads[model.spec.key] > 1:
            return model.load_s
        return min(model.load_s, self._quickest_s * max(model.num_bytes, 1))


class PastDemands:
    """How much the models were in demand that are not known any more.

    One that comes back is no stranger: otherwise two that are asked in turn replace each other for
    as long as a third that was popular is remembered.
    """

    def __init__(self) -> None:
        self._past: dict[str, tuple[float, float]] = {}

    def keep(self, model: Model) -> None:
        """Remember a model that is forgotten otherwise; of too many the oldest goes."""
        self._past[model.spec.key] = (model.demand, model.last_used_at)
        if len(self._past) > MAX_PAST:
            del self._past[next(iter(self._past))]

    def restored(self, model: Model) -> Model:
        """Return a model that is new, with what is remembered of it."""
        model.demand, model.last_used_at = self._past.pop(model.spec.key, (0.0, 0.0))
        return model


def too_large(model: WantedModel, ledger: Ledger) -> OutOfMemoryError:
    """Return the error for a model that cannot fit beside the running jobs."""
    least_bytes = model.num_bytes if model.least_bytes is None else model.least_bytes
    return OutOfMemoryError(
        f"This needs about {format_bytes(least_bytes)} of memory; llmos may use "
        f"{format_bytes(ledger.capacity_bytes)}, running jobs included: wait for them, cancel one, "
        "or raise memory_bytes."
    )


def stopping() -> EngineError:
    """Return the error for who comes while llmos ends."""
    return EngineError("llmos is stopping: try again later.")


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None

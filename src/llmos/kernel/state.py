"""What the scheduler looks at, and what it can say: plain values, no behaviour."""

from __future__ import annotations

import math
from collections.abc import Mapping
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
    was_preempted: bool = False
    """It gave its memory up for another; then ``queued_at`` is when it did."""


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
    priority: Priority = Priority.STANDARD
    threads: int = 1
    gives_way: bool = False
    """It is held while interactive requests are under way, see `yielding`."""
    resumes: bool = False
    """It may be preempted: it goes on later from where it was."""
    is_leaving: bool = False
    """It was preempted and is about to end."""
    ran_s: float = math.inf
    """How long this attempt has run, holds left out."""
    num_preempted: int = 0
    """How often it gave its place up for others so far."""
    held: tuple[str, ...] = ()
    """Why it stands still; empty while it runs."""
    more_bytes: int = 0
    """It outgrew its memory, and is held until there is room for so much more, see `outgrowth`."""
    owed_s: float = 0.0
    """How long it was held for interactive requests, less what it was paid back since."""
    has_turn: bool = False
    """It is being paid back: it runs beside them."""

    @property
    def is_ending(self) -> bool:
        """Its worker and memory become free within seconds."""
        return self.cancel_requested or self.is_leaving


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
    is_pinned: bool = False
    """It is neither evicted nor drained."""


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

    Up to ``max_workers`` ordinary jobs run, and ``max_light`` light ones beside them.
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
    max_light: int | None = None
    """Light jobs that run beside the ordinary ones; None: as many."""
    leaving_bytes: int = 0
    """Held by jobs that have ended, until their workers are gone."""
    interactive_at: float = -math.inf
    """When the last interactive request ended; infinity: one is under way."""
    yield_s: float = 2.0
    """For so long after it jobs that gave way to it go on being held."""


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
    fence: int


@dataclass(frozen=True, slots=True)
class PauseJob:
    """Hold a job for the sake of interactive requests."""

    job_id: int


@dataclass(frozen=True, slots=True)
class ContinueJob:
    """Let a job that gave way go on, and where it has a turn, beside interactive requests."""

    job_id: int
    has_turn: bool = False


@dataclass(frozen=True, slots=True)
class Preempt:
    """Have a job keep what it has done, end, and be queued again at no cost to it."""

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


JobAction = Start | Expire | Stop | PauseJob | ContinueJob | Preempt | RefuseJob
Action = JobAction | Load | Drain | Resume | Evict | RefuseModel

"""What a simulated device is, and the models in its memory."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from llmos.kernel.models import DEMAND_HALF_LIFE_S
from llmos.simulate.engine import BLOCK_TOKENS, SimulatedEngine
from llmos.simulate.sequences import Sequence
from llmos.simulate.steptimes import MEASURED, StepTimes
from llmos.types import Priority


@dataclass(frozen=True, slots=True)
class Hardware:
    """What a device is. The default is the machine that the step times were measured on, with a
    budget for four models of its size.

    Watts are for its two cores and their memory: stated, not measured. So is the reading speed:
    a model that is not in memory comes over the network or from an SSD.
    """

    times: StepTimes = MEASURED
    memory_bytes: int = 4_200_000_000
    weights_bytes: int = 496_000_000
    kv_bytes: int = 536_870_912
    kv_bytes_per_token: int = 12_288
    read_bytes_per_s: float = 1e9
    idle_watts: float = 10.0
    busy_watts: float = 30.0

    @property
    def model_bytes(self) -> int:
        """What a model holds in memory: its weights and its cache."""
        return self.weights_bytes + self.kv_bytes

    @property
    def load_s(self) -> float:
        """Seconds to bring a model into memory."""
        return self.weights_bytes / self.read_bytes_per_s

    @property
    def max_tokens(self) -> int:
        """How long a request and its answer may be: the cache must hold it."""
        return (self.kv_bytes // self.kv_bytes_per_token // BLOCK_TOKENS - 1) * BLOCK_TOKENS

    @property
    def num_places(self) -> int:
        """How many models fit."""
        return self.memory_bytes // self.model_bytes


@dataclass(slots=True, eq=False)
class Hosted:
    """A model that is in a device's memory, or that somebody waits for there."""

    key: str
    num_bytes: int
    state: Literal["absent", "loading", "ready"] = "absent"
    engine: SimulatedEngine | None = None
    queue: list[Sequence] = field(default_factory=list)
    """Those who wait for it to be ready."""
    held: Counter[Priority] = field(default_factory=Counter)
    """Requests that the engine has, by class."""
    num_urgent: int = 0
    """Requests that have targets for their tokens, those in the queue included."""
    last_used_at: float = 0.0
    demand: float = 0.0
    wanted_since: float = 0.0
    turn_ends_at: float = 0.0
    draining_since: float | None = None
    is_called: bool = False
    """It is to be loaded though nobody waits for it yet."""
    passed_over_ps: int | None = None
    """Since when it has had work and no step, as others have work of a better class."""

    @property
    def num_users(self) -> int:
        return self.held.total()

    @property
    def is_wanted(self) -> bool:
        return self.state == "absent" and bool(self.queue or self.is_called)

    @property
    def gives_leases(self) -> bool:
        return self.engine is not None and self.draining_since is None

    def demand_at(self, now: float) -> float:
        """Return the faded count of recent requests."""
        return float(self.demand * 0.5 ** ((now - self.last_used_at) / DEMAND_HALF_LIFE_S))

    def use(self, now: float, num_requests: int = 0) -> None:
        """Note that it is used just now, by so many new requests."""
        self.demand = self.demand_at(now) + num_requests
        self.last_used_at = now

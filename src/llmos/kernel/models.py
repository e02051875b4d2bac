"""A model as the kernel knows it: what the engine needs to load it, and who waits for it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, Literal

from llmos.kernel.scheduler import ResidentModel
from llmos.types import Priority

DEMAND_HALF_LIFE_S = 300.0


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What the engine needs to load a model. ``key`` says which models are the same (a digest)."""

    key: str
    engine: str
    path: str
    manifest: dict[str, Any]
    estimate_bytes: int
    name: str


@dataclass(slots=True, eq=False)
class Model:
    """One model that is used, wanted or in memory. Times are Unix seconds."""

    spec: ModelSpec
    num_bytes: int
    """What to reserve: the estimate until it was measured."""
    state: Literal["absent", "loading", "ready", "unloading"] = "absent"
    num_users: int = 0
    """Leases held or waited for."""
    waiters: dict[asyncio.Future[None], Priority] = field(default_factory=dict)
    wanted_since: float = 0.0
    last_used_at: float = 0.0
    load_s: float = 0.0
    load_deaths: int = 0
    """Engine deaths in a row while it was being loaded."""
    demand: float = 0.0
    """Leases taken, each fading with a half-life, as of ``last_used_at``."""

    @property
    def ledger_key(self) -> str:
        return f"model:{self.spec.name}:{self.spec.key}"

    def demand_at(self, now: float) -> float:
        """Return the faded count of recent leases."""
        age_s = max(now - self.last_used_at, 0.0)
        return float(self.demand * 0.5 ** (age_s / DEMAND_HALF_LIFE_S))

    def use(self, now: float, num_leases: int = 0) -> None:
        """Note that the model was used just now, by so many new leases."""
        self.demand = self.demand_at(now) + num_leases
        self.last_used_at = now

    def resolve_waiters(self, error: Exception | None = None) -> None:
        """Tell everyone who waits that the model is ready, or cannot be."""
        for waiter in self.waiters:
            if not waiter.done():
                if error is None:
                    waiter.set_result(None)
                else:
                    waiter.set_exception(error)

    def resident(self, now: float) -> ResidentModel | None:
        """Return the scheduler's view of a model that holds memory; None for one that does not."""
        if self.state == "absent":
            return None
        return ResidentModel(
            self.spec.key,
            self.num_bytes,
            self.state,
            self.num_users,
            self.last_used_at,
            self.load_s,
            self.demand_at(now),
        )

    def status(self) -> dict[str, Any]:
        """Return what people want to know."""
        return {
            "name": self.spec.name,
            "key": self.spec.key,
            "engine": self.spec.engine,
            "state": self.state,
            "bytes": self.num_bytes,
            "requests": self.num_users,
            "load_s": self.load_s,
            "last_used_at": self.last_used_at,
        }

"""The loaded models of an engine process taking turns: one step at a time, each accounted for.

Who comes next is `fairness`' decision. This asks the engines how urgent they are, measures their
steps and charges them to the tenants.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import takewhile

from llmos.engines import fairness
from llmos.engines.base import Engine, Urgency
from llmos.engines.fairness import HORIZON_STEPS, Candidate, VirtualTimes
from llmos.engines.ordered import Ordered
from llmos.errors import LlmosError
from llmos.kernel.protocol import joined
from llmos.types import EngineStats, GenerateWork, Priority, TokensOut, Work, WorkOut

SMOOTHING = 0.2
"""Weight of the newest step in a model's mean step time."""
KEEP_S = 0.25
"""Tokens of a work that is wanted whole are reported after so long, for quotas and in case that the
engine ends; each by itself would cost the server more than a small model costs the engine."""


@dataclass(slots=True)
class _Kept:
    """What a work that is wanted whole was not reported of yet."""

    outs: list[TokensOut]
    reported_at: float


@dataclass(slots=True)
class HostedModel:
    """A loaded model, and of the works passed to it what the host needs to know."""

    engine: Engine
    works: dict[str, Work] = field(default_factory=dict)
    waiting_since: float | None = None
    """Its last step, or when it got work; None while it has none."""
    step_s: float = 0.0
    """Smoothed duration of a step."""
    _tenants: dict[int, Counter[str]] = field(default_factory=dict)
    _deadlines: dict[str, float] = field(default_factory=dict)
    """Work id to monotonic seconds, for those works that have a deadline."""
    _by_deadline: Ordered[tuple[float, str]] = field(default_factory=lambda: Ordered(tuple))
    _kept: dict[str, _Kept] = field(default_factory=dict)

    def add(self, work_id: str, work: Work, now: float) -> None:
        """Note a work that the engine took at ``now``."""
        self.works[work_id] = work
        self._tenants.setdefault(work.priority, Counter())[work.tenant] += 1
        if work.deadline_s is not None:
            self._deadlines[work_id] = now + work.deadline_s
            self._by_deadline.add((now + work.deadline_s, work_id))

    def remove(self, work_id: str) -> None:
        """Forget a work; no-op when it is not there."""
        if (work := self.works.pop(work_id, None)) is None:
            return
        self._kept.pop(work_id, None)
        if (at := self._deadlines.pop(work_id, None)) is not None:
            self._by_deadline.remove((at, work_id))
        tenants = self._tenants[work.priority]
        tenants[work.tenant] -= 1
        if not tenants[work.tenant]:
            del tenants[work.tenant]
        if not tenants:
            del self._tenants[work.priority]

    def report(self, work_id: str, out: TokensOut, now: float) -> TokensOut | None:
        """Return what to report of a work that made ``out`` at ``now``; None: not yet.

        Of one that is wanted whole that is its first tokens, then all since the last report once in
        a while and at the end.
        """
        work = self.works.get(work_id)
        if not isinstance(work, GenerateWork) or not work.is_whole:
            return out
        if (kept := self._kept.get(work_id)) is None:
            self._kept[work_id] = _Kept([], now)
            return out
        kept.outs.append(out)
        if out.finish_reason is None and now - kept.reported_at < KEEP_S:
            return None
        report = joined(kept.outs)
        self._kept[work_id] = _Kept([], now)
        return report

    def expired(self, now: float) -> list[str]:
        """Return the works whose deadline has passed."""
        return [work_id for _, work_id in takewhile(lambda one: one[0] <= now, self._by_deadline)]

    @property
    def next_deadline(self) -> float:
        """When the first of its works is due, in monotonic seconds."""
        first = self._by_deadline.first
        return math.inf if first is None else first[0]

    def tenants(self) -> Mapping[int, Iterable[str]]:
        """Return the tenants of its works by class."""
        return self._tenants

    def urgency(self, now: float) -> Urgency:
        """Return what the engine says, or what its works say."""
        if (said := self.engine.urgency(now)) is not None:
            return said
        priority = min(self._tenants, default=int(Priority.BACKGROUND))
        return Urgency(self.next_deadline - now, priority, tuple(self._tenants.get(priority, ())))

    def shares(self) -> Mapping[str, float]:
        """Return each tenant's share of the last step: as the engine says, else by works."""
        if shares := self.engine.last_shares():
            return shares
        counts = sum(self._tenants.values(), Counter[str]())
        return {tenant: count / len(self.works) for tenant, count in counts.items()}

    def stats(self) -> EngineStats:
        """Return what the engine says, or the works it has."""
        if (said := self.engine.stats()) is not None:
            return said
        counts = Counter(work.priority for work in self.works.values())
        interactive, standard, batch, background = (counts[priority] for priority in Priority)
        return EngineStats(running=(interactive, standard, batch, background))


class Turns:
    """Picks the model of each step and charges the step's time to tenants and models.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._tenants = VirtualTimes()
        self._models = VirtualTimes()
        self._computed_s: dict[str, dict[str, float]] = {}
        self._classes: dict[int, float] = {}  # since when each that has work has had no step
        self._picked = 0  # the class of the last pick
        self._step_limit_s = math.inf

    def next(self, models: Mapping[str, HostedModel]) -> str | None:
        """Return the key of the model to step now; None when none has work."""
        now = self._clock()
        busy: dict[str, Urgency] = {}
        for key, model in models.items():
            if not model.engine.has_work:
                model.waiting_since = None
                continue
            busy[key] = model.urgency(now)
            if model.waiting_since is None:
                model.waiting_since = now
        if not busy:
            return None
        self._activate({key: models[key] for key in busy})
        classes = {urgency.priority for urgency in busy.values()}
        self._classes = {priority: self._classes.get(priority, now) for priority in classes}
        key, self._step_limit_s = next(iter(busy)), math.inf
        if len(busy) > 1:
            key = self._pick(models, busy, now)
            self._step_limit_s = min(urgency.step_limit_s for urgency in busy.values())
        self._picked = busy[key].priority
        return key

    def _pick(
        self, models: Mapping[str, HostedModel], busy: Mapping[str, Urgency], now: float
    ) -> str:
        candidates = [
            Candidate(
                key,
                urgency,
                now - (models[key].waiting_since or now),
                now - self._classes[urgency.priority],
                self._tenants.least(urgency.tenants),
                self._models.of(key),
            )
            for key, urgency in busy.items()
        ]
        horizon_s = HORIZON_STEPS * max(models[key].step_s for key in busy)
        return fairness.pick(candidates, horizon_s)

    def step(self, key: str, model: HostedModel) -> list[tuple[str, WorkOut | LlmosError]]:
        """Step a model and account for it; returns and raises what the engine does."""
        model.engine.set_virtual_times(self._tenants.view())
        model.engine.set_step_limit(self._step_limit_s)
        begun = self._clock()
        try:
            return model.engine.step()
        finally:
            ended = self._clock()
            taken_s = ended - begun
            model.step_s += (SMOOTHING if model.step_s else 1.0) * (taken_s - model.step_s)
            model.waiting_since = self._classes[self._picked] = ended
            shares = model.shares()
            self._tenants.charge(shares, taken_s * 1000)
            self._models.charge({key: 1.0}, taken_s * 1000)
            self._note_computed(key, shares, taken_s)

    def take_computed(self) -> dict[str, dict[str, float]]:
        """Return the seconds of steps since the last call, by model and tenant."""
        computed_s, self._computed_s = self._computed_s, {}
        return computed_s

    def _note_computed(self, key: str, shares: Mapping[str, float], taken_s: float) -> None:
        computed_s = self._computed_s.setdefault(key, {})
        for tenant, share in shares.items():
            computed_s[tenant] = computed_s.get(tenant, 0.0) + share * taken_s

    def _activate(self, busy: Mapping[str, HostedModel]) -> None:
        groups: dict[int, set[str]] = {}
        for model in busy.values():
            for priority, tenants in model.tenants().items():
                groups.setdefault(priority, set()).update(tenants)
        self._tenants.activate(groups)
        self._models.activate({0: busy})

"""Candidates of deployments while they are tried: who is asked, how they do, and taking them back.

What clients ask for as ``name@alias`` goes to the candidate by its weight. Each answer is counted
for the version that gave it; when the candidate does worse (`library.canary`), the deployment is
rolled back, and what is asked from then on goes to the version there was.
"""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_left, insort
from collections import deque
from dataclasses import dataclass, field

from llmos.errors import LlmosError
from llmos.library.canary import Sample, why_worse
from llmos.library.deployment_rows import Deployment
from llmos.library.deployments import Deployments
from llmos.library.routes import Route, Target
from llmos.security.actors import SYSTEM

MAX_LATENCIES = 1000
"""The newest of a version's, which its 95th percentile is of."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Tally:
    """What one version answered since the candidate came."""

    requests: int = 0
    failures: int = 0
    newest_s: deque[float] = field(default_factory=deque)
    ranked_s: list[float] = field(default_factory=list)
    """The same in order, so that no answer has them sorted."""

    def add(self, good: bool, seconds: float | None) -> None:
        self.requests += 1
        self.failures += not good
        if not good or seconds is None:
            return
        if len(self.newest_s) == MAX_LATENCIES:
            del self.ranked_s[bisect_left(self.ranked_s, self.newest_s.popleft())]
        self.newest_s.append(seconds)
        insort(self.ranked_s, seconds)

    def sample(self) -> Sample:
        ranked = self.ranked_s
        p95_s = ranked[int(len(ranked) * 0.95)] if ranked else None
        return Sample(self.requests, self.failures, len(ranked), p95_s)


class Canaries:
    """The candidates that are tried. Belongs to the event loop."""

    def __init__(self, deployments: Deployments) -> None:
        self._deployments = deployments
        self._tallies: dict[str, tuple[Deployment, dict[str, _Tally]]] = {}
        self._rollbacks: set[asyncio.Task[None]] = set()

    def has_any(self) -> bool:
        """Whether there are any."""
        return self._deployments.has_canaries()

    def route(self, name: str) -> Route | None:
        """Return by which weights a name is answered; None: it has no candidate."""
        found = self._deployments.canary(name)
        if found is None or found.candidate_ref is None:
            return None
        targets = (
            Target(found.stable_ref, 1.0 - found.weight),
            Target(found.candidate_ref, found.weight),
        )
        return Route(name, targets, (), SYSTEM.owner, found.updated_at)

    def samples(self, found: Deployment) -> dict[str, Sample]:
        """Return what was seen since the candidate came, or the server started, by version."""
        deployment, tallies = self._tallies.get(found.ref, (None, {}))
        if deployment != found:
            return {}
        return {model: tally.sample() for model, tally in tallies.items()}

    def observe(self, name: str, model: str, good: bool, seconds: float | None) -> None:
        """Count an answer to ``name`` that ``model`` gave, or failed to; take the candidate back
        when it does worse.

        Args:
            seconds: that it took; None: the model had to be loaded first, and how long that takes
                depends on what else is in memory.
        """
        found = self._deployments.canary(name)
        if found is None or found.candidate is None:
            return
        deployment, tallies = self._tallies.get(name, (None, {}))
        if deployment != found:  # another candidate, weight or rule: what was seen says nothing
            tallies = {}
            self._tallies[name] = found, tallies
        tallies.setdefault(model, _Tally()).add(good, seconds)
        candidate, stable = (
            tallies.get(ref or "", _Tally()).sample()
            for ref in (found.candidate_ref, found.stable_ref)
        )
        if reason := why_worse(candidate, stable, found.rules):
            del self._tallies[name]
            task = asyncio.create_task(self._take_back(found, reason), name="rollback")
            self._rollbacks.add(task)
            task.add_done_callback(self._rollbacks.discard)

    async def close(self) -> None:
        """Wait for what is being taken back."""
        await asyncio.gather(*self._rollbacks)

    async def _take_back(self, found: Deployment, reason: str) -> None:
        try:
            await asyncio.to_thread(
                self._deployments.rollback,
                found.ref,
                SYSTEM,
                reason=reason,
                candidate=found.candidate,
            )
        except LlmosError as error:  # a person was quicker, or the disk is full: it is seen again
            log.warning("%s could not be rolled back: %s", found.ref, error)
        else:
            log.warning("%s was rolled back from %s: %s", found.ref, found.candidate_ref, reason)

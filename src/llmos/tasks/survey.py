"""What is known now of the models that a request may go to, as the router wants it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from llmos.kernel.outcomes import Outcomes
from llmos.kernel.router import Asked, Replica, Verdict, assess
from llmos.security.actors import Actor
from llmos.tasks.candidates import Candidate
from llmos.tasks.context import Residency
from llmos.tasks.paces import Paces
from llmos.tasks.plan import Plan, Rule
from llmos.tasks.quality import comparable, prior, quality
from llmos.tasks.suitability import Need

Status = Mapping[str, Any]
"""Of a model in the memory of an engine, see `Model.status`."""


@dataclass(frozen=True, slots=True)
class Found:
    """Candidates by ref, the same as replicas, and which of them are in memory; for an owner's
    request."""

    owner: str
    candidates: Mapping[str, Candidate]
    replicas: list[Replica] = field(default_factory=list)
    warm: set[str] = field(default_factory=set)

    def plan(
        self, name: str, rule: Rule, order: Sequence[str], verdicts: tuple[Verdict, ...]
    ) -> Plan:
        """Return the plan that tries the candidates of ``order``."""
        return Plan(
            name,
            rule,
            tuple(self.candidates[ref] for ref in order),
            verdicts,
            self._unmeasured(),
            frozenset(self.warm),
            self.owner,
        )

    def put_into(self, plan: Plan, at: int, name: str, asked: Asked) -> Plan:
        """Return a plan with the one candidate there is in the place of another, as a trial of the
        deployment ``name``."""
        ((ref, candidate),) = self.candidates.items()
        (replica,) = self.replicas
        place = next(it for it in plan.verdicts if it.key == plan.order[at].ref)
        return replace(
            plan,
            order=(*plan.order[:at], candidate, *plan.order[at + 1 :]),
            verdicts=(*plan.verdicts, assess(asked, replica)._replace(score=place.score)),
            unmeasured=plan.unmeasured | self._unmeasured(),
            warm=plan.warm | self.warm,
            trials={**plan.trials, ref: name},
        )

    def _unmeasured(self) -> frozenset[str]:
        return frozenset(one.key for one in self.replicas if one.quality is None)


class Survey:
    """Looks at candidates. Belongs to the event loop.

    Args:
        capacity_bytes: the memory there is.
    """

    def __init__(
        self, outcomes: Outcomes, paces: Paces, residency: Residency, capacity_bytes: int
    ) -> None:
        self.paces = paces
        self._outcomes = outcomes
        self._residency = residency
        self._capacity_bytes = capacity_bytes

    def expected(self, need: Need, candidates: Sequence[Candidate]) -> Need:
        """Return the need of an answer as long as those of these models have been, if shorter."""
        mean = self.paces.answer_tokens(candidates)
        if mean is None or mean >= need.output_tokens:
            return need
        return replace(need, output_tokens=max(round(mean), 1))

    def look(
        self,
        candidates: Sequence[Candidate],
        need: Need,
        actor: Actor,
        weights: Mapping[str, float] | None = None,
    ) -> Found:
        """Return what was measured of each; ``weights`` by ref, 1 where there is none."""
        statuses = self._ready()
        measured = [
            quality(one.metrics, one.task, need.language, one.data, one.losses)
            for one in candidates
        ]
        found = Found(actor.owner, {one.ref: one for one in candidates})
        for one, value in zip(candidates, comparable(measured), strict=True):
            status = statuses.get(one.spec.key)
            if status is not None:
                found.warm.add(one.ref)
                self.paces.loaded(one.spec.key, status["load_s"])
            weight = (weights or {}).get(one.ref, 1.0)
            found.replicas.append(self._replica(one, value, need, actor.owner, status, weight))
        return found

    def _ready(self) -> dict[str, Status]:
        """Return, of each model in memory, the engine that has the least to do: it is the one that
        a request goes to."""
        best: dict[str, Status] = {}
        for status in self._residency.status():
            if status["state"] != "ready" or status["draining"]:
                continue
            other = best.get(status["key"])
            if other is None or _num_works(status) < _num_works(other):
                best[status["key"]] = status
        return best

    def _replica(
        self,
        one: Candidate,
        value: float | None,
        need: Need,
        owner: str,
        status: Status | None,
        weight: float,
    ) -> Replica:
        """Return a candidate as the router sees it; ``status`` is None unless it is in memory."""
        pace = self.paces.of(one)
        service_s = pace.service_s(need.prompt_tokens, need.output_tokens)
        num_tokens = max(need.prompt_tokens + need.output_tokens, 1)
        successes, failures = self._outcomes.counts(one.ref, one.task, need.language, owner)
        ahead_s = 0.0
        if status is not None:  # as many are served at a time as run now
            ahead = sum(status["waiting"][: need.priority + 1])
            ahead_s = service_s * ahead / max(sum(status["running"]), 1)
        return Replica(
            key=one.ref,
            model=one.ref,
            prefill_tokens_per_s=pace.prefill_tokens_per_s,
            decode_tokens_per_s=pace.decode_tokens_per_s,
            quality=value,
            queue_s=pace.base_s + ahead_s,
            load_s=0.0 if status is not None else pace.load_s,
            memory_bytes=0 if status is not None else one.least_bytes,
            room_bytes=self._capacity_bytes,
            cost_per_1k_tokens=1000.0 * service_s / num_tokens,
            successes=successes,
            failures=failures,
            weight=weight,
            prior_quality=prior(one.task, one.parameters),
        )


def asked_of(need: Need) -> Asked:
    """Return a need as the router sees it."""
    return Asked(
        need.prompt_tokens,
        need.output_tokens,
        need.priority,
        need.max_latency_ms,
        need.min_quality,
        need.max_cost,
    )


def _num_works(status: Status) -> int:
    return sum(status["running"]) + sum(status["waiting"])

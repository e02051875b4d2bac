"""The models to try for a request, in order, why these, and which failures lead to the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from llmos.errors import (
    ContextLengthError,
    CorruptBlobError,
    DeadlineExceededError,
    EngineError,
    InvalidModelError,
    LlmosError,
    ModelNotFoundError,
    OutOfMemoryError,
    OverloadedError,
    QuotaExceededError,
    RateLimitError,
)
from llmos.kernel.router import Verdict
from llmos.tasks.candidates import Candidate

Rule = Literal["measured", "weights", "fixed", "named"]
"""By the router; by a route's weights; there was one; it is the name of a model."""
_GOES_ON = (
    EngineError,
    OverloadedError,
    OutOfMemoryError,
    InvalidModelError,
    CorruptBlobError,
    ModelNotFoundError,
    ContextLengthError,
)
FAILURES = (
    EngineError,
    OutOfMemoryError,
    InvalidModelError,
    CorruptBlobError,
)
"""What counts against a model, besides deadlines. A full queue does not: the router sees it."""


def goes_on(error: LlmosError) -> bool:
    """Whether another model may do better: this one is busy, broken, gone, too large for the
    memory or too small for the request. An owner's limits hold whichever is asked."""
    is_the_owners = isinstance(error, QuotaExceededError | RateLimitError)
    return isinstance(error, _GOES_ON) and not is_the_owners


@dataclass(frozen=True, slots=True)
class Plan:
    """Which models to try, in order, and why."""

    name: str
    """That was asked for."""
    rule: Rule
    order: tuple[Candidate, ...]
    verdicts: tuple[Verdict, ...]
    unmeasured: frozenset[str] = frozenset()
    """Of the verdicts, those whose quality nobody measured."""
    warm: frozenset[str] = frozenset()
    """Of the order, those that were in memory."""
    owner: str = ""
    """Whose request it is."""
    is_own_route: bool = False
    """Whether the name is a route that serves this owner alone."""
    trials: Mapping[str, str] = field(default_factory=dict)
    """Of the order, versions that stand for a deployment's name; that name."""

    def is_to_blame(self, attempt: int, error: LlmosError, seconds: float) -> bool:
        """Whether what a try ended with after so many seconds is the model's fault; a deadline is,
        if it left the time that the model was expected to take."""
        if not isinstance(error, DeadlineExceededError):
            return isinstance(error, FAILURES)
        ref = self.order[attempt].ref
        return any(it.key == ref and seconds * 1000 >= it.latency_ms for it in self.verdicts)

    def explained(self, attempt: int = 0, failed: Sequence[tuple[str, str]] = ()) -> dict[str, Any]:
        """Return the choice as plain JSON.

        Args:
            attempt: which of the order answers.
            failed: those tried before, and the codes of their errors.
        """
        return {
            "name": self.name,
            "task": self.order[attempt].task,
            "rule": self.rule,
            "model": self.order[attempt].ref,
            "failed": [{"model": model, "code": code} for model, code in failed],
            "candidates": [self._candidate(verdict) for verdict in self.verdicts],
        }

    def _candidate(self, verdict: Verdict) -> dict[str, Any]:
        is_finite = verdict.latency_ms < 1e12
        return {
            "model": verdict.key,
            "latency_ms": round(verdict.latency_ms, 1) if is_finite else None,
            "cost": round(verdict.cost, 6) if is_finite else None,
            "quality": round(verdict.quality, 4),
            "measured": verdict.key not in self.unmeasured,
            "score": round(verdict.score, 6),
            "excluded": verdict.excluded,
        }

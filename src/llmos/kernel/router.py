"""Which replica serves a request: a pure function of what was measured, and of chance passed in.

The rule of `route`, in order:

1. **Constraints.** A replica is excluded by the first of these that it breaks: ``memory`` (what
   it would still have to reserve does not fit its device), ``max_latency_ms``, ``min_quality``
   (a quality nobody measured meets none above zero), ``max_cost``, ``weight`` (zero).
2. **Thompson sampling** (Thompson 1933; Chapelle and Li, NIPS 2011): every model draws theta from
   Beta(1 + successes, 1 + failures), its replicas sharing the draw. Counts that fade keep the
   draws wide, so that what once failed is tried again (Raj and Kalyani 2017).
3. **The trade.** The greatest ``theta * quality * P/(P + latency) * B/(B + cost)`` is chosen:
   waiting the class's patience P halves a replica's worth, and so does spending its budget B, see
   `TRADES`. For a quality that nobody measured, ``prior_quality`` stands in.
4. Ties go to the smaller key.

`split` replaces 2 and 3 with a draw by configured weights. Both look at every replica once.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from llmos.errors import NoModelFitsError, OutOfMemoryError
from llmos.types import Priority

PRIOR_QUALITY = 0.5
"""Quality that a replica is taken to have until somebody measures it, if nothing else is said."""

Constraint = Literal["memory", "max_latency_ms", "min_quality", "max_cost", "weight"]


class Trade(NamedTuple):
    """What a class gives for quality: seconds, or compute-seconds, that halve a replica's worth."""

    patience_s: float
    budget_compute_s: float


TRADES: Mapping[Priority, Trade] = {
    Priority.INTERACTIVE: Trade(patience_s=10.0, budget_compute_s=120.0),
    Priority.STANDARD: Trade(patience_s=30.0, budget_compute_s=60.0),
    Priority.BATCH: Trade(patience_s=600.0, budget_compute_s=30.0),
    Priority.BACKGROUND: Trade(patience_s=3600.0, budget_compute_s=15.0),
}
"""Who sits and waits pays for speed with compute; who comes back later does the opposite."""


@dataclass(frozen=True, slots=True)
class Replica:
    """A model on a device, with what evaluation and serving measured of it.

    Replicas of one ``model`` share ``successes`` and ``failures``; ``key`` is a replica's own.
    Speeds are tokens a second as one request sees them; zero means it never gets done.
    """

    key: str
    model: str
    prefill_tokens_per_s: float
    decode_tokens_per_s: float
    quality: float | None = None
    """0..1; None: nobody measured it."""
    queue_s: float = 0.0
    """Work that is ahead of a new request."""
    load_s: float = 0.0
    """Seconds until it is in memory; 0: it is."""
    memory_bytes: int = 0
    """What it would still have to reserve; 0: it is resident."""
    room_bytes: float = math.inf
    """What its device could give it, by eviction too."""
    cost_per_1k_tokens: float = 0.0
    """Compute-seconds, of a prompt's tokens and an answer's alike."""
    successes: float = 0.0
    failures: float = 0.0
    """Fading counts, see `llmos.kernel.outcomes`."""
    weight: float = 1.0
    """Its share of a weighted route; 0: not to be chosen."""
    prior_quality: float = PRIOR_QUALITY
    """What counts where nobody measured its quality."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request needs; a constraint that is None holds always."""

    prompt_tokens: int
    output_tokens: int
    priority: Priority = Priority.STANDARD
    max_latency_ms: float | None = None
    """Until its last token."""
    min_quality: float | None = None
    max_cost: float | None = None
    """Compute-seconds of the whole request."""


class Verdict(NamedTuple):
    """What became of one replica: its expected numbers, and its score or what excluded it."""

    key: str
    latency_ms: float
    cost: float
    quality: float
    score: float
    """0 for an excluded one; in a split, its weight."""
    excluded: Constraint | None


@dataclass(frozen=True, slots=True)
class Choice:
    """The replica chosen, and a verdict for each in the order they were given."""

    replica: Replica
    verdicts: tuple[Verdict, ...]

    def ranked(self) -> list[str]:
        """Return the keys of all that met the constraints: the chosen one, then by score."""
        chosen = self.replica.key
        left = [it for it in self.verdicts if it.excluded is None and it.key != chosen]
        left.sort(key=lambda it: (-it.score, it.key))
        return [chosen, *(it.key for it in left)]


def route(asked: Asked, replicas: Sequence[Replica], rng: random.Random) -> Choice:
    """Choose a replica by what was measured, see the module's rule.

    Raises:
        NoModelFitsError: constraints exclude every replica, or there is none; its ``param`` is the
            constraint that excludes most of them.
        OutOfMemoryError: most of them lack only memory.
    """
    patience_s, budget = TRADES[asked.priority]
    draw = rng.betavariate
    drawn: dict[str, float] = {}
    verdicts: list[Verdict] = []
    best: Replica | None = None
    best_score = -1.0
    for replica in replicas:
        latency_s, cost, quality, excluded = _assess(asked, replica)
        score = 0.0
        if excluded is None:
            model = replica.model
            theta = drawn.get(model)
            if theta is None:
                theta = draw(1.0 + replica.successes, 1.0 + replica.failures)
                drawn[model] = theta
            score = theta * quality
            score *= patience_s / (patience_s + latency_s)
            score *= budget / (budget + cost)
            if (
                best is None
                or score > best_score
                or (score == best_score and replica.key < best.key)
            ):
                best, best_score = replica, score
        verdicts.append(Verdict(replica.key, latency_s * 1e3, cost, quality, score, excluded))
    if best is None:
        raise _nothing_fits(asked, replicas, verdicts)
    return Choice(best, tuple(verdicts))


def split(asked: Asked, replicas: Sequence[Replica], rng: random.Random) -> Choice:
    """Choose among those that meet the constraints with chances in proportion to their weights.

    One number is drawn from ``rng`` whatever the replicas are.

    Raises:
        NoModelFitsError, OutOfMemoryError: as `route`.
    """
    point = rng.random()
    verdicts: list[Verdict] = []
    fitting: list[Replica] = []
    for replica in replicas:
        latency_s, cost, quality, excluded = _assess(asked, replica)
        weight = 0.0 if excluded is not None else replica.weight
        if excluded is None:
            fitting.append(replica)
        verdicts.append(Verdict(replica.key, latency_s * 1e3, cost, quality, weight, excluded))
    if not fitting:
        raise _nothing_fits(asked, replicas, verdicts)
    point *= sum(replica.weight for replica in fitting)
    for replica in fitting:
        point -= replica.weight
        if point < 0.0:
            break
    return Choice(replica, tuple(verdicts))


def assess(asked: Asked, replica: Replica) -> Verdict:
    """Return what a replica would take, with no score, and the constraint that excludes it."""
    latency_s, cost, quality, excluded = _assess(asked, replica)
    return Verdict(replica.key, latency_s * 1e3, cost, quality, 0.0, excluded)


def _assess(asked: Asked, replica: Replica) -> tuple[float, float, float, Constraint | None]:
    """Return expected latency (seconds), cost (compute-seconds), quality, and what excludes it."""
    prompt, output = asked.prompt_tokens, asked.output_tokens
    prefill, decode = replica.prefill_tokens_per_s, replica.decode_tokens_per_s
    latency_s = replica.load_s + replica.queue_s
    if prompt:
        latency_s += prompt / prefill if prefill > 0.0 else math.inf
    if output:
        latency_s += output / decode if decode > 0.0 else math.inf
    cost = (prompt + output) * replica.cost_per_1k_tokens * 1e-3
    measured = replica.quality
    quality = replica.prior_quality if measured is None else measured
    excluded: Constraint | None = None
    if replica.memory_bytes > replica.room_bytes:
        excluded = "memory"
    elif asked.max_latency_ms is not None and latency_s * 1e3 > asked.max_latency_ms:
        excluded = "max_latency_ms"
    elif asked.min_quality is not None and (measured or 0.0) < asked.min_quality:
        excluded = "min_quality"
    elif asked.max_cost is not None and cost > asked.max_cost:
        excluded = "max_cost"
    elif replica.weight <= 0.0:
        excluded = "weight"
    return latency_s, cost, quality, excluded


def _nothing_fits(
    asked: Asked, replicas: Sequence[Replica], verdicts: Sequence[Verdict]
) -> NoModelFitsError | OutOfMemoryError:
    """Return the error that names the constraint excluding most, and what would do instead."""
    if not verdicts:
        return NoModelFitsError("there is no model to choose from", param="model")
    names: list[Constraint] = ["max_latency_ms", "min_quality", "max_cost", "memory", "weight"]
    counts = {name: sum(it.excluded == name for it in verdicts) for name in names}
    name = max(names, key=lambda each: counts[each])
    excluded = [it for it in verdicts if it.excluded == name]
    if name == "memory":
        return OutOfMemoryError("none of the models fits into memory: raise memory_bytes")
    if name == "weight":
        return NoModelFitsError("every model of this route has weight 0", param="model")
    if name == "max_latency_ms":
        asked_for = f"{asked.max_latency_ms:g}"
        nearest = f"the fastest would take about {min(it.latency_ms for it in excluded):.0f} ms"
    elif name == "min_quality":
        asked_for = f"{asked.min_quality:g}"
        pairs = zip(replicas, verdicts, strict=True)
        left_out = [one.quality for one, it in pairs if it.excluded == name]
        measured = [quality for quality in left_out if quality is not None]
        nearest = "none was measured, which `llmos evaluate` does"
        if measured:
            nearest = f"the best that was measured has {max(measured):.3g}"
    else:
        asked_for = f"{asked.max_cost:g}"
        nearest = (
            f"the cheapest would cost about {min(it.cost for it in excluded):.3g} compute-seconds"
        )
    of_all = "every" if len(excluded) == len(verdicts) else f"{len(excluded)} of {len(verdicts)}"
    noun = "model" if of_all == "every" else "models"
    return NoModelFitsError(
        f"{name} of {asked_for} excludes {of_all} {noun}: {nearest}; relax it", param=name
    )

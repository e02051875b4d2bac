"""What a job or a model will take: what its manifest says first, what others like it took after.

Pure functions over measurements: the database and the processes are `measurements`' and `memory`'s.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MODEL = "model"
"""The kind of a measurement that is of a model's load; the others' are job kinds."""
LEAST_RATIO = 1 / 8
MOST_RATIO = 8.0
SHORT = 0.01


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one ended attempt of a job, or one load of a model, took."""

    kind: str
    """A job kind, or ``MODEL``."""
    subject: str
    """What of that kind: those of one subject share their history."""
    declared_bytes: int
    """What the job kind, or the manifest, says that it takes."""
    predicted_bytes: int
    """What was reserved for it before it began."""
    measured_bytes: int
    """The most it was seen to take."""
    predicted_s: float | None
    measured_s: float | None
    """None: its time says nothing, as it did not run from start to end in one go."""
    at: float
    """Unix seconds."""
    owner: str


@dataclass(frozen=True, slots=True)
class Caution:
    """How what was measured is turned into a prediction, see `predict_bytes`."""

    quantile: float
    margin: float
    num_rows: int
    """So many measurements are trusted in full where they say less than was declared."""


OF_JOBS = Caution(quantile=0.9, margin=0.05, num_rows=5)
"""Peaks between two samples are missed, and two jobs are never quite the same."""
OF_MODELS = Caution(quantile=0.9, margin=0.0, num_rows=1)
"""The engine counts a model's bytes, and the same digest has the same."""


def predict_bytes(declared_bytes: int, history: Sequence[Measurement], caution: Caution) -> int:
    """Return what to reserve for the next job or model of one kind and subject.

    With the ratios measured / declared of the ``n`` measurements in ``history``, their nearest-rank
    quantile ``Q`` and the clamp to [1/8, 8]::

        r = clamp(Q(ratios) * (1 + margin))
        predicted = declared * r                          where r >= 1
        predicted = declared * (1 - w * (1 - r))          where r < 1, w = min(n / num_rows, 1)

    So what turned out larger counts at once, and what turned out smaller is believed bit by bit:
    too much reserved costs room, too little a stopped job. It is scaled by what was declared, so
    jobs of one subject may differ in size. A high quantile of recent peaks and a margin is how
    Autopilot (Rzadca et al., EuroSys 2020, section 3.2) sets limits.

    Nothing declared (0) stays nothing.
    """
    known = (one for one in history if one.declared_bytes > 0 and one.measured_bytes > 0)
    ratios = sorted(one.measured_bytes / one.declared_bytes for one in known)
    if not ratios or declared_bytes <= 0:
        return declared_bytes
    high = ratios[max(math.ceil(caution.quantile * len(ratios)), 1) - 1]
    ratio = min(max(high * (1.0 + caution.margin), LEAST_RATIO), MOST_RATIO)
    if ratio < 1.0:
        ratio = 1.0 - min(len(ratios) / caution.num_rows, 1.0) * (1.0 - ratio)
    return round(declared_bytes * ratio)


def predict_s(history: Iterable[Measurement]) -> float | None:
    """Return the seconds the next one will take: the median of those measured; None of none."""
    times = [one.measured_s for one in history if one.measured_s is not None]
    return statistics.median(times) if times else None


def relative_error(predicted: float, measured: float) -> float | None:
    """Return how far a prediction was off, as a share of the truth: 0.5 is half too much, -0.5 half
    of what it took. None where nothing was predicted or measured."""
    return (predicted - measured) / measured if predicted > 0 and measured > 0 else None


@dataclass(frozen=True, slots=True)
class Quality:
    """How good the predictions of one kind were. Errors as `relative_error` has them."""

    kind: str
    num_rows: int
    median_error: float | None
    """Of memory, whichever sign."""
    worst_error: float | None
    """Of memory: the largest, with its sign."""
    num_short: int
    """Those that took over 1% more than was reserved."""
    median_error_s: float | None
    """Of time, whichever sign."""


def qualities(measurements: Iterable[Measurement]) -> list[Quality]:
    """Return how good predictions were, by kind."""
    by_kind: dict[str, list[Measurement]] = defaultdict(list)
    for one in measurements:
        by_kind[one.kind].append(one)
    return [_quality(kind, rows) for kind, rows in sorted(by_kind.items())]


def _quality(kind: str, rows: Sequence[Measurement]) -> Quality:
    errors = _errors((one.predicted_bytes, one.measured_bytes) for one in rows)
    errors_s = _errors((one.predicted_s, one.measured_s) for one in rows)
    return Quality(
        kind,
        len(rows),
        statistics.median(map(abs, errors)) if errors else None,
        max(errors, key=abs) if errors else None,
        sum(error < -SHORT for error in errors),
        statistics.median(map(abs, errors_s)) if errors_s else None,
    )


def _errors(pairs: Iterable[tuple[float | None, float | None]]) -> list[float]:
    found = (relative_error(predicted or 0.0, measured or 0.0) for predicted, measured in pairs)
    return [error for error in found if error is not None]

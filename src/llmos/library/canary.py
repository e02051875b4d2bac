"""Whether a candidate that gets a part of the requests does worse than what it is to replace.

Pure: counts in, a verdict out. Errors are compared by the two-proportion z-test (pooled variance,
one-sided; Fleiss, Statistical Methods for Rates and Proportions, ch. 2), latencies by the ratio of
their 95th percentiles.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

from llmos.errors import InvalidRequestError

WORSE_Z = NormalDist().inv_cdf(0.99)
"""One false alarm in a hundred looks at two that fail equally often."""


@dataclass(frozen=True, slots=True)
class Rules:
    """When a candidate is taken back.

    Attributes:
        min_requests: fewer say nothing; of latencies likewise.
        max_error_rate: a larger one, from 0 to 1, that is also significantly larger than the other
            version's.
        max_latency_ratio: a larger 95th percentile of latency, as a multiple of the other's.
    """

    min_requests: int = 50
    max_error_rate: float = 0.02
    max_latency_ratio: float = 1.5

    def __post_init__(self) -> None:
        for name, is_good, what in (
            ("min_requests", self.min_requests >= 1, "at least 1"),
            ("max_error_rate", 0.0 <= self.max_error_rate < 1.0, "from 0 to below 1"),
            ("max_latency_ratio", 1.0 <= self.max_latency_ratio < math.inf, "at least 1"),
        ):
            if not is_good:
                value = getattr(self, name)
                raise InvalidRequestError(f"{name} must be {what}, not {value}.", param=name)


@dataclass(frozen=True, slots=True)
class Sample:
    """What was seen of one version since the candidate came.

    Attributes:
        timed: answers whose latency counts.
        latency_p95_s: theirs; None of none.
    """

    requests: int
    failures: int
    timed: int
    latency_p95_s: float | None

    @property
    def error_rate(self) -> float:
        return self.failures / self.requests if self.requests else 0.0


def why_worse(candidate: Sample, stable: Sample, rules: Rules) -> str:
    """Return why the candidate is to be taken back; empty: it is not, or it is too early to say."""
    if candidate.requests < rules.min_requests:
        return ""
    if candidate.error_rate > rules.max_error_rate and _is_significant(candidate, stable):
        return (
            f"{candidate.error_rate:.1%} of {candidate.requests} requests failed, of the other "
            f"version's {stable.error_rate:.1%} of {stable.requests}"
        )
    if min(candidate.timed, stable.timed) < rules.min_requests:
        return ""
    mine_s, other_s = candidate.latency_p95_s, stable.latency_p95_s
    if mine_s is not None and other_s and mine_s > rules.max_latency_ratio * other_s:
        return f"95% of its answers took up to {mine_s:.2f} s, the other version's {other_s:.2f} s"
    return ""


def _is_significant(candidate: Sample, stable: Sample) -> bool:
    """Whether a candidate fails more often than by chance; against nothing, any failing counts."""
    if not stable.requests:
        return True
    pooled = (candidate.failures + stable.failures) / (candidate.requests + stable.requests)
    variance = pooled * (1 - pooled) * (1 / candidate.requests + 1 / stable.requests)
    difference = candidate.error_rate - stable.error_rate
    return difference > 0 and (variance == 0 or difference / math.sqrt(variance) > WORSE_Z)

"""What an owner may use: limits, and whether one more request, job or byte is within them.

Pure: the clock is an argument and nothing is kept here. Who used what, `accounts` knows.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from llmos.errors import InvalidRequestError, OverloadedError, QuotaExceededError, RateLimitError

DAY_S = 86_400
EVERYONE = "*"
"""Whose limits hold for every owner that has none of its own."""
BURST_S = 1.0
"""What this many seconds bring may come at once, and one request at least."""
LATER_S = 30.0
"""When to ask again for what ends at no known time: a job, a request of one's own."""
_COUNTS = ("concurrency", "tokens_per_day", "stored_bytes", "queue_depth")
_MOST = 2**53
"""Larger numbers do not survive JSON everywhere."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one owner may use at most; None: no limit.

    Attributes:
        requests_per_s: requests to models that begin, on average; see ``BURST_S``.
        concurrency: such requests under way at once.
        tokens_per_day: tokens read and written by models in a UTC day.
        compute_s_per_day: seconds that models and jobs computed in a UTC day.
        stored_bytes: in versions and uploads, each content counted once.
        queue_depth: jobs that wait or are queued.

    Raises:
        InvalidRequestError: a limit is no number, negative or beyond any sense; names it.
    """

    requests_per_s: float | None = None
    concurrency: int | None = None
    tokens_per_day: int | None = None
    compute_s_per_day: float | None = None
    stored_bytes: int | None = None
    queue_depth: int | None = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None:
                _check(field.name, value)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Limits:
        """Return limits from plain values by name; names that are none are left out."""
        names = {field.name for field in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in names})


UNLIMITED = Limits()


def _check(name: str, value: Any) -> None:
    kinds, kind = ((int,), "a whole number") if name in _COUNTS else ((int, float), "a number")
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise InvalidRequestError(f"{name} must be {kind}, or null for no limit", param=name)
    least = 1 / DAY_S if name == "requests_per_s" else 0
    if not least <= value <= _MOST:  # not a number is in no range
        advice = "from one a day (1/86400)" if least else "from 0"
        raise InvalidRequestError(
            f"{name} must be {advice} to {_MOST}, not {value!r:.40}; null means no limit",
            param=name,
        )


# -- how things stand ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Bucket:
    """A token bucket: how many requests could begin at once, as of a time (seconds)."""

    level: float = math.inf
    at: float = 0.0

    def level_at(self, rate: float, now: float) -> float:
        """Return the level at ``now``; a clock that went back adds nothing."""
        return min(burst_of(rate), self.level + max(now - self.at, 0.0) * rate)

    def take(self, rate: float, now: float) -> Bucket:
        """Return the bucket after one request began."""
        return Bucket(self.level_at(rate, now) - 1.0, now)


def burst_of(rate: float) -> float:
    """Return how many requests a full bucket lets begin at once."""
    return max(rate * BURST_S, 1.0)


@dataclass(frozen=True, slots=True)
class Used:
    """What an owner uses now, and used in this UTC day."""

    bucket: Bucket = Bucket()
    num_live: int = 0
    """Requests under way."""
    tokens: int = 0
    compute_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """How things stand with one limit, before what is asked for is counted.

    Attributes:
        name: of the limit, a field of `Limits`.
        remaining: what is left of it, at least 0.
        reset_s: seconds until all of it is there again; infinity: that is not a matter of time.
        retry_after_s: seconds after which to ask again; None: what is asked for is granted.
    """

    name: str
    limit: float
    remaining: float
    reset_s: float
    retry_after_s: float | None = None

    @property
    def is_granted(self) -> bool:
        return self.retry_after_s is None


def check(limits: Limits, used: Used, now: float) -> Verdict | None:
    """Return the first limit in the way of one more request at ``now`` (Unix seconds), if any."""
    verdicts = (
        at_once("concurrency", limits.concurrency, used.num_live),
        requests(limits, used.bucket, now),
        tokens(limits, used.tokens, now),
        compute(limits, used.compute_s, now),
    )
    return next((one for one in verdicts if one is not None and not one.is_granted), None)


def requests(limits: Limits, bucket: Bucket, now: float) -> Verdict | None:
    """Return how things stand with the rate of requests; None: there is no such limit."""
    if (rate := limits.requests_per_s) is None:
        return None
    full, level = burst_of(rate), bucket.level_at(rate, now)
    retry_after_s = None if level >= 1.0 else (1.0 - level) / rate
    remaining = max(math.floor(level), 0)
    return Verdict("requests_per_s", full, remaining, (full - level) / rate, retry_after_s)


def tokens(limits: Limits, num_used: int, now: float, num_asked: int = 1) -> Verdict | None:
    """Return how things stand with the day's tokens, for ``num_asked`` more of them."""
    return _of_the_day("tokens_per_day", limits.tokens_per_day, num_used, num_asked, now)


def compute(limits: Limits, used_s: float, now: float) -> Verdict | None:
    """Return how things stand with the day's compute seconds; what is begun is not cut short."""
    return _of_the_day("compute_s_per_day", limits.compute_s_per_day, used_s, 0, now)


def _of_the_day(
    name: str, limit: float | None, used: float, asked: float, now: float
) -> Verdict | None:
    if limit is None:
        return None
    left_s = day_ends_at(now) - now
    is_granted = used < limit and used + asked <= limit
    remaining = max(limit - used, 0)
    return Verdict(name, limit, remaining, left_s, None if is_granted else left_s)


def at_once(name: str, limit: int | None, used: int, asked: int = 1) -> Verdict | None:
    """Return how things stand with a limit that no clock resets, for ``asked`` more."""
    if limit is None:
        return None
    retry_after_s = None if used + asked <= limit else 1.0 if name == "concurrency" else LATER_S
    return Verdict(name, limit, max(limit - used, 0), math.inf, retry_after_s)


# -- days ------------------------------------------------------------------------------------------


def day_of(now: float) -> str:
    """Return the UTC day of a Unix time: ``2026-11-22``."""
    return datetime.fromtimestamp(now, UTC).date().isoformat()


def day_ends_at(now: float) -> float:
    """Return when the UTC day of a Unix time ends."""
    return (now // DAY_S + 1) * DAY_S


# -- refusals --------------------------------------------------------------------------------------

_REASONS = {
    "requests_per_s": "{owner} may send {limit:g} requests at once, and no more have come due",
    "concurrency": "{owner} has {limit:g} requests under way, as many as it may",
    "tokens_per_day": "{owner} has had its {limit:.0f} tokens of this day (UTC)",
    "compute_s_per_day": "{owner} has had its {limit:g} compute seconds of this day (UTC)",
    "stored_bytes": "{owner} may store {limit:.0f} bytes, and this would be more",
    "queue_depth": "{owner} has {limit:g} jobs in the queue, as many as it may",
}
_ADVICE = {
    "stored_bytes": "remove something, or ask an admin for more stored_bytes",
    "queue_depth": "wait for some to end, or cancel some",
}


def refusal(owner: str, verdict: Verdict) -> OverloadedError:
    """Return the error that a verdict which grants nothing means."""
    retry_after_s = max(1, math.ceil(verdict.retry_after_s or 0.0))
    reason = _REASONS[verdict.name].format(owner=owner, limit=verdict.limit)
    if verdict.name == "tokens_per_day" and verdict.remaining:
        reason += f" but {verdict.remaining:.0f}, too few for this prompt"
    is_rate = verdict.name in ("requests_per_s", "concurrency")
    advice = f"try again in {retry_after_s} s"
    if not is_rate:
        advice = _ADVICE.get(verdict.name, f"{advice}, or ask an admin for more {verdict.name}")
    error = RateLimitError if is_rate else QuotaExceededError
    return error(f"{reason}: {advice}.", retry_after_s=retry_after_s)

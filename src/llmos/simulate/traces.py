"""Requests for a simulated cluster: a recorded trace scaled up, and who asks which model for them.

A trace says when requests came and how long they and their answers were. What it does not say is
drawn with a seed: the model by popularity, the tenant and the class by their shares.
"""

from __future__ import annotations

import csv
import itertools
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from llmos.errors import DataError
from llmos.simulate.clock import picoseconds
from llmos.types import Priority

AZURE_COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
MAX_TRACE_ROWS = 10_000_000
MAX_TOKENS = 1_000_000
SYNTHETIC_ARRIVALS = 4000
SYNTHETIC_SWING = 0.5
"""How far the synthetic trace's rate swings around its mean."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request of a trace: seconds since the one before it, tokens read and written."""

    gap_s: float
    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests as they came."""

    name: str
    arrivals: tuple[Arrival, ...]

    @property
    def rate_per_s(self) -> float:
        """Mean requests a second."""
        return len(self.arrivals) / math.fsum(one.gap_s for one in self.arrivals)


@dataclass(frozen=True, slots=True)
class Request:
    """One request of a simulation; it comes at ``at_ps`` picoseconds."""

    number: int
    at_ps: int
    model: str
    tenant: str
    priority: Priority
    prompt_tokens: int
    output_tokens: int


def read_trace(path: Path) -> Trace:
    """Return a trace in the form of the Azure LLM inference traces of 2023.

    Raises:
        DataError: it is not one; the message names file and line.
    """
    with path.open(encoding="utf-8", newline="") as file:
        try:
            rows = list(itertools.islice(csv.reader(file), MAX_TRACE_ROWS + 2))
        except (UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{path} is not a CSV file: {error}.") from error
    if not rows or tuple(rows[0]) != AZURE_COLUMNS:
        raise DataError(f"{path}, line 1: the columns must be {','.join(AZURE_COLUMNS)}.")
    if len(rows) < 3:
        raise DataError(f"{path} has {len(rows) - 1} requests: a trace has two at least.")
    if len(rows) > MAX_TRACE_ROWS + 1:
        raise DataError(f"{path} has more than {MAX_TRACE_ROWS:,} requests.")
    found = [_read_row(path, line, row) for line, row in enumerate(rows[1:], start=2)]
    times = [at for at, _, _ in found]
    if (line := next((n for n, (a, b) in enumerate(itertools.pairwise(times)) if b < a), -1)) >= 0:
        raise DataError(f"{path}, line {line + 3}: it came before the request above it.")
    span_s = times[-1] - times[0]
    if span_s <= 0.0:
        raise DataError(f"{path}: all requests came at the same time.")
    gaps = [span_s / (len(times) - 1), *(b - a for a, b in itertools.pairwise(times))]
    arrivals = (Arrival(gap, *row[1:]) for gap, row in zip(gaps, found, strict=True))
    return Trace(path.stem, tuple(arrivals))


def _read_row(path: Path, line: int, row: Sequence[str]) -> tuple[float, int, int]:
    try:
        at, prompt_tokens, output_tokens = row
        found = datetime.fromisoformat(at).timestamp(), int(prompt_tokens), int(output_tokens)
    except ValueError as error:
        raise DataError(f"{path}, line {line}: {error}.") from error
    if not (1 <= found[1] <= MAX_TOKENS and 1 <= found[2] <= MAX_TOKENS):
        raise DataError(f"{path}, line {line}: tokens must be from 1 to {MAX_TOKENS:,}.")
    return found


def synthetic_trace(seed: int = 0) -> Trace:
    """Return a trace made up for want of a recorded one: about four requests a second for a quarter
    of an hour, in waves; some hundred tokens in and some dozen out, with long tails."""
    rng = random.Random(f"trace {seed}")
    arrivals, at = [], 0.0
    for _ in range(SYNTHETIC_ARRIVALS):
        rate = 4.0 * (1.0 + SYNTHETIC_SWING * math.sin(at / 30.0))
        gap_s = rng.expovariate(rate)
        at += gap_s
        prompt_tokens = min(4000, 1 + int(rng.lognormvariate(6.0, 0.9)))
        output_tokens = min(1000, 1 + int(rng.lognormvariate(4.0, 0.8)))
        arrivals.append(Arrival(gap_s, prompt_tokens, output_tokens))
    return Trace("synthetic", tuple(arrivals))


@dataclass(frozen=True, slots=True)
class Mix:
    """Who asks for what.

    A model's popularity is Zipf's. Beside that, every ``burst_s`` seconds another model, any of
    them, gets ``burst_share`` of all requests: what a launch, or one customer's campaign, does.
    """

    num_models: int = 24
    zipf: float = 0.9
    burst_s: float = 30.0
    burst_share: float = 0.3
    num_tenants: int = 8
    tenant_zipf: float = 1.0
    classes: tuple[float, float, float, float] = (0.4, 0.2, 0.3, 0.1)
    """Shares of the priority classes, the best first."""

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models, the most popular first."""
        return tuple(f"model-{number:02d}" for number in range(self.num_models))

    @property
    def tenants(self) -> tuple[str, ...]:
        """Names of the tenants, the one that asks most first."""
        return tuple(f"tenant-{number}" for number in range(self.num_tenants))

    def popularity(self) -> dict[str, float]:
        """Return each model's share of the requests over a long time, bursts included."""
        weights = zipf_shares(self.num_models, self.zipf)
        even = self.burst_share / self.num_models
        return {
            model: (1.0 - self.burst_share) * weight + even
            for model, weight in zip(self.models, weights, strict=True)
        }


def zipf_shares(count: int, exponent: float) -> list[float]:
    """Return ``count`` shares that fall as ``1 / rank ** exponent`` and add up to 1."""
    weights = [rank**-exponent for rank in range(1, count + 1)]
    total = math.fsum(weights)
    return [weight / total for weight in weights]


def requests(
    trace: Trace, mix: Mix, num_requests: int, rate_per_s: float, seed: int = 0
) -> Iterator[Request]:
    """Yield so many requests at a mean rate, in the order in which they come.

    However many there are, they are the trace gone through once, from a place that the seed picks:
    a Poisson process whose rate follows the trace's (and is ``rate_per_s`` on average), with the
    lengths of the requests that it passes. So a small cluster sees the same waves as a large one.
    """
    rng = random.Random(f"requests {seed}")
    models, tenants, classes = mix.models, mix.tenants, tuple(Priority)
    by_model = list(itertools.accumulate(zipf_shares(mix.num_models, mix.zipf)))
    by_tenant = list(itertools.accumulate(zipf_shares(mix.num_tenants, mix.tenant_zipf)))
    by_class = list(itertools.accumulate(mix.classes))
    burst, hot = -1, ""
    for number, (at_s, one) in enumerate(_passed(trace, num_requests, rate_per_s, rng)):
        if (now := int(at_s // mix.burst_s)) != burst:
            burst, hot = now, random.Random(f"burst {seed} {now}").choice(models)
        drawn = rng.choices(models, cum_weights=by_model)[0]
        yield Request(
            number,
            picoseconds(at_s),
            hot if rng.random() < mix.burst_share else drawn,
            rng.choices(tenants, cum_weights=by_tenant)[0],
            rng.choices(classes, cum_weights=by_class)[0],
            one.prompt_tokens,
            one.output_tokens,
        )


def _passed(
    trace: Trace, num_requests: int, rate_per_s: float, rng: random.Random
) -> Iterator[tuple[float, Arrival]]:
    """Yield times, and the requests of a trace that are passed then on one way through it."""
    arrivals, stride = trace.arrivals, len(trace.arrivals) / num_requests
    scale = trace.rate_per_s * num_requests / (rate_per_s * len(arrivals))
    index = rng.randrange(len(arrivals))
    at_s, place = 0.0, 0.0  # the place is between 0 and 1, within the gap before the request
    for _ in range(num_requests):
        left = rng.expovariate(1.0) * stride
        while place + left >= 1.0:
            at_s += (1.0 - place) * arrivals[index].gap_s * scale
            left -= 1.0 - place
            index, place = (index + 1) % len(arrivals), 0.0
        at_s += left * arrivals[index].gap_s * scale
        place += left
        yield at_s, arrivals[index]

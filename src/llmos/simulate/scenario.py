"""What is simulated: requests, devices, and what counts as good.

The standard scenario is on purpose a plain one. Devices are the machine whose steps were measured,
with room for four of twenty-four models, so that not all fit everywhere. Six requests in ten are
for people who wait, four are batch work that can give way. Now and then one model gets 30% of all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from llmos.engines.native.batcher import LATENCY_CLASSES
from llmos.errors import InvalidRequestError
from llmos.simulate.clock import seconds
from llmos.simulate.hardware import Hardware
from llmos.simulate.traces import Mix, Request, Trace, requests
from llmos.types import Priority

NOMINAL_ROWS = 16
"""Rows that share a step, for what a device can do."""
MAX_NODES = 100_000
MAX_REQUESTS = 100_000_000
MAX_LOAD = 100.0
MAX_RATE_PER_S = 1e6


def has_targets(priority: Priority) -> bool:
    """Whether requests of a class have targets for their first token and the others."""
    return priority < LATENCY_CLASSES


@dataclass(frozen=True, slots=True)
class Targets:
    """When an answer is good.

    Of the two upper classes: its first token comes within ``ttft_s`` and ``ttft_factor`` times what
    its prompt takes on a device of its own, and the others every ``itl_s`` on average. Of the
    others: it is whole within ``answer_s``.
    """

    ttft_s: float = 2.0
    ttft_factor: float = 2.0
    itl_s: float = 0.2
    answer_s: float = 300.0

    def are_met(
        self, request: Request, alone_s: float, ttft_s: float, itl_s: float, total_s: float
    ) -> bool:
        """Whether an answer with these times is good.

        Args:
            alone_s: what its prompt takes on a device of its own.
        """
        if not has_targets(request.priority):
            return total_s <= self.answer_s
        return ttft_s <= self.ttft_s + self.ttft_factor * alone_s and itl_s <= self.itl_s


@dataclass(frozen=True, slots=True)
class Scenario:
    """One simulation, but for the policy.

    Args:
        load: requests a second as a share of `nominal_rate_per_s`; ``rate_per_s`` overrides it.
    """

    trace: Trace
    num_nodes: int = 1000
    num_requests: int = 100_000
    load: float = 0.8
    rate_per_s: float | None = None
    seed: int = 0
    mix: Mix = field(default_factory=Mix)
    hardware: Hardware = field(default_factory=Hardware)
    targets: Targets = field(default_factory=Targets)

    def __post_init__(self) -> None:
        """Raises InvalidRequestError: no cluster could be so."""
        _require(1 <= self.num_nodes <= MAX_NODES, "nodes", f"from 1 to {MAX_NODES:,}")
        _require(1 <= self.num_requests <= MAX_REQUESTS, "requests", f"from 1 to {MAX_REQUESTS:,}")
        _require(0.0 < self.load <= MAX_LOAD, "load", f"above 0 and at most {MAX_LOAD:g}")
        rate_is_so = self.rate_per_s is None or 0.0 < self.rate_per_s <= MAX_RATE_PER_S
        _require(rate_is_so, "rate", f"above 0 and at most {MAX_RATE_PER_S:,.0f} requests a second")
        _require(
            1 <= self.mix.num_models <= self.num_nodes,
            "models",
            f"from 1 to {self.num_nodes}, as a static partition needs a node for each",
        )

    @property
    def offered_per_s(self) -> float:
        """Requests that come a second, on average."""
        if self.rate_per_s is not None:
            return self.rate_per_s
        return self.load * nominal_rate_per_s(self.trace, self.hardware, self.num_nodes)

    def requests(self) -> Iterator[Request]:
        """Yield the requests in the order in which they come."""
        return requests(self.trace, self.mix, self.num_requests, self.offered_per_s, self.seed)


def nominal_rate_per_s(trace: Trace, hardware: Hardware, num_nodes: int) -> float:
    """Return how many requests of a trace so many devices can compute a second, if each step held
    `NOMINAL_ROWS` rows. What can be had is less, as bursts and targets leave gaps."""
    times = hardware.times
    total_ps = 0
    for one in trace.arrivals:
        total_ps += times.step_ps + times.prefill(0, one.prompt_tokens)
        total_ps += times.decode(one.prompt_tokens + 1, one.output_tokens - 1)
        total_ps += one.output_tokens * times.step_ps // NOMINAL_ROWS
    return num_nodes * len(trace.arrivals) / seconds(total_ps)


def _require(is_so: bool, name: str, must_be: str) -> None:
    if not is_so:
        raise InvalidRequestError(f"{name} must be {must_be}.", param=name)

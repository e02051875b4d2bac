"""What came of a simulation: counts while it runs, then numbers that people compare."""

from __future__ import annotations

import hashlib
import json
import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from llmos.simulate.clock import seconds
from llmos.simulate.scenario import Scenario, has_targets
from llmos.simulate.traces import Request
from llmos.types import Priority

SHARES = (50.0, 95.0, 99.0)
"""Percentiles that are reported."""


@dataclass(slots=True)
class ClassTally:
    """Answers of one class. Times are seconds."""

    num_requests: int = 0
    num_served: int = 0
    num_good: int = 0
    ttft_s: array[float] = field(default_factory=lambda: array("d"))
    itl_s: array[float] = field(default_factory=lambda: array("d"))
    """Of each answer of more than one token: the mean time from one to the next."""


@dataclass(slots=True)
class TenantTally:
    """Requests of one tenant."""

    num_requests: int = 0
    num_good: int = 0


class Tally:
    """Counts requests as they come and end."""

    def __init__(self, scenario: Scenario) -> None:
        self._targets = scenario.targets
        self._times = scenario.hardware.times
        self.classes = {priority: ClassTally() for priority in Priority}
        self.tenants: dict[str, TenantTally] = {}
        self.num_tokens = 0
        """Of answers that were served, their prompts included."""
        self.last_arrival_ps = 0

    @property
    def num_requests(self) -> int:
        return sum(one.num_requests for one in self.classes.values())

    @property
    def num_served(self) -> int:
        return sum(one.num_served for one in self.classes.values())

    @property
    def num_good(self) -> int:
        return sum(one.num_good for one in self.classes.values())

    @property
    def quick(self) -> list[ClassTally]:
        """Those of the classes that have targets for the first token and the others."""
        return [tally for priority, tally in self.classes.items() if has_targets(priority)]

    def came(self, request: Request) -> None:
        """Note that a request came."""
        self.classes[request.priority].num_requests += 1
        if request.tenant not in self.tenants:
            self.tenants[request.tenant] = TenantTally()
        self.tenants[request.tenant].num_requests += 1
        self.last_arrival_ps = request.at_ps

    def ended(self, request: Request, first_ps: int, last_ps: int) -> None:
        """Note that a request's first and last tokens came at these times."""
        tally = self.classes[request.priority]
        ttft_s, total_s = seconds(first_ps - request.at_ps), seconds(last_ps - request.at_ps)
        itl_s = (total_s - ttft_s) / max(request.output_tokens - 1, 1)
        tally.num_served += 1
        tally.ttft_s.append(ttft_s)
        if request.output_tokens > 1:
            tally.itl_s.append(itl_s)
        self.num_tokens += request.prompt_tokens + request.output_tokens
        alone_s = seconds(self._times.prefill(0, request.prompt_tokens))
        if self._targets.are_met(request, alone_s, ttft_s, itl_s, total_s):
            tally.num_good += 1
            self.tenants[request.tenant].num_good += 1


@dataclass(frozen=True, slots=True)
class Work:
    """What the devices did, all together."""

    simulated_s: float
    busy_s: float
    arriving_busy_s: float
    """Of it, while requests still came."""
    loads: int
    evictions: int
    preemptions: int
    rounds: int
    plans: int
    """Calls of the batcher's `plan`."""
    decisions: int
    """Calls of `decide`."""
    routes: int
    """Calls of `route`."""


Numbers = Mapping[str, float]
"""Percentiles by name, ``p50`` and so on; empty where there were none."""


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome of one policy in one scenario. Shares are from 0 to 1, times in seconds."""

    policy: str
    trace: str
    nodes: int
    rate_per_s: float
    seed: int
    requests: int
    served: int
    good: int
    """Answers in time, of all classes."""
    goodput_per_s: float
    """Interactive and standard answers that met the targets of TTFT and ITL."""
    good_share: float
    """Of the interactive and standard requests."""
    all_good_per_s: float
    """Goodput, and with it the batch and background answers that were whole in time."""
    all_good_share: float
    ttft_s: Numbers
    """Of interactive and standard requests, as ``itl_s``."""
    itl_s: Numbers
    good_by_class: Numbers
    utilisation: float
    """Share of the time that devices computed, while requests came."""
    fairness: float
    """Jain's index of the tenants' shares of good answers; 1: all alike, however bad."""
    worst_tenant: float
    """The lowest of those shares."""
    loads: int
    evictions: int
    preemptions: int
    energy_kwh: float
    joules_per_1k_tokens: float
    simulated_s: float

    @property
    def unserved(self) -> int:
        """Requests that had no whole answer when the simulation ended."""
        return self.requests - self.served

    def as_json(self) -> dict[str, Any]:
        """Return what is in the report, and a digest of it: equal where all of it is."""
        found = asdict(self) | {"unserved": self.unserved}
        text = json.dumps(found, sort_keys=True)
        return found | {"digest": hashlib.sha256(text.encode()).hexdigest()[:16]}


def make_report(scenario: Scenario, policy: str, tally: Tally, work: Work) -> Report:
    """Return the numbers of a simulation that has ended."""
    arriving_s = max(seconds(tally.last_arrival_ps), 1e-9)
    hardware, num_nodes = scenario.hardware, scenario.num_nodes
    joules = hardware.idle_watts * num_nodes * work.simulated_s
    joules += (hardware.busy_watts - hardware.idle_watts) * work.busy_s
    num_quick_good = sum(one.num_good for one in tally.quick)
    num_quick = sum(one.num_requests for one in tally.quick)
    shares = [one.num_good / one.num_requests for one in tally.tenants.values()]
    return Report(
        policy=policy,
        trace=scenario.trace.name,
        nodes=num_nodes,
        rate_per_s=scenario.offered_per_s,
        seed=scenario.seed,
        requests=tally.num_requests,
        served=tally.num_served,
        good=tally.num_good,
        goodput_per_s=num_quick_good / arriving_s,
        good_share=num_quick_good / max(num_quick, 1),
        all_good_per_s=tally.num_good / arriving_s,
        all_good_share=tally.num_good / max(tally.num_requests, 1),
        ttft_s=_named([value for one in tally.quick for value in one.ttft_s]),
        itl_s=_named([value for one in tally.quick for value in one.itl_s]),
        good_by_class={
            priority.name.lower(): one.num_good / one.num_requests
            for priority, one in tally.classes.items()
            if one.num_requests
        },
        utilisation=work.arriving_busy_s / (num_nodes * arriving_s),
        fairness=jain(shares),
        worst_tenant=min(shares, default=0.0),
        loads=work.loads,
        evictions=work.evictions,
        preemptions=work.preemptions,
        energy_kwh=joules / 3.6e6,
        joules_per_1k_tokens=1000.0 * joules / max(tally.num_tokens, 1),
        simulated_s=work.simulated_s,
    )


def jain(values: Sequence[float]) -> float:
    """Return Jain's index of fairness (Jain, Chiu and Hawe 1984): ``(Σx)² / (n Σx²)``; 1 where all
    values are equal, 1/n where one has everything. Of nothing, or of zeros, 1."""
    squares = math.fsum(value * value for value in values)
    return math.fsum(values) ** 2 / (len(values) * squares) if squares else 1.0


def percentiles(values: Sequence[float], shares: Sequence[float] = SHARES) -> list[float]:
    """Return the values below which these percentages lie, with linear interpolation between the
    two nearest (Hyndman and Fan's type 7, as numpy has it); of none, none."""
    if not values:
        return []
    ranked = sorted(values)
    found = []
    for share in shares:
        position = share / 100.0 * (len(ranked) - 1)
        below = math.floor(position)
        above = min(below + 1, len(ranked) - 1)
        found.append(ranked[below] + (position - below) * (ranked[above] - ranked[below]))
    return found


def _named(values: Sequence[float]) -> dict[str, float]:
    names = (f"p{share:g}" for share in SHARES)
    return dict(zip(names, percentiles(values), strict=False))

"""The cluster as it runs: requests come, a policy places them, devices compute, time leaps."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from llmos.simulate.clock import Events, picoseconds, seconds
from llmos.simulate.device import AFTER_ALL, Device, Keeper
from llmos.simulate.engine import NO_END
from llmos.simulate.report import Report, Tally, Work, make_report
from llmos.simulate.scenario import Scenario
from llmos.simulate.sequences import Sequence
from llmos.simulate.traces import Request

PROGRESS_EVERY = 500
"""Requests between two reports of progress."""

OnProgress = Callable[[int, int], None]
"""Called with how many requests came so far, and how many there are."""


class Policy(Protocol):
    """Where requests go, and what the devices hold."""

    @property
    def tick_s(self) -> float:
        """Seconds from one call of `tick` to the next; 0: it is never called."""
        ...

    @property
    def keeper(self) -> Keeper:
        """Who says what the devices hold."""
        ...

    @property
    def num_routes(self) -> int:
        """Calls of `route` so far."""
        ...

    @property
    def num_decisions(self) -> int:
        """Calls of `decide` so far."""
        ...

    def start(self, devices: list[Device]) -> None:
        """Take the devices, which are empty, and put models there."""
        ...

    def arrive(self, request: Request, now_ps: int) -> None:
        """Send a request to a device, now or later."""
        ...

    def ended(self, device: Device, sequence: Sequence, now_ps: int) -> None:
        """Note that a request ended."""
        ...

    def tick(self, now_ps: int) -> None:
        """Look at the cluster now and then."""
        ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """A report, and what it took to make it."""

    report: Report
    work: Work
    cpu_s: float


def simulate(
    scenario: Scenario,
    make_policy: Callable[[Scenario, Events], Policy],
    name: str,
    *,
    max_run: int = NO_END,
    on_progress: OnProgress = lambda done, total: None,
) -> Outcome:
    """Run a scenario under a policy to its end.

    The end is when all requests have, or when those that have not could not be good any more.

    Args:
        name: of the policy, for the report.
        max_run: steps taken at once at most; 1 plans each by itself, which changes no result.
    """
    return _Cluster(scenario, make_policy, max_run).run(name, on_progress)


class _Cluster:
    def __init__(
        self,
        scenario: Scenario,
        make_policy: Callable[[Scenario, Events], Policy],
        max_run: int,
    ) -> None:
        self._scenario = scenario
        self._events = Events()
        self._policy = make_policy(scenario, self._events)
        self._tally = Tally(scenario)
        self._num_open = 0
        self._arriving_busy_ps = 0
        self._devices = [
            Device(
                number,
                scenario.hardware,
                self._events,
                self._policy.keeper,
                self._ended,
                max_run,
            )
            for number in range(scenario.num_nodes)
        ]

    def run(self, name: str, on_progress: OnProgress) -> Outcome:
        begun_s = time.process_time()
        self._policy.start(self._devices)
        if self._policy.tick_s:
            self._events.add(picoseconds(self._policy.tick_s), AFTER_ALL, self._tick)
        now_ps = self._arrive_all(on_progress)
        now_ps = self._drain(now_ps)
        work = self._close(now_ps)
        report = make_report(self._scenario, name, self._tally, work)
        return Outcome(report, work, time.process_time() - begun_s)

    def _arrive_all(self, on_progress: OnProgress) -> int:
        """Let all requests come; return when the last did. One that no cache can hold is refused
        by the API, and counts as unserved."""
        events, total, now_ps = self._events, self._scenario.num_requests, 0
        max_tokens = self._scenario.hardware.max_tokens
        for request in self._scenario.requests():
            now_ps = request.at_ps
            while len(events) and events.next_at < now_ps:
                at_ps, action = events.take()
                action(at_ps)
            if request.number % PROGRESS_EVERY == 0:
                on_progress(request.number, total)
            self._tally.came(request)
            if request.prompt_tokens + request.output_tokens <= max_tokens:
                self._num_open += 1
                self._policy.arrive(request, now_ps)
        on_progress(total, total)
        self._arriving_busy_ps = sum(device.busy_ps(now_ps) for device in self._devices)
        return now_ps

    def _drain(self, now_ps: int) -> int:
        """Go on until all requests have ended or nothing can be good any more; return when."""
        events = self._events
        last_ps = now_ps + picoseconds(self._scenario.targets.answer_s)
        while self._num_open and len(events) and events.next_at <= last_ps:
            now_ps, action = events.take()
            action(now_ps)
        return now_ps

    def _ended(self, device: Device, sequence: Sequence, now_ps: int) -> None:
        self._num_open -= 1
        self._tally.ended(sequence.request, sequence.first_ps, sequence.last_ps)
        self._policy.ended(device, sequence, now_ps)

    def _tick(self, now_ps: int) -> None:
        self._policy.tick(now_ps)
        self._events.add(now_ps + picoseconds(self._policy.tick_s), AFTER_ALL, self._tick)

    def _close(self, now_ps: int) -> Work:
        devices = self._devices
        for device in devices:
            device.close(now_ps)
        return Work(
            simulated_s=seconds(now_ps),
            busy_s=seconds(sum(device.busy_ps(now_ps) for device in devices)),
            arriving_busy_s=seconds(self._arriving_busy_ps),
            loads=sum(device.num_loads for device in devices),
            evictions=sum(device.num_evictions for device in devices),
            preemptions=sum(device.num_preempted for device in devices),
            rounds=sum(device.num_rounds for device in devices),
            plans=sum(device.num_plans for device in devices),
            decisions=self._policy.num_decisions,
            routes=self._policy.num_routes,
        )

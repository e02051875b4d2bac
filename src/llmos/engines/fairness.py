"""Whose step comes next: a pure decision over plain values, and the virtual clocks behind it.

No input or output, no clock, no torch. Fairness is start-time fair queueing (Goyal, Vin and Cheng
1996, section 2): each flow has a virtual time, the compute it was charged; the lowest goes first. A
flow that was idle starts again at the lowest of those that were not, so nobody saves up a claim.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from llmos.engines.base import Urgency

AGEING_S = 2.0
"""A class counts as one better for each such time that it waits for a step."""
STARVING_S = 15.0
"""A model that had no step for so long goes first in its class."""
HORIZON_STEPS = 2.0
"""A work is late when its slack is below so many of the longest steps."""
FAIR_LEAD_MS = 1000.0
"""Lateness puts works first only while their tenant and model are no further ahead of others."""
STREAM_STEPS = 1.5
"""Streams are late where the slack to their next token is below so many of the longest steps."""
MAX_STALL_S = 0.2
"""Past their target by so much, streams go first whoever had more."""
MAX_IDLE_FLOWS = 4096


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that has work.

    ``waited_s`` counts from its last step, ``class_waited_s`` from the last step of any model of
    its class, both from when there was work for it. ``virtual_ms`` is the lowest virtual time among
    the tenants in ``urgency``, ``model_ms`` the model's own.
    """

    key: str
    urgency: Urgency
    waited_s: float = 0.0
    class_waited_s: float = 0.0
    virtual_ms: float = 0.0
    model_ms: float = 0.0


def pick(
    candidates: Sequence[Candidate], horizon_s: float = 0.0, *, ageing_s: float = AGEING_S
) -> str:
    """Return the key of the model to step: the best of the best class.

    Each ``ageing_s`` of waiting makes a class count as one better. First goes one that waited past
    the best, then one with late works, whose slack does not outlast ``horizon_s``, the time of a
    step; then the better. So class ``p`` waits at most ``(p + 1) * ageing_s`` for a step, and
    then for classes that waited as long.

    Within a class a model that starves goes first, then late streams, then other late works, then
    the tenant with the lowest virtual time, and of one tenant's models the one that had the least.
    """
    streams_s = {one.key: _stream_s(one, candidates, horizon_s) for one in candidates}
    slacks_s = {
        one.key: min(_pressing_s(one, candidates, horizon_s), streams_s[one.key])
        for one in candidates
    }
    classes: dict[int, list[Candidate]] = {}
    for one in candidates:
        classes.setdefault(one.urgency.priority, []).append(one)

    def class_rank(priority: int) -> tuple[bool, int, int]:
        aged = priority - int(classes[priority][0].class_waited_s // ageing_s)
        is_late = any(slacks_s[one.key] < math.inf for one in classes[priority])
        return not (is_late or aged < 0), aged, priority

    def rank(one: Candidate) -> tuple[int, float, float, float, float, str]:
        starved = int(one.waited_s // STARVING_S)
        late = (streams_s[one.key], slacks_s[one.key])
        return -starved, *late, one.virtual_ms, one.model_ms, one.key

    return min(classes[min(classes, key=class_rank)], key=rank).key


def _pressing_s(one: Candidate, candidates: Sequence[Candidate], horizon_s: float) -> float:
    """Return the slack of late works; infinity for others, and for who had more than the peers."""
    if one.urgency.slack_s > horizon_s:
        return math.inf
    return one.urgency.slack_s if _may_press(one, candidates) else math.inf


def _stream_s(one: Candidate, candidates: Sequence[Candidate], horizon_s: float) -> float:
    """Return the slack of streams that would miss their target behind a step of another model;
    infinity for others, and for who had more than the peers, unless that makes a stall."""
    slack_s = one.urgency.stream_slack_s
    if slack_s > STREAM_STEPS / HORIZON_STEPS * horizon_s:
        return math.inf
    is_stall = slack_s < -MAX_STALL_S
    return slack_s if is_stall or _may_press(one, candidates) else math.inf


def _may_press(one: Candidate, candidates: Sequence[Candidate]) -> bool:
    peers = [other for other in candidates if other.urgency.priority <= one.urgency.priority]
    tenant_ms = one.virtual_ms - min(peer.virtual_ms for peer in peers)
    model_ms = one.model_ms - min(peer.model_ms for peer in peers)
    return max(tenant_ms, model_ms) <= FAIR_LEAD_MS


class VirtualTimes:
    """Compute charged to each flow (a tenant, or a model), in milliseconds, within groups.

    A group is a set of flows that compete, as the tenants of one priority class do. Idle flows
    that no active one has overtaken are remembered; at most ``max_idle`` of them.
    """

    def __init__(self, max_idle: int = MAX_IDLE_FLOWS) -> None:
        self._max_idle = max_idle
        self._times_ms: dict[str, float] = {}
        self._active: dict[int, frozenset[str]] = {}
        self._floors_ms: dict[int, float] = {}

    def activate(self, groups: Mapping[int, Iterable[str]]) -> None:
        """Say which flows want service now; who was not among a group's flows catches up with them.

        Groups not mentioned have no flows now.
        """
        before, self._active = self._active, {g: frozenset(flows) for g, flows in groups.items()}
        for group in before.keys() | self._active.keys():
            old, new = before.get(group, frozenset()), self._active.get(group, frozenset())
            stayed = old & new
            # Once a group is empty all of its past is settled: the floor is its highest time.
            reached_ms = self.least(stayed) if stayed else max(map(self.of, old), default=0.0)
            floor_ms = max(self._floors_ms.get(group, 0.0), reached_ms)
            self._floors_ms[group] = floor_ms
            for flow in new - stayed:
                self._times_ms[flow] = max(self.of(flow), floor_ms)
        if len(self._times_ms) > self._max_idle:
            self._forget_idle()

    def charge(self, shares: Mapping[str, float], ms: float) -> None:
        """Add ``ms`` of compute to the flows by their shares of it."""
        times_ms = self._times_ms
        for flow, share in shares.items():
            times_ms[flow] = times_ms.get(flow, 0.0) + share * ms

    def of(self, flow: str) -> float:
        """Return a flow's virtual time."""
        return self._times_ms.get(flow, 0.0)

    def least(self, flows: Iterable[str]) -> float:
        """Return the lowest virtual time among the flows; 0 if there are none."""
        return min(map(self.of, flows), default=0.0)

    def view(self) -> Mapping[str, float]:
        """Return every remembered flow's virtual time; who is not in it has 0."""
        return MappingProxyType(self._times_ms)

    def __len__(self) -> int:
        return len(self._times_ms)

    def _forget_idle(self) -> None:
        """Keep, of the idle flows, the half of the limit that is furthest ahead."""
        active = frozenset[str]().union(*self._active.values())
        idle = sorted((ms, flow) for flow, ms in self._times_ms.items() if flow not in active)
        for _, flow in idle[: max(0, len(idle) - self._max_idle // 2)]:
            del self._times_ms[flow]

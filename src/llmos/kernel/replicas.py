"""How many replicas each model has, and on which devices: pure decisions from what was measured.

The rule of `replicas`:

1. **Up.** A model whose requests wait longer than ``target_queue_s`` gets as many times more
   replicas as they wait too long, twice as many at most, and then none for ``settle_s``, until
   those work. So n replicas become m within ``ceil(log2(m / n))`` such times.
2. **Down.** A model whose requests hardly waited for all of ``calm_s`` (`CALM_SHARE` of the target
   at most), and that changed nothing in that time, gives up replicas: not more than its highest
   load in that time can do without, the others being busy for `FULL_SHARE`, and a quarter at most.
3. Between the two nothing happens. What 2 leaves is busy for `FULL_SHARE` of the time at most, and
   1 asks for replicas that cannot keep up, so a constant load moves nothing.
4. Where devices run out, the model whose requests wait longest goes first. Devices that have room
   and where requests wait less than the target are taken, the least loaded first, and before them
   those that still hold the model.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

GROWTH = 2.0
"""So many times as many replicas a model may get at once."""
SHRINK_SHARE = 0.25
"""Of its replicas, what a model may lose at once, though always one."""
CALM_SHARE = 0.25
"""Of the target, up to what its queue must have been for a model to lose replicas."""
FULL_SHARE = 0.6
"""Of its replicas' time, up to what a model's load may come when it loses some."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model, where it is, and what its requests saw of late. Times are Unix seconds."""

    key: str
    num_bytes: int
    devices: tuple[str, ...]
    """That hold a replica, or load one."""
    queue_s: float
    """How long a new request would wait, on average over the replicas."""
    peak_queue_s: float
    """The longest such time in the last ``calm_s``."""
    peak_load: float
    """The highest load in the last ``calm_s``, in replicas that compute all the time."""
    changed_at: float
    """When it last got or lost a replica."""
    least: int = 1
    most: int = 2**31


@dataclass(frozen=True, slots=True)
class DeviceRoom:
    """A device, as far as it may take another replica."""

    key: str
    room_bytes: int
    """Free, or held by models that nobody uses."""
    queue_s: float
    """How long a new request would wait there."""
    load: float
    """How much it has to do: whatever tells devices apart."""
    holds: frozenset[str] = frozenset()
    """Models that are in its memory, with a replica or left from one."""


@dataclass(frozen=True, slots=True)
class State:
    """Everything `replicas` looks at. Times are Unix seconds.

    ``settle_s`` is how long a new replica takes until it shows in the queue; ``calm_s`` how long a
    model must have been quiet to lose one.
    """

    now: float
    target_queue_s: float
    settle_s: float
    calm_s: float
    models: tuple[ServedModel, ...]
    devices: tuple[DeviceRoom, ...]


@dataclass(frozen=True, slots=True)
class Replicate:
    """Have a model on one more device."""

    key: str
    device: str


@dataclass(frozen=True, slots=True)
class Retire:
    """Send a device no more requests for a model; its memory is the scheduler's to take."""

    key: str
    device: str


Change = Replicate | Retire


def replicas(state: State) -> list[Change]:
    """Return which replicas to make and which to give up, see the module's rule."""
    changes: list[Change] = []
    loads: dict[str, float] = {}
    for model in state.models:
        if count := num_fewer(model, state):
            loads = loads or {device.key: device.load for device in state.devices}
            changes += [Retire(model.key, device) for device in _busiest(model, count, loads)]
    growing = [(model, num_more(model, state)) for model in state.models]
    growing = [(model, count) for model, count in growing if count > 0]
    if growing:
        places = _Places(state)
        for model, count in sorted(growing, key=lambda one: (-one[0].queue_s, one[0].key)):
            changes += [Replicate(model.key, device) for device in places.take(model, count)]
    return changes


def num_more(model: ServedModel, state: State) -> int:
    """Return how many replicas a model is short of."""
    have = len(model.devices)
    if have < model.least:
        return model.least - have
    if model.queue_s <= state.target_queue_s or state.now - model.changed_at < state.settle_s:
        return 0
    factor = min(model.queue_s / state.target_queue_s, GROWTH)
    return max(0, min(max(have + 1, math.ceil(have * factor)), model.most) - have)


def num_fewer(model: ServedModel, state: State) -> int:
    """Return how many replicas a model can do without."""
    have = len(model.devices)
    if have > model.most:
        return have - model.most
    is_calm = max(model.queue_s, model.peak_queue_s) <= CALM_SHARE * state.target_queue_s
    if not is_calm or state.now - model.changed_at < state.calm_s:
        return 0
    needed = max(model.least, 1, math.ceil(model.peak_load / FULL_SHARE))
    return max(0, min(have - needed, max(1, int(have * SHRINK_SHARE))))


def _busiest(model: ServedModel, count: int, loads: dict[str, float]) -> list[str]:
    """Return the devices that a model gives up: those with the most to do."""
    return heapq.nsmallest(count, model.devices, key=lambda key: (-loads.get(key, 1.0), key))


class _Places:
    """Devices where a replica would help, the least loaded first; each takes one at a time."""

    def __init__(self, state: State) -> None:
        helping = (one for one in state.devices if one.queue_s < state.target_queue_s)
        ranked = sorted(helping, key=lambda device: (device.load, device.key))
        self._left = {device.key: device for device in ranked}

    def take(self, model: ServedModel, count: int) -> Iterator[str]:
        """Yield up to ``count`` devices for a model, and let no other have them."""
        for device in self._best(model, count):
            del self._left[device]
            yield device

    def _best(self, model: ServedModel, count: int) -> list[str]:
        taken = set(model.devices)
        fitting = [
            device
            for device in self._left.values()
            if device.key not in taken
            and (model.key in device.holds or device.room_bytes >= model.num_bytes)
        ]
        fitting.sort(key=lambda device: model.key not in device.holds)  # stable: then by load
        return [device.key for device in fitting[:count]]


@dataclass(slots=True)
class Peak:
    """The highest of what was measured within a time: what `ServedModel.peak_load` asks for."""

    window_s: float
    _kept: deque[tuple[float, float]] = field(default_factory=deque)
    """Times and values; each is higher than all that came after it."""

    def note(self, now: float, value: float) -> float:
        """Take a value measured at ``now``; return the highest of the last ``window_s``."""
        while self._kept and self._kept[-1][1] <= value:
            self._kept.pop()
        self._kept.append((now, value))
        while self._kept[0][0] < now - self.window_s:
            self._kept.popleft()
        return self._kept[0][1]

"""What llmos is compared with: FIFO, a static partition, the least loaded device.

They know no classes and no tenants. All else they share: devices, batcher, cache, step times, and
the models' mean popularity, by which memory is filled at the start.
"""

from __future__ import annotations

import itertools
from collections import deque

from llmos.simulate.clock import Events
from llmos.simulate.device import Device, Keeper
from llmos.simulate.keepers import AsItWas, LeastRecentlyUsed
from llmos.simulate.placement import apportion, fill
from llmos.simulate.scenario import Scenario
from llmos.simulate.sequences import Sequence
from llmos.simulate.traces import Request
from llmos.types import Priority

PLACES = 16
"""Requests that FIFO sends to a device at once, and after which least-loaded looks for another."""


class _FirstCome:
    """What the three others have in common: no classes, no tenants, no ticks."""

    tick_s = 0.0
    num_routes = 0
    num_decisions = 0

    def __init__(self, scenario: Scenario, keeper: Keeper) -> None:
        self.keeper = keeper
        self._popularity = scenario.mix.popularity()
        self._devices: list[Device] = []
        self._holders: dict[str, list[Device]] = {model: [] for model in self._popularity}

    def start(self, devices: list[Device]) -> None:
        self._devices = devices
        for device, models in zip(devices, fill(self._popularity, devices), strict=True):
            for model in models:
                device.preload(model)
                self._holders[model].append(device)

    def ended(self, device: Device, sequence: Sequence, now_ps: int) -> None:
        pass

    def tick(self, now_ps: int) -> None:
        pass

    def _send(self, device: Device, request: Request, now_ps: int) -> None:
        sequence = Sequence(request, int(Priority.STANDARD), "")
        device.submit(request.model, sequence, now_ps)
        if device not in self._holders[request.model]:
            self._holders[request.model].append(device)

    def _least_open(self, model: str) -> Device | None:
        """Return the device with the fewest requests of those that hold a model."""
        holders = self._holders[model]
        if not all(device.holds(model) for device in holders):
            holders = self._holders[model] = [one for one in holders if one.holds(model)]
        return min(holders, key=_num_open, default=None)

    def _least_open_with_room(self) -> Device | None:
        """Return the device with the fewest requests of those that could load a model at once."""
        with_room = (device for device in self._devices if device.can_make_room())
        return min(with_room, key=_num_open, default=None)


def _num_open(device: Device) -> int:
    return device.num_open


class Fifo(_FirstCome):
    """One queue: its head goes to the least loaded device that has its model and less than `PLACES`
    requests, else to one that can load it. Until there is one, all wait behind it."""

    def __init__(self, scenario: Scenario, events: Events) -> None:
        super().__init__(scenario, LeastRecentlyUsed())
        self._queue: deque[Request] = deque()

    def arrive(self, request: Request, now_ps: int) -> None:
        self._queue.append(request)
        if len(self._queue) == 1:
            self._try_head(self._best(request.model), now_ps)

    def ended(self, device: Device, sequence: Sequence, now_ps: int) -> None:
        # Only here can something have changed for the head, so nothing else need be looked at.
        while self._queue:
            can_take = device.holds(self._queue[0].model) or device.can_make_room()
            if not self._try_head(device if can_take else None, now_ps):
                break

    def _best(self, model: str) -> Device | None:
        best = self._least_open(model)
        if best is None or best.num_open >= PLACES:
            best = self._least_open_with_room()
        return best

    def _try_head(self, device: Device | None, now_ps: int) -> bool:
        if device is None or device.num_open >= PLACES:
            return False
        self._send(device, self._queue.popleft(), now_ps)
        return True


class LeastLoaded(_FirstCome):
    """Each request goes at once to the device with the fewest of those that hold its model; where
    that has `PLACES` or more, to the one with the fewest that can load it."""

    def __init__(self, scenario: Scenario, events: Events) -> None:
        super().__init__(scenario, LeastRecentlyUsed())

    def arrive(self, request: Request, now_ps: int) -> None:
        best = self._least_open(request.model)
        if best is None or best.num_open >= PLACES:
            other = self._least_open_with_room()
            if other is not None and (best is None or other.num_open < best.num_open):
                best = other
        self._send(best or min(self._devices, key=_num_open), request, now_ps)


class StaticPartition(_FirstCome):
    """Each device has one model, with all of its memory, by the models' mean popularity; a request
    goes to the one with the fewest of its model's devices."""

    def __init__(self, scenario: Scenario, events: Events) -> None:
        super().__init__(scenario, AsItWas())

    def start(self, devices: list[Device]) -> None:
        counts = apportion(self._popularity, len(devices))
        models = itertools.chain.from_iterable([key] * count for key, count in counts.items())
        for device, model in zip(devices, models, strict=True):
            device.preload(model, device.ledger.capacity_bytes)
            self._holders[model].append(device)
        self._devices = devices

    def arrive(self, request: Request, now_ps: int) -> None:
        self._send(min(self._holders[request.model], key=_num_open), request, now_ps)

"""llmos's own way with a cluster: four pure decisions, and what they need to be told.

`route` picks among replicas, `replicas` says how many there are, `decide` what is in memory, `plan`
who is computed first. Requests of the lower classes are held back while devices have enough to do.
"""

from __future__ import annotations

import random
from collections import deque

from llmos.kernel.deferring import is_deferred
from llmos.kernel.replicas import (
    DeviceRoom,
    Peak,
    Replicate,
    Retire,
    ServedModel,
    State,
    replicas,
)
from llmos.kernel.router import Asked, Replica, route
from llmos.simulate.clock import Events, seconds
from llmos.simulate.device import Device
from llmos.simulate.keepers import DecidingKeeper
from llmos.simulate.placement import fill
from llmos.simulate.scenario import Scenario
from llmos.simulate.sequences import Sequence
from llmos.simulate.traces import Request
from llmos.types import Priority

CHOICES = 8
"""Replicas that `route` is asked about: of more, so many are drawn (the power of choices)."""
TICK_S = 1.0
TARGET_QUEUE_S = 0.5
SETTLE_S = 2.0
CALM_S = 30.0
BATCH_PATIENCE = 20.0
"""So many times longer than others may requests of the lower classes wait."""
BATCH_WINDOW = 12
"""A device with so many requests is sent no more of the lower classes, as a batch has a bounded
number of rows under way: memory stays free for who cannot wait."""
MEAN_WEIGHT = 0.001
"""Of one more answer, for what is expected of the next."""


class Llmos:
    """The policy `llmos`, see `cluster.Policy`."""

    tick_s = TICK_S

    def __init__(self, scenario: Scenario, events: Events) -> None:
        self.keeper = DecidingKeeper(events)
        self.num_routes = 0
        self._popularity = scenario.mix.popularity()
        self._rng = random.Random(f"route {scenario.seed}")
        self._devices: list[Device] = []
        self._replicas: dict[str, list[int]] = {model: [] for model in self._popularity}
        self._changed_at = dict.fromkeys(self._popularity, 0.0)
        self._queue_peaks = {model: Peak(CALM_S) for model in self._popularity}
        self._load_peaks = {model: Peak(CALM_S) for model in self._popularity}
        self._busy_ps: list[int] = []
        self._output_tokens = 100.0
        self._held: dict[str, deque[Request]] = {model: deque() for model in self._popularity}

    @property
    def num_decisions(self) -> int:
        return self.keeper.num_decisions

    def replicas_of(self, model: str) -> tuple[int, ...]:
        """Return the devices that requests for a model are sent to."""
        return tuple(self._replicas[model])

    def start(self, devices: list[Device]) -> None:
        self._devices, self._busy_ps = devices, [0] * len(devices)
        for device, models in zip(devices, fill(self._popularity, devices), strict=True):
            for model in models:
                device.preload(model)
                self._replicas[model].append(device.number)

    def arrive(self, request: Request, now_ps: int) -> None:
        can_wait, held = request.priority > Priority.STANDARD, self._held[request.model]
        if (can_wait and held) or not self._send(request, now_ps):
            held.append(request)

    def ended(self, device: Device, sequence: Sequence, now_ps: int) -> None:
        more = sequence.request.output_tokens - self._output_tokens
        self._output_tokens += MEAN_WEIGHT * more
        while waiting := [
            held
            for key in device.resident()
            if (held := self._held[key]) and not _is_deferred(device, held[0], now_ps)
        ]:
            first = min(waiting, key=lambda held: held[0].number).popleft()
            self._submit(device, first, now_ps)

    def _send(self, request: Request, now_ps: int) -> bool:
        """Send a request to the best of some replicas; False: they have enough to do for it."""
        numbers = self._replicas[request.model]
        if len(numbers) > CHOICES:
            numbers = self._rng.sample(numbers, CHOICES)
        devices = [self._devices[number] for number in numbers]
        if request.priority > Priority.STANDARD:
            devices = [one for one in devices if not _is_deferred(one, request, now_ps)]
            if not devices:
                return False
        asked = Asked(request.prompt_tokens, round(self._output_tokens), request.priority)
        choice = route(asked, [_as_replica(one, request) for one in devices], self._rng)
        self.num_routes += 1
        self._submit(self._devices[int(choice.replica.key)], request, now_ps)
        return True

    def _submit(self, device: Device, request: Request, now_ps: int) -> None:
        sequence = Sequence(request, request.priority, request.tenant)
        device.submit(request.model, sequence, now_ps)

    # -- replicas --------------------------------------------------------------------------------

    def tick(self, now_ps: int) -> None:
        now = seconds(now_ps)
        loads, queues_s = self._loads(now_ps), [_queue_s(device) for device in self._devices]
        for model in self._replicas:
            self._drop_evicted(model)
        state = State(
            now=now,
            target_queue_s=TARGET_QUEUE_S,
            settle_s=SETTLE_S,
            calm_s=CALM_S,
            models=tuple(self._served(model, loads, queues_s, now) for model in self._replicas),
            devices=tuple(map(_as_room, self._devices, queues_s, loads)),
        )
        for held in self._held.values():
            while held and self._send(held[0], now_ps):
                held.popleft()
        for change in replicas(state):
            numbers = self._replicas[change.key]
            self._changed_at[change.key] = now
            match change:
                case Replicate(key, device):
                    numbers.append(int(device))
                    self._devices[int(device)].call(key, now_ps)
                case Retire(key, device):
                    numbers.remove(int(device))
                    self._devices[int(device)].call_off(key)

    def _loads(self, now_ps: int) -> list[float]:
        """Return the share of the time that each device computed since the last call."""
        before, self._busy_ps = self._busy_ps, [one.busy_ps(now_ps) for one in self._devices]
        return [seconds(b - a) / TICK_S for a, b in zip(before, self._busy_ps, strict=True)]

    def _drop_evicted(self, model: str) -> None:
        """Send no more requests where a model gave way to others, unless it is nowhere else."""
        numbers = self._replicas[model]
        held = [number for number in numbers if self._devices[number].holds(model)]
        if len(held) < len(numbers):
            self._replicas[model] = held or numbers[:1]

    def _served(
        self, model: str, loads: list[float], queues_s: list[float], now: float
    ) -> ServedModel:
        numbers = self._replicas[model]
        queue_s = load = 0.0
        for number in numbers:
            device = self._devices[number]
            queue_s += queues_s[number] / len(numbers)
            if device.num_open:
                load += loads[number] * device.open_of(model) / device.num_open
        held_tokens = sum(request.prompt_tokens for request in self._held[model])
        held_s = held_tokens * seconds(self._devices[0].hardware.times.prefill_ps) / len(numbers)
        queue_s = max(queue_s, held_s / BATCH_PATIENCE)
        return ServedModel(
            key=model,
            num_bytes=self._devices[0].hardware.model_bytes,
            devices=tuple(map(str, numbers)),
            queue_s=queue_s,
            peak_queue_s=self._queue_peaks[model].note(now, queue_s),
            peak_load=self._load_peaks[model].note(now, load),
            changed_at=self._changed_at[model],
        )


def _is_deferred(device: Device, request: Request, now_ps: int) -> bool:
    """Whether a request of the lower classes waits: the device has enough, or urgent ones for other
    models."""
    if device.num_open >= BATCH_WINDOW:
        return True
    waited_s = seconds(now_ps - request.at_ps)
    return is_deferred(request.priority, device.urgent_elsewhere(request.model), waited_s)


def _queue_s(device: Device) -> float:
    """Return how long requests wait at a device, those of the lower classes counting less."""
    if not device.num_open:
        return 0.0
    late_s = device.outlook(Priority.BACKGROUND).queue_s
    return max(device.outlook(Priority.STANDARD).queue_s, late_s / BATCH_PATIENCE)


def _as_replica(device: Device, request: Request) -> Replica:
    """Return what the router should know of a device, for a request."""
    is_resident, outlook = device.is_resident(request.model), device.outlook(request.priority)
    return Replica(
        key=str(device.number),
        model=request.model,
        prefill_tokens_per_s=outlook.prefill_tokens_per_s,
        decode_tokens_per_s=outlook.decode_tokens_per_s,
        queue_s=outlook.queue_s,
        load_s=device.wait_s(request.model),
        memory_bytes=0 if is_resident else device.hardware.model_bytes,
        room_bytes=device.ledger.capacity_bytes,
    )


def _as_room(device: Device, queue_s: float, load: float) -> DeviceRoom:
    room_bytes = device.hardware.model_bytes if device.can_make_room() else 0
    holds = frozenset(device.resident())
    return DeviceRoom(str(device.number), room_bytes, queue_s, load, holds)

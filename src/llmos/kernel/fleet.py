"""The engines of one server: each its own process, with its own part of the memory and the cores.

A request goes to the engine that has its model and the least to do. How many engines have a model
follows its load: `replicas` decides, this measures and does it. A server has one engine unless the
setting ``engines`` says more; then all of this is a look into a list of one.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

from llmos.errors import LlmosError, ModelLoadingError
from llmos.kernel.child import thread_environ
from llmos.kernel.leases import Lease
from llmos.kernel.ledger import Ledger
from llmos.kernel.models import Model, ModelSpec
from llmos.kernel.replicas import DeviceRoom, Replicate, Retire, ServedModel, State, replicas
from llmos.kernel.residency import Residency
from llmos.kernel.telemetry import Telemetry
from llmos.settings import Settings
from llmos.types import Priority

LOOK_S = 1.0
"""Seconds between two looks at the load."""
SETTLE_S = 10.0
"""A new replica shows in the queue after so long."""
LOAD_LOOKS = 10
"""Load is averaged over about so many looks."""
CALM_S = 120.0
"""A model that was quiet for so long may lose a replica."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Device:
    """An engine, and the memory it may use."""

    name: str
    ledger: Ledger
    residency: Residency


@dataclass(slots=True)
class _Served:
    """A model that is asked for: who answers, and what its requests saw. Unix seconds."""

    spec: ModelSpec
    homes: list[str]
    """Names of the devices that answer for it."""
    changed_at: float
    loading: set[str] = field(default_factory=set)
    """Names of those that load it, to answer for it then."""
    seen: deque[tuple[float, float, float]] = field(default_factory=deque)
    """(when, seconds that a new request would wait, engines that compute for it, averaged)."""
    load: float = 0.0
    """How many engines compute for it, averaged over the last looks."""

    def note(self, now: float, queue_s: float, num_computing: int) -> None:
        """Take in what one look saw; forget what is older than `CALM_S`."""
        self.load += (num_computing - self.load) / LOAD_LOOKS
        self.seen.append((now, queue_s, self.load))
        while now - self.seen[0][0] > CALM_S:
            self.seen.popleft()


class Fleet:
    """Every engine of a server. Belongs to one event loop.

    Args:
        devices: the engines, the first of which shares its memory with the jobs.
        clock: Unix seconds.
        target_queue_s: a model whose requests wait longer gets another engine.
    """

    def __init__(
        self,
        devices: Sequence[Device],
        telemetry: Telemetry,
        clock: Callable[[], float],
        target_queue_s: float,
    ) -> None:
        self.devices = tuple(devices)
        self.telemetry = telemetry
        self.ledgers = {device.name: device.ledger for device in devices}
        self._by_name = {device.name: device for device in devices}
        self._clock = clock
        self._target_queue_s = target_queue_s
        self._served: dict[str, _Served] = {}
        self._loads: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None] | None = None

    # -- for requests ----------------------------------------------------------------------------

    def lease(
        self,
        spec: ModelSpec,
        priority: Priority = Priority.STANDARD,
        deadline_s: float | None = None,
        *,
        tenant: str = "",
        num_works: int = 1,
        ends_early: bool = False,
    ) -> AbstractAsyncContextManager[Lease]:
        """Hold a model in the memory of an engine, see `Residency.lease`."""
        return self._device_for(spec).residency.lease(
            spec,
            priority,
            deadline_s,
            tenant=tenant,
            num_works=num_works,
            ends_early=ends_early,
        )

    def status(self) -> list[dict[str, Any]]:
        """Return what people want to know of each model on each device, see `Model.status`."""
        if len(self.devices) == 1:
            return self.devices[0].residency.status()
        return [
            status | {"device": device.name}
            for device in self.devices
            for status in device.residency.status()
        ]

    def evict(self, key: str) -> None:
        """Unload a model wherever nobody uses it."""
        for device in self.devices:
            device.residency.evict(key)

    def retire(self, key: str) -> None:
        """Let go of a model or an adapter that was removed."""
        for device in self.devices:
            device.residency.retire(key)

    def pin(self, specs: Mapping[str, ModelSpec]) -> None:
        """Keep these models, by key, and only these in the memory of the first engine."""
        first = self.devices[0]
        first.residency.pin(specs)
        for key, spec in specs.items():
            homes = self._of(spec).homes
            if first.name not in homes:
                homes.append(first.name)
            self._served[key].changed_at = self._clock()

    # -- for the kernel --------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to follow the load, where there is more than one engine."""
        if len(self.devices) > 1:
            self._task = asyncio.create_task(self._follow(), name="fleet")

    async def stop(self) -> None:
        """End every engine."""
        tasks = [*self._loads, *([self._task] if self._task else ())]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await asyncio.gather(*(device.residency.stop() for device in self.devices))

    def look(self) -> list[Replicate | Retire]:
        """Note what models' requests see, and have more or fewer engines answer; return which."""
        now = self._clock()
        for key, served in list(self._served.items()):
            models = self._models_at(served)
            if not models and not served.loading:
                del self._served[key]
                continue
            served.homes = list(models)
            queue_s = sum(model.queue_s for model in models.values()) / max(len(models), 1)
            served.note(now, queue_s, sum(model.computes for model in models.values()))
        state = State(
            now=now,
            target_queue_s=self._target_queue_s,
            settle_s=SETTLE_S,
            calm_s=CALM_S,
            models=tuple(self._model(key, served, now) for key, served in self._served.items()),
            devices=tuple(map(self._room, self.devices)),
        )
        changes = replicas(state)
        for change in changes:
            self._do(change, now)
        return changes

    # -- inside ----------------------------------------------------------------------------------

    def _of(self, spec: ModelSpec) -> _Served:
        if (served := self._served.get(spec.key)) is None:
            bare = dataclasses.replace(spec, adapter=None)
            served = self._served[spec.key] = _Served(bare, [], self._clock())
        return served

    def _device_for(self, spec: ModelSpec) -> Device:
        """Return who answers a request: of those that have the model, the one with the least to do;
        where none has, the one with the most room, which has it from then on, but first of all one
        that loads it."""
        if len(self.devices) == 1:
            return self.devices[0]
        served = self._of(spec)
        homes = served.homes or sorted(served.loading)
        if not homes:
            homes = served.homes
            homes.append(max(self.devices, key=lambda one: self._room(one).room_bytes).name)
        having = (self._by_name[name] for name in homes)
        return min(having, key=lambda one: (*_burden(one, spec.key), one.name))

    def _models_at(self, served: _Served) -> dict[str, Model]:
        """Return the model on each device that answers for it and has not evicted it meanwhile."""
        key = served.spec.key
        found = {name: self._by_name[name].residency.model(key) for name in served.homes}
        return {
            name: model
            for name, model in found.items()
            if model is not None and (model.state != "absent" or model.num_users)
        }

    def _model(self, key: str, served: _Served, now: float) -> ServedModel:
        """Return what `replicas` looks at. A replica that is still being loaded is one already, and
        the time in which it is to show in the queue has not begun."""
        return ServedModel(
            key=key,
            num_bytes=served.spec.estimate_bytes - served.spec.spare_bytes,
            devices=(*served.homes, *sorted(served.loading.difference(served.homes))),
            queue_s=served.seen[-1][1],
            peak_queue_s=max(queue_s for _, queue_s, _ in served.seen),
            peak_load=max(load for _, _, load in served.seen),
            changed_at=now if served.loading else served.changed_at,
            least=1 if served.homes else 0,
            most=len(self.devices),
        )

    def _room(self, device: Device) -> DeviceRoom:
        ready = [model for model in device.residency.resident() if model.state == "ready"]
        idle_bytes = sum(m.num_bytes for m in ready if not m.num_users and not m.is_pinned)
        models = [model for one in ready if (model := device.residency.model(one.key))]
        return DeviceRoom(
            key=device.name,
            room_bytes=device.ledger.free_bytes + idle_bytes,
            queue_s=max((model.queue_s for model in models), default=0.0),
            load=float(sum(model.computes for model in models)),
            holds=frozenset(model.key for model in ready),
        )

    def _do(self, change: Replicate | Retire, now: float) -> None:
        served = self._served[change.key]
        served.changed_at = now
        if isinstance(change, Retire):
            served.homes.remove(change.device)
            log.info("%s is not asked of %s any more", served.spec.name, change.device)
            return
        served.loading.add(change.device)
        load = asyncio.create_task(self._load(served, self._by_name[change.device]))
        self._loads.add(load)
        load.add_done_callback(self._loads.discard)

    async def _load(self, served: _Served, device: Device) -> None:
        """Have one more engine load a model, and answer for it once it is there."""
        try:
            await _until_loaded(device.residency, served.spec)
        except LlmosError as error:
            log.warning("%s cannot have %s too: %s", device.name, served.spec.name, error)
            return
        finally:
            served.loading.discard(device.name)
        if device.name not in served.homes:
            served.homes.append(device.name)
        served.changed_at = self._clock()
        log.info("%s is asked of %s too", served.spec.name, device.name)

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                self.look()
            except Exception:  # the fleet's top loop: what failed now is tried again
                log.exception("the load could not be followed")


async def _until_loaded(residency: Residency, spec: ModelSpec) -> None:
    """Have an engine load a model, for as long as that takes once it has begun. Raises
    LlmosError."""
    while True:
        try:
            async with residency.lease(spec, Priority.BACKGROUND):
                return
        except ModelLoadingError:
            model = residency.model(spec.key)
            if model is None or model.state != "loading":
                raise


def _burden(device: Device, key: str) -> tuple[bool, int]:
    """Return whether a device would have to load a model first, and how much it has to do there."""
    model = device.residency.model(key)
    return (True, 0) if model is None else (model.state != "ready", model.num_works)


def open_devices(
    settings: Settings,
    ledger: Ledger,
    clock: Callable[[], float],
    telemetry: Telemetry,
    *,
    threads: int,
    on_cpu: bool,
    parking_bytes: int,
    module: str,
    on_change: Callable[[], None],
    monotonic: Callable[[], float],
) -> list[Device]:
    """Return as many devices as the settings say: GPUs by their number, or parts of the CPU.

    Args:
        ledger: of the first; each of the others gets one of its own, as large.
        threads: of all engines together, on a CPU.
        parking_bytes: of each.
    """
    count = settings.engines
    devices: list[Device] = []
    for number in range(count):
        kind = "cpu" if on_cpu else f"cuda:{number}"
        mine = max(threads // count, 1) if on_cpu else threads
        own = ledger if number == 0 else Ledger(ledger.capacity_bytes)
        residency = Residency(
            own,
            clock,
            log_path=settings.logs_path / f"engine{f'-{number}' if number else ''}.log",
            max_queue=settings.max_queue,
            load_wait_s=settings.load_wait_s,
            module=module,
            environ={
                "LLMOS_DEVICE": settings.device if count == 1 else kind,
                "LLMOS_THREADS": str(mine),
                "LLMOS_ITL_TARGET_MS": str(settings.itl_target_ms),
                "LLMOS_PARKING_BYTES": str(parking_bytes),
                **thread_environ(mine),
            },
            on_change=on_change,
            stall_s=settings.engine_stall_s,
            monotonic=monotonic,
            telemetry=telemetry,
        )
        devices.append(Device(f"cpu:{number}" if on_cpu else kind, own, residency))
    return devices

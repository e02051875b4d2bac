"""What a simulated device has in memory: by the kernel's own `decide`, by least recent use, or as
it was."""

from __future__ import annotations

import math

from llmos.kernel.scheduler import decide, look_again_at
from llmos.kernel.state import (
    Drain,
    Evict,
    Load,
    ResidentModel,
    Resume,
    State,
    WantedModel,
)
from llmos.simulate.clock import Events, picoseconds, seconds
from llmos.simulate.device import AFTER_ALL, Device
from llmos.simulate.hardware import Hosted
from llmos.types import Priority

IDLE_S = 900.0
AGEING_S = 300.0
"""As the kernel has them; a test compares them."""
A_MOMENT_S = 1e-6
"""So much later, `decide` surely takes the time as come, however it is rounded."""


class DecidingKeeper:
    """Does what `kernel.scheduler.decide` says, of one device at a time."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._looks_at: dict[int, int] = {}
        self.num_decisions = 0

    def review(self, device: Device, now_ps: int) -> None:
        """See `device.Keeper`."""
        goes_on = True
        while goes_on:
            state = state_of(device, now_ps)
            self.num_decisions += 1
            goes_on = False
            for action in decide(state):
                match action:
                    case Load(key):
                        device.load(key, now_ps)
                    case Evict(key):
                        device.evict(key)
                        goes_on = True  # its memory is free now, for whom it was taken
                    case Drain(key):
                        device.drain(key, now_ps)
                    case Resume(key):
                        device.begin_turn(key, now_ps)
                    case _:
                        raise AssertionError(f"nothing here can lead to {action}")
        self._look_again(device, state, now_ps)

    def _look_again(self, device: Device, state: State, now_ps: int) -> None:
        """Come back when time alone may change what is to be done for those who wait."""
        again_at = look_again_at(state) if state.wanted else math.inf
        if again_at == math.inf:
            return
        at_ps = picoseconds(again_at) + picoseconds(A_MOMENT_S)
        if not now_ps < self._looks_at.get(device.number, 0) <= at_ps:
            self._looks_at[device.number] = at_ps
            self._events.add(at_ps, AFTER_ALL, lambda at: self.review(device, at))


def state_of(device: Device, now_ps: int) -> State:
    """Return a device as `decide` sees it: no jobs, its models and those wanted there."""
    now, load_s = seconds(now_ps), device.hardware.load_s
    models = device.models.values()
    return State(
        now=now,
        free_bytes=device.ledger.free_bytes,
        capacity_bytes=device.ledger.capacity_bytes,
        max_workers=0,
        idle_s=IDLE_S,
        ageing_s=AGEING_S,
        models=tuple(_resident(one, now, load_s) for one in models if one.state != "absent"),
        wanted=tuple(_wanted(one) for one in models if one.is_wanted),
    )


def _resident(hosted: Hosted, now: float, load_s: float) -> ResidentModel:
    return ResidentModel(
        hosted.key,
        hosted.num_bytes,
        "ready" if hosted.state == "ready" else "loading",
        hosted.num_users,
        hosted.last_used_at,
        load_s,
        hosted.demand_at(now),
        next((at for at in Priority if hosted.held[at]), Priority.BACKGROUND),
        hosted.turn_ends_at,
        hosted.draining_since,
    )


def _wanted(hosted: Hosted) -> WantedModel:
    best = min((one.request.priority for one in hosted.queue), default=Priority.BACKGROUND)
    return WantedModel(hosted.key, hosted.num_bytes, best, hosted.wanted_since)


class LeastRecentlyUsed:
    """Loads what is waited for, the longest wait first, in place of what nobody uses and was used
    longest ago."""

    def review(self, device: Device, now_ps: int) -> None:
        """See `device.Keeper`."""
        wanted = [hosted for hosted in device.models.values() if hosted.is_wanted]
        for hosted in sorted(wanted, key=lambda one: (one.wanted_since, one.key)):
            if device.ledger.free_bytes < hosted.num_bytes:
                idle = [m for m in device.models.values() if m.state == "ready" and not m.num_users]
                if not idle:
                    return
                device.evict(min(idle, key=lambda one: (one.last_used_at, one.key)).key)
            device.load(hosted.key, now_ps)


class AsItWas:
    """Keeps what a device began with."""

    def review(self, device: Device, now_ps: int) -> None:
        """See `device.Keeper`."""

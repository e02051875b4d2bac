"""What to do about a running job that takes more, or much less, memory than is reserved for it.

The rule alone, pure; `memory` measures, and does it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from llmos.kernel.state import ResidentModel

GROWTH = 1.1
"""A reservation that is raised becomes so much of what was measured: not to be raised at once."""
SLACK = 1.25
"""One that is lowered keeps so much of the peak…"""
WORTH_LOWERING = 0.8
"""…and is lowered only to this share or less of what it was…"""
SETTLED_S = 60.0
"""…after the job has run for so long and the peak has not risen."""
FLOOR_SHARE = 0.05
MOST_FLOOR_BYTES = 2 * 2**30


@dataclass(frozen=True, slots=True)
class Reading:
    """What a running job takes, beside what is reserved for it."""

    reserved_bytes: int
    held_bytes: int
    """Now, see `Footprint`."""
    peak_bytes: int
    settled_s: float
    """For how long it has run since the peak last rose."""
    may_lower: bool = True
    """Not where it failed before: it may have for want of memory; nor while it is held."""


@dataclass(frozen=True, slots=True)
class Room:
    """Where more memory could come from, in bytes."""

    free_bytes: int
    """Of the ledger."""
    soon_bytes: int
    """Of the ledger too, soon: held by models that nobody uses, and by what is on its way out."""
    capacity_bytes: int
    """Of the ledger."""
    available_bytes: float
    """Of the machine, without swapping."""
    floor_bytes: int
    """The machine is to have as much left."""


@dataclass(frozen=True, slots=True)
class Keep:
    """All is well."""


@dataclass(frozen=True, slots=True)
class Reserve:
    """Change the reservation to so much; it fits."""

    num_bytes: int


@dataclass(frozen=True, slots=True)
class Await:
    """Hold the job until idle models have made room for so much more."""

    num_bytes: int


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop this attempt; the next one is to reserve so much."""

    num_bytes: int


@dataclass(frozen=True, slots=True)
class Refuse:
    """Fail the job for good: it takes more than there is for all."""


Verdict = Keep | Reserve | Await | Stop | Refuse


def what_to_do(job: Reading, room: Room) -> Verdict:
    """Return what to do about a running job.

    One that outgrew its reservation is failed when it takes more than the capacity, and stopped
    when the machine has less left than the floor. Else its reservation grows: into what is free, or
    into what idle models, evicted for it, and others that end leave; it is held until then. Without
    room even so it is stopped. Models in use are never touched for it.

    A reservation that was too large is lowered once the job has settled. A job whose kind declares
    no memory has nothing to outgrow: it is stopped only below the floor.
    """
    if job.held_bytes <= job.reserved_bytes:
        return _lowered(job)
    wanted_bytes = min(int(job.held_bytes * GROWTH), room.capacity_bytes)
    if not job.reserved_bytes:
        return Stop(wanted_bytes) if room.available_bytes < room.floor_bytes else Keep()
    if job.held_bytes > room.capacity_bytes:
        return Refuse()
    if room.available_bytes < room.floor_bytes:
        return Stop(wanted_bytes)
    more_bytes, least_bytes = (n - job.reserved_bytes for n in (wanted_bytes, job.held_bytes))
    if least_bytes <= room.free_bytes:
        return Reserve(job.reserved_bytes + min(more_bytes, room.free_bytes))
    if least_bytes <= room.free_bytes + room.soon_bytes:
        return Await(min(more_bytes, room.free_bytes + room.soon_bytes))
    return Stop(wanted_bytes)


def _lowered(job: Reading) -> Verdict:
    """Return what to do about a job that takes no more than is reserved for it."""
    enough_bytes = int(job.peak_bytes * SLACK)
    is_worth_it = enough_bytes <= job.reserved_bytes * WORTH_LOWERING
    if is_worth_it and job.peak_bytes and job.may_lower and job.settled_s >= SETTLED_S:
        return Reserve(enough_bytes)
    return Keep()


def floor_of(total_bytes: int) -> int:
    """Return how much of a machine's memory is to stay available."""
    return min(int(total_bytes * FLOOR_SHARE), MOST_FLOOR_BYTES)


def idle_bytes(models: Iterable[ResidentModel]) -> int:
    """Return what models hold that can be had without taking anything from anyone."""
    leaving = (m for m in models if m.state == "unloading" or is_idle(m))
    return sum(model.num_bytes for model in leaving)


def is_idle(model: ResidentModel) -> bool:
    """Whether a model is loaded and nobody uses it."""
    return model.state == "ready" and model.num_users == 0

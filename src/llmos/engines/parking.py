"""Cached prefixes of models that were swapped out, in host memory until the models come back.

They take so many bytes at most, which the server has set aside; of the models that share them, the
one that was swapped out longest ago makes room first.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Protocol


class Parked(Protocol):
    """What one model leaves."""

    @property
    def num_bytes(self) -> int:
        """What it takes once it is copied."""
        ...

    def copy(self) -> Iterator[None]:
        """Copy it to host memory, a part for each turn. The model has to be there until the end."""
        ...


class Leaves(Protocol):
    """A model that leaves something."""

    def park(self, max_bytes: int) -> Parked | None: ...


class Parking:
    """What models left, by key. The main loop puts it here, the loader's thread takes it.

    Args:
        num_bytes: all of them together take so many at most.
    """

    def __init__(self, num_bytes: int) -> None:
        self.num_bytes = num_bytes
        self._parked: dict[str, Parked] = {}
        self._lock = threading.Lock()

    def keep(self, key: str, model: Leaves) -> Iterator[None]:
        """Keep what a model leaves, a part for each turn; one model after the other. What was kept
        longest makes room before there is a copy."""
        parked = model.park(self.num_bytes)
        if self._make_room(key, parked) and parked is not None:
            yield from parked.copy()
            with self._lock:
                self._parked[key] = parked

    def take(self, key: str) -> Parked | None:
        """Return what a model left, and keep it no longer."""
        with self._lock:
            return self._parked.pop(key, None)

    def _make_room(self, key: str, parked: Parked | None) -> bool:
        """Drop what this model left before, and of others what has to go; False: it is too much."""
        with self._lock:
            self._parked.pop(key, None)
            room_bytes = self.num_bytes - (parked.num_bytes if parked else 0)
            while room_bytes >= 0 and self._taken_bytes > room_bytes:
                del self._parked[next(iter(self._parked))]
            return room_bytes >= 0

    @property
    def _taken_bytes(self) -> int:
        return sum(one.num_bytes for one in self._parked.values())

"""Cached prefixes of models that were swapped out, in host memory until the models come back.

They take so many bytes at most, which the server has set aside; of the models that share them, the
one that was swapped out longest ago makes room first.
"""

from __future__ import annotations

import threading
from typing import Protocol


class Parked(Protocol):
    """What one model left."""

    @property
    def num_bytes(self) -> int: ...


class Parking:
    """What models left, by key. The main loop puts it here, the loader's thread takes it.

    Args:
        num_bytes: all of them together take so many at most.
    """

    def __init__(self, num_bytes: int) -> None:
        self.num_bytes = num_bytes
        self._parked: dict[str, Parked] = {}
        self._lock = threading.Lock()

    def put(self, key: str, parked: Parked | None) -> None:
        """Keep what a model left, at most ``num_bytes``; what was kept longest makes room."""
        with self._lock:
            self._parked.pop(key, None)
            if parked is None or parked.num_bytes > self.num_bytes:
                return
            while sum(one.num_bytes for one in self._parked.values()) > (
                self.num_bytes - parked.num_bytes
            ):
                del self._parked[next(iter(self._parked))]
            self._parked[key] = parked

    def take(self, key: str) -> Parked | None:
        """Return what a model left, and keep it no longer."""
        with self._lock:
            return self._parked.pop(key, None)

"""How much compute each owner used lately, for fair shares: seconds that fade with a half-life."""

from __future__ import annotations

from collections.abc import Callable, Iterable

HALF_LIFE_S = 3600.0


class Usage:
    """Compute seconds by owner, fading.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._used: dict[str, tuple[float, float]] = {}

    def charge(self, owner: str, seconds: float) -> None:
        """Add what a job used."""
        self._used[owner] = (self._faded(owner) + seconds, self._clock())

    def with_running(self, running: Iterable[tuple[str, float]]) -> dict[str, float]:
        """Return the seconds of every owner, those of jobs that still run included."""
        usage_s = {owner: self._faded(owner) for owner in self._used}
        for owner, seconds in running:
            usage_s[owner] = usage_s.get(owner, 0.0) + seconds
        return usage_s

    def _faded(self, owner: str) -> float:
        seconds, at = self._used.get(owner, (0.0, 0.0))
        return float(seconds * 0.5 ** (max(self._clock() - at, 0.0) / HALF_LIFE_S))

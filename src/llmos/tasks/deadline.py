"""When a request must be done."""

from __future__ import annotations

import time

from llmos.errors import DeadlineExceededError


class Deadline:
    """When a request must be done, counted from now; None is never."""

    def __init__(self, deadline_ms: int | None) -> None:
        self._deadline_ms = deadline_ms
        self._at = None if deadline_ms is None else time.monotonic() + deadline_ms / 1000

    def left_s(self) -> float | None:
        """Return the seconds left. Raises DeadlineExceededError when there are none."""
        if self._at is None:
            return None
        left_s = self._at - time.monotonic()
        if left_s <= 0:
            raise DeadlineExceededError(
                f"The deadline of {self._deadline_ms} ms passed before the answer was complete: "
                "give it more time, or ask for less."
            )
        return left_s

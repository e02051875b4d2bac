"""A long computation cut into slices: it runs only while its owner lets it.

Some libraries compute for seconds in one call and offer no more than a callback in between. Here
such a call has a thread of its own, and callback and owner hand control back and forth, so that
never both run: for the owner it is a step like any other. `Breaks` says when.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

MEMORY = 0.9
"""Of what a part took, what the next but one may be expected to take, whatever came between."""


class Sliced(Generic[T]):
    """One computation. `advance` and `abandon` are called from one thread, its owner's.

    Args:
        compute: gets a function to call between slices, which returns whether to give up early.
    """

    def __init__(self, compute: Callable[[Callable[[], bool]], T]) -> None:
        self._compute = compute
        self._go = threading.Semaphore(0)
        self._paused = threading.Semaphore(0)
        self._ended = False
        self._abandoned = False
        self._results: list[T] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="sliced", daemon=True)
        self._thread.start()

    def advance(self) -> bool:
        """Compute one slice; return whether that was the last.

        Raises:
            BaseException: whatever the computation raised in this slice.
        """
        if not self._ended:
            self._go.release()
            self._paused.acquire()
        if self._error is not None:
            raise self._error
        return self._ended

    def result(self) -> T:
        """Return what was computed, once `advance` returned True."""
        return self._results[0]

    def abandon(self) -> None:
        """End it at its next chance, which is now; nothing more is computed."""
        self._abandoned = True
        while not self._ended:
            self._go.release()
            self._paused.acquire()

    def _pause(self) -> bool:
        self._paused.release()
        self._go.acquire()
        return self._abandoned

    def _run(self) -> None:
        self._go.acquire()
        try:
            if not self._abandoned:
                self._results.append(self._compute(self._pause))
        except BaseException as error:  # raised again where somebody waits: in `advance`
            self._error = error
        finally:
            self._ended = True
            self._paused.release()


class AbandonedError(Exception):
    """Nobody waits for the computation any more."""


class Breaks:
    """Ends a slice between two parts of a computation, once it took its time.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._pause: Callable[[], bool] = lambda: False
        self._limit_s = math.inf
        self._begun = 0.0
        self._last = 0.0
        self._part_s = 0.0

    def made_for(self, pause: Callable[[], bool]) -> None:
        """Take what hands control back; it returns whether to give up."""
        self._pause = pause

    def begin(self, limit_s: float = math.inf) -> None:
        """Note that a slice begins, which should take no longer than ``limit_s``."""
        self._limit_s = limit_s
        self._begun = self._last = self._clock()

    def between(self) -> None:
        """Go on, unless another part like the last ones would take too long.

        Raises:
            AbandonedError: the computation is to end here.
        """
        now = self._clock()
        self._part_s, self._last = max(now - self._last, MEMORY * self._part_s), now
        if now + self._part_s > self._begun + self._limit_s:
            self.stop()

    def stop(self) -> None:
        """End the slice here. Raises AbandonedError as ``between`` does."""
        if self._pause():
            raise AbandonedError

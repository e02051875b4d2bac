"""A long computation cut into slices: it runs only while its owner lets it.

Some libraries compute for seconds in one call and offer no more than a callback in between. Here
such a call has a thread of its own, and callback and owner hand control back and forth, so that
never both run: for the owner it is a step like any other.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


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

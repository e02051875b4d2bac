"""Holding one worker still: why, how it was stopped, and how long it has really run.

A worker is asked first. One that has not answered in time is stopped by signal, where that stops
what it computes. Who is held, others decide.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import Literal, get_args

from llmos.kernel.child import Child
from llmos.kernel.protocol import PauseJob

HoldReason = Literal["user", "interactive", "memory", "quota", "preempted"]
"""The user paused it; interactive requests go first; it outgrew its memory; its owner's compute
time for the day is spent; it gave its device's memory up for others."""
HOLD_REASONS: tuple[HoldReason, ...] = get_args(HoldReason)

PAUSE_GRACE_S = 0.05
"""A worker that has not said within so long that it paused is stopped."""


class Hold:
    """Holds one worker for as long as there is a reason to. Belongs to one event loop.

    Args:
        stops: whether a worker that does not answer is stopped by signal. That is of use where it
            computes on the CPU; what it gave to another device goes on there.
        monotonic: seconds.
    """

    def __init__(self, child: Child, monotonic: Callable[[], float], *, stops: bool) -> None:
        self._child = child
        self._monotonic = monotonic
        self._stops = stops
        self._reasons: set[HoldReason] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._is_up = False
        self._is_late = False
        self._is_over = False
        self.gave_memory = asyncio.Event()
        """Set while it stands still and has nothing in its device's memory."""
        self._heard_at = monotonic()
        self._stopped_at: float | None = None
        self._active_s = 0.0
        self._is_still = False
        self._since = self._heard_at
        """Since when it runs or stands still, whichever it does."""

    @property
    def reasons(self) -> tuple[HoldReason, ...]:
        """Why it is held; empty while it is not."""
        return tuple(reason for reason in HOLD_REASONS if reason in self._reasons)

    @property
    def is_stopped(self) -> bool:
        """Whether it is stopped by signal: it says nothing then, not even that it lives."""
        return self._stopped_at is not None

    @property
    def is_parked(self) -> bool:
        """Whether it gave its device's memory up for others, and has not been given any since."""
        return "preempted" in self._reasons and self.gave_memory.is_set()

    def active_s(self) -> float:
        """Return how many seconds it has run, those in which it stood still left out."""
        return self._active_s + (0.0 if self._is_still else self._monotonic() - self._since)

    def silent_s(self) -> float:
        """Return how many seconds it has been silent when it could have spoken."""
        until = self._monotonic() if self._stopped_at is None else self._stopped_at
        return max(until - self._heard_at, 0.0)

    def add(self, reason: HoldReason, *, give_memory: bool = False) -> None:
        """Hold it for this reason, too, and have it give its device's memory up if it can."""
        if self._is_over:
            return
        is_new = not self._reasons
        self._reasons.add(reason)
        if is_new or give_memory:
            self._child.channel.send(PauseJob(True, give_memory=give_memory))
        if is_new:
            self._expect_answer()

    def remove(self, reason: HoldReason) -> None:
        """Let it go on, unless there are other reasons."""
        if reason in self._reasons:
            self._reasons.remove(reason)
            if not self._reasons:
                self._go_on()

    def heard(self) -> None:
        """It said something."""
        self._heard_at = self._monotonic()
        self._is_up = True
        if self._is_late:
            self._stop()

    def answered(self, paused: bool, gave_memory: bool = False) -> None:
        """It stands still from now on, or goes on: the latter while it is held when it has only
        now read that it was let go in between, and has not yet read that it is held again."""
        if not self._reasons:
            return
        self._forget_timer()
        if gave_memory:
            self.gave_memory.set()
        self._note(still=paused or self.is_stopped)
        if not paused and not self.is_stopped:
            self._expect_answer()

    def end(self) -> None:
        """Let it go on, and never hold it again: it is to end."""
        self._is_over = True
        if self._reasons:
            self._reasons.clear()
            self._go_on()

    # -- inside ----------------------------------------------------------------------------------

    def _expect_answer(self) -> None:
        if self._stops:
            self._timer = asyncio.get_running_loop().call_later(PAUSE_GRACE_S, self._stop)

    def _forget_timer(self) -> None:
        self._is_late = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _stop(self) -> None:
        """Stop it by signal, or as soon as it is up: before that it would outlive the server."""
        self._forget_timer()
        self._is_late = not self._is_up
        if self._is_up and self._child.signal_group(signal.SIGSTOP):
            self._stopped_at = self._monotonic()
            self._note(still=True)

    def _go_on(self) -> None:
        self._forget_timer()
        self.gave_memory.clear()
        still_s = self._monotonic() - self._since if self._is_still else 0.0
        self._child.channel.send(PauseJob(False, still_s))
        if self._stopped_at is not None:
            self._heard_at += self._monotonic() - max(self._stopped_at, self._heard_at)
            self._stopped_at = None
            self._child.signal_group(signal.SIGCONT)
        self._note(still=False)

    def _note(self, *, still: bool) -> None:
        if still != self._is_still:
            self._active_s = self.active_s()
            self._is_still, self._since = still, self._monotonic()

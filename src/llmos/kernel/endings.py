"""Ending one worker early: it is asked to, then told to, then killed."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

from llmos.kernel.child import Child
from llmos.kernel.holds import Hold
from llmos.kernel.protocol import CancelJob

CANCEL_WITHIN_S = 2.0
"""A worker whose job is cancelled is told to end, by SIGTERM, when it has not after so long."""
LEAVE_WITHIN_S = 15.0
"""The same of one that is preempted, which finishes a step and writes a checkpoint first."""
KILL_AFTER_S = 2.0
"""One that was told to end is killed after so long."""


class Ending:
    """Ends one worker, once there is a reason to. Belongs to one event loop.

    Args:
        hold: lets it go on, as one that stands still cannot end.
        on_park: called when it has given its device's memory up instead of leaving; None: it
            cannot, or computes on the CPU, whose memory is the host's: only leaving frees any.

    Attributes:
        is_leaving: it was preempted, so its job is to be queued again, unless it can be parked.
        is_done: set by whoever knows that the worker is gone.
    """

    def __init__(self, child: Child, hold: Hold, on_park: Callable[[], None] | None = None) -> None:
        self._child = child
        self._hold = hold
        self._on_park = on_park
        self._task: asyncio.Task[None] | None = None
        self._is_cancelled = False
        self.is_leaving = False
        self.is_done = asyncio.Event()

    def cancel(self) -> None:
        """End it within 4 seconds and a moment; no-op when that goes on already."""
        if not self._is_cancelled:
            self._is_cancelled = True
            self._begin(CancelJob(), CANCEL_WITHIN_S)

    def leave(self) -> None:
        """Have it keep what it has done and end; no-op when it is to end already. Where it can,
        it moves what it has in its device's memory to the host instead, and stands still."""
        if self._is_cancelled or self.is_leaving or self._hold.is_parked:
            return
        self.is_leaving = True
        if self._on_park is None:
            self._begin(CancelJob(keep=True), LEAVE_WITHIN_S)
        else:
            self._hold.add("preempted", give_memory=True)
            self._task = asyncio.create_task(self._park(self._on_park), name="park")

    async def _park(self, on_park: Callable[[], None]) -> None:
        try:
            await asyncio.wait_for(self._hold.gave_memory.wait(), LEAVE_WITHIN_S)
        except TimeoutError:
            self._task = None
            self._begin(CancelJob(keep=True), LEAVE_WITHIN_S)
        else:
            self.is_leaving = False
            on_park()

    def _begin(self, message: CancelJob, within_s: float) -> None:
        if self._task is not None:
            self._task.cancel()
        self._child.channel.send(message)
        self._hold.end()
        self._task = asyncio.create_task(self._insist(within_s), name=f"end-{self._child.pid}")

    async def _insist(self, within_s: float) -> None:
        for wait_s, number in ((within_s, signal.SIGTERM), (KILL_AFTER_S, signal.SIGKILL)):
            try:
                await asyncio.wait_for(self.is_done.wait(), wait_s)
            except TimeoutError:
                self._child.signal(number)
            else:
                return

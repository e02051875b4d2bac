"""Keeps the engine process alive while it is needed, and passes messages to and from it."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from llmos.kernel.child import Child, describe_exit
from llmos.kernel.protocol import FromEngine, SetThreads, ToEngine

END_GRACE_S = 2.0

log = logging.getLogger(__name__)


class EngineLink:
    """One engine process at a time, started when `need` was called and none runs.

    Args:
        module: run as ``python -m module FD``.
        on_up: called when the process takes messages.
        on_message: called with each message of the process.
        on_down: called with the reason once the process has ended and was reaped.
    """

    def __init__(
        self,
        module: str,
        log_path: Path,
        environ: Mapping[str, str],
        *,
        on_up: Callable[[], None],
        on_message: Callable[[FromEngine], None],
        on_down: Callable[[str], None],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._module = module
        self._log_path = log_path
        self._environ = environ
        self._on_up = on_up
        self._on_message = on_message
        self._on_down = on_down
        self._needed = asyncio.Event()
        self._child: Child | None = None
        self._kill_reason = ""
        self._task: asyncio.Task[None] | None = None
        self._threads: int | None = None
        self._monotonic = monotonic
        self._heard_at = 0.0
        self._down_at: float | None = None
        """When the last process died (monotonic seconds), until the next one says something."""

    @property
    def is_up(self) -> bool:
        return self._child is not None

    @property
    def pid(self) -> int | None:
        """Process id of the engine; None while there is none."""
        return self._child.pid if self._child else None

    def need(self) -> None:
        """See to it that a process runs, or will; `on_up` follows unless one is up already."""
        if self._child is None:
            self._needed.set()
            if self._task is None or self._task.done():
                self._task = asyncio.create_task(self._run(), name="engine-link")

    def send(self, message: ToEngine) -> None:
        """Send a message; dropped while no process is up, as `on_up` starts from nothing.

        Raises:
            UnsendableError: it cannot be encoded; nothing was sent.
        """
        if self._child:
            self._child.channel.send(message)

    def set_threads(self, threads: int) -> None:
        """Have this process, and those after it, compute with so many threads at most."""
        if threads != self._threads:
            self._threads = threads
            self.send(SetThreads(threads))

    def end_if_silent(self, since: float, longest_s: float) -> None:
        """End a process that has had work since then (monotonic seconds) and that has said nothing
        for so long: it hangs."""
        if self._monotonic() - max(since, self._heard_at) > longest_s:
            self.kill(f"hung: it had work and said nothing for {longest_s:g} s")

    def kill(self, reason: str) -> None:
        """End the process at once, if there is one; `on_down` follows with ``reason``."""
        if self._child:
            self._kill_reason = reason
            self._child.signal(signal.SIGKILL)

    async def stop(self) -> None:
        """End the process, if any."""
        if self._task:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    async def _run(self) -> None:
        while True:
            await self._needed.wait()
            self._needed.clear()
            reason = await self._live()
            self._down_at = self._down_at or self._monotonic()
            try:
                self._on_down(reason)
            except Exception:  # the engine's top loop: the next life must not depend on this one
                log.exception("the end of an engine could not be dealt with")

    async def _live(self) -> str:
        """Run one process from start to end; return how it ended."""
        try:
            child = await Child.start(self._module, FromEngine, self._log_path, self._environ)
        except OSError as error:
            return f"cannot be started: {error}"
        try:
            return await self._attend(child)
        except Exception as error:  # the engine's top loop: one life that fails is not the last
            log.exception("the engine was ended, as what it said could not be dealt with")
            return f"was ended: {type(error).__name__}: {error}"

    async def _attend(self, child: Child) -> str:
        """Pass messages on until the process ends; return how it did."""
        self._child, self._kill_reason = child, ""
        grace_s, reason = END_GRACE_S, ""
        try:
            if self._threads is not None:
                self.send(SetThreads(self._threads))
            self._on_up()
            while messages := await child.channel.receive():
                self._heard_at = self._monotonic()
                self._note_back()
                for message in messages:
                    self._on_message(message)
        except ValueError as error:
            log.warning("the engine is ended", exc_info=error)
            grace_s, reason = 0.0, f"sent what is no message: {error}"
        finally:
            self._child = None
            status = await child.end(grace_s)
        return reason or self._kill_reason or describe_exit(status)

    def _note_back(self) -> None:
        if self._down_at is not None:
            passed_s = self._monotonic() - self._down_at
            log.info("the engine is back, %.1f s after the last one ended", passed_s)
            self._down_at = None

"""A kernel on a home of its own, for tests with real worker processes (`kernel_children`)."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path

from llmos.kernel.jobs import BACKOFF_LIMIT_S, Job, JobEvent
from llmos.kernel.kernel import Kernel
from llmos.kernel.ledger import Ledger
from llmos.settings import Settings
from llmos.storage.database import Database
from llmos.types import Priority


class NoDelay(random.Random):
    """Draws retries at once."""

    def uniform(self, a: float, b: float) -> float:
        return a


class LongDelay(random.Random):
    """Draws retries that no test lives to see."""

    def uniform(self, a: float, b: float) -> float:
        return BACKOFF_LIMIT_S


class Clock:
    """A clock that tests move: real seconds plus ``ahead``."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


class Harness:
    """A kernel on a home, and what its jobs committed.

    Args:
        rng: draws the delays of retries; as good as none, unless another is given.
        settings: as far as they are not the defaults.
    """

    def __init__(
        self,
        home: Path,
        rng: random.Random | None = None,
        *,
        on_cpu: bool = True,
        capacity_bytes: int = 1000,
        **settings: object,
    ) -> None:
        from kernel_children.handlers import KINDS

        self.settings = Settings(home=home, **({"threads": 1} | settings))
        self.database = Database.open(self.settings.database_path)
        self.monotonic = Clock()
        self.committed: list[tuple[int, str]] = []
        self.refusals: list[Exception] = []
        self.kernel = Kernel(
            self.database,
            Ledger(capacity_bytes),
            KINDS,
            self.settings,
            time.time,
            self._commit,
            rng=rng or NoDelay(),
            on_cpu=on_cpu,
            engine_module="kernel_children.echo_host",
            monotonic=self.monotonic,
        )

    def _commit(self, connection: object, job: Job, result) -> list[str]:
        if self.refusals:
            raise self.refusals.pop()
        for artifact in result.artifacts:
            self.committed.append((job.id, artifact.name))
        return [artifact.name for artifact in result.artifacts]

    async def submit(
        self, kind: str, priority: Priority = Priority.STANDARD, **params: object
    ) -> Job:
        return await self.kernel.jobs.submit(kind, params, owner="o", priority=priority)

    async def until(self, job: Job, matches: Callable[[JobEvent], bool]) -> JobEvent:
        """Follow a job up to an event."""
        async with aclosing(self.kernel.follow(job.id)) as events:
            async for event in events:
                if matches(event):
                    return event
        raise AssertionError(f"the job ended first: {await self.kernel.jobs.get(job.id)}")

    async def until_logged(self, job: Job, line: str) -> None:
        await self.until(job, lambda event: event.data.get("line") == line)

    async def ended(self, job: Job) -> Job:
        async with aclosing(self.kernel.follow(job.id)) as events:
            async for _ in events:
                pass
        return await self.kernel.jobs.get(job.id)

    async def logged(self, job: Job) -> list[str]:
        events = await self.kernel.jobs.events(job.id)
        return [event.data["line"] for event in events if event.type == "log"]

    async def close(self) -> None:
        await self.kernel.stop()
        self.database.close()

"""Stands in for a server that runs pipelines: ``python -m kernel_children.pipelines HOME SOURCE``
starts a run and prints a line per event of its jobs, until it is killed.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

from kernel_children.handlers import KINDS
from llmos.apps.runs import Runs
from llmos.apps.submitting import Submitter
from llmos.kernel.events import EVERYONES_JOBS
from llmos.kernel.kernel import Kernel
from llmos.kernel.ledger import Ledger
from llmos.library.artifacts import Library
from llmos.library.deployments import Deployments
from llmos.library.feedback import FeedbackStore
from llmos.security.actors import Actor
from llmos.settings import Settings
from llmos.storage.blobs import BlobStore
from llmos.storage.database import Database

ALICE = Actor("k1", "alice", "user")


class RunsEnded:
    """An outbox that only notes what became of runs."""

    def __init__(self) -> None:
        self.states: list[str] = []
        self.arrived = asyncio.Event()

    def wants(self, owner: str) -> bool:
        return True

    def put(self, connection: Any, owner: str, event: str, data: dict[str, Any], at: float) -> None:
        if data["finished_at"] is not None:
            self.states.append(data["state"])

    def wake(self) -> None:
        if self.states:
            self.arrived.set()


class Home:
    """A kernel, a library and runs on one directory, between `start` and `close`."""

    def __init__(self, home: Path) -> None:
        settings = Settings(home=home, threads=1)
        blobs = BlobStore(settings.blobs_path)
        self.database = Database.open(settings.database_path)
        self.library = Library(self.database, blobs, time.time, home / "models")
        self.kernel = Kernel(
            self.database,
            Ledger(10**9),
            KINDS,
            settings,
            time.time,
            lambda connection, job, result: [
                self.library.commit(connection, new, job.owner, job.id, time.time(), job.owner).ref
                for new in result.artifacts
            ],
            rng=random.Random(0),
        )
        self.ended = RunsEnded()
        deployments = Deployments(self.database, time.time)
        feedback = FeedbackStore(self.database, time.time)
        submitter = Submitter(self.kernel.jobs, self.library, blobs, deployments, feedback)
        self.runs = Runs(
            self.database, self.kernel.jobs, submitter, time.time, lambda _: None, outbox=self.ended
        )

    async def start(self) -> None:
        await self.kernel.start()
        await self.runs.open()

    async def close(self) -> None:
        await self.runs.close()
        await self.kernel.stop()
        self.database.close()


async def main(home: Path, source: dict[str, Any]) -> None:
    opened = Home(home)
    await opened.start()
    with opened.kernel.events.subscribe(EVERYONES_JOBS) as events:
        await opened.runs.start(ALICE, source)
        async for event in events:
            print(json.dumps({"job": event.job_id, "data": event.data}), flush=True)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), json.loads(sys.argv[2])))

"""Stands in for a server that has webhooks: ``python -m kernel_children.telling HOME URL COUNT``.

Runs so many jobs whose events are put down for URL and sent by nobody; prints a line when all have
ended, and goes on until it is killed.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from pathlib import Path

from kernel_children.handlers import KINDS
from llmos.kernel.kernel import Kernel
from llmos.kernel.ledger import Ledger
from llmos.kernel.webhooks import EVENTS, Webhooks
from llmos.security.actors import Actor
from llmos.security.outbound import Outbound
from llmos.settings import Settings
from llmos.storage.database import Database


async def main(home: Path, url: str, count: int) -> None:
    settings = Settings(home=home, threads=1)
    database = Database.open(settings.database_path)
    hooks = Webhooks(database, time.time, Outbound(allow_private=True).check)
    await hooks.add(url, EVENTS, Actor("k", "o", "user"))
    kernel = Kernel(
        database,
        Ledger(10**9),
        KINDS,
        settings,
        time.time,
        lambda connection, job, result: (),
        rng=random.Random(0),
        outbox=hooks,
    )
    await kernel.start()
    jobs = [await kernel.jobs.submit("double", {"value": n}, owner="o") for n in range(count)]
    for job in jobs:
        async for _ in kernel.follow(job.id):
            pass
    print("ended", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
